package socket

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerPID is the process that opened the connection (unix(7), SO_PEERCRED).
func peerPID(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var oerr error
	if err := raw.Control(func(fd uintptr) { cred, oerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if oerr != nil {
		return 0, oerr
	}
	return int(cred.Pid), nil
}
