package stdio

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// groupAttr puts a child into a process group of its own. macOS has no parent-death signal: a child of a gateway that was killed
// sees the end of its stdin.
func groupAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// waitUnreaped returns once the child has ended, and leaves it a zombie, so that its process group's number stays taken.
func waitUnreaped(pid int) {
	kq, err := unix.Kqueue()
	if err != nil {
		return // out of descriptors: better no child than one that nobody watches
	}
	defer unix.Close(kq)
	change := []unix.Kevent_t{{Ident: uint64(pid), Filter: unix.EVFILT_PROC, Flags: unix.EV_ADD | unix.EV_ONESHOT, Fflags: unix.NOTE_EXIT}}
	event := make([]unix.Kevent_t, 1)
	for {
		n, err := unix.Kevent(kq, change, event, nil)
		if err == unix.EINTR {
			continue
		}
		if n > 0 || err != nil {
			return
		}
	}
}
