package envoyproc

import "syscall"

// group puts the child into a process group of its own and has the kernel kill it when we die, however we die.
func group() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
