package stdio

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// groupAttr puts a child into a process group of its own and has the kernel kill it when we die, however we die. The signal reaches
// the child alone; its descendants see the end of their pipes.
func groupAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// waitUnreaped returns once the child has ended, and leaves it a zombie, so that its process group's number stays taken.
func waitUnreaped(pid int) {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
