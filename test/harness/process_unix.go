//go:build unix && !linux

package harness

import "syscall"

// childAttributes puts a child in a process group of its own, so that one signal reaches its
// children too. Only Linux can also tie a child's life to its parent's.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// populated tells whether a process group has members: signal 0 only asks.
func populated(group int) bool { return syscall.Kill(-group, 0) == nil }
