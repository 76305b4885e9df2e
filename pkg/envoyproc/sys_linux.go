package envoyproc

import "syscall"

// attributes: a group of its own, so that a Ctrl-C at the terminal reaches mcpgw alone, which then drains;
// and death with the parent. The kernel means the thread that started the child, see Process.run.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
