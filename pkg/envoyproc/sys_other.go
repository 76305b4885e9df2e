//go:build !linux

package envoyproc

import "syscall"

// attributes: a group of its own, so that a Ctrl-C at the terminal reaches mcpgw alone, which then drains.
// Only Linux can tie the child's life to ours.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
