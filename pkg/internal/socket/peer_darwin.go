package socket

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerPID is the process that opened the connection (LOCAL_PEERPID of sys/un.h).
func peerPID(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var pid int
	var oerr error
	if err := raw.Control(func(fd uintptr) { pid, oerr = unix.GetsockoptInt(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERPID) }); err != nil {
		return 0, err
	}
	return pid, oerr
}
