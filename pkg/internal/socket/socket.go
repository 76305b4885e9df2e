// Package socket opens the unix sockets on which the gateway and its Envoy meet: replaced where a dead process left one, closed to
// other users, and where it is wanted to every process but one.
package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"
)

// MaxPath is the longest path that every supported system takes (sun_path of macOS, less its final zero).
const MaxPath = 103

// Options say who may connect. The zero value admits everybody who may open the socket: its owner, since its mode is 0600.
type Options struct {
	// Peer is the one process, beside our own, that may connect; 0 admits our own alone. Nil admits all.
	Peer func() int
	// Refused is told of every connection that was closed for its process. It may be nil.
	Refused func(pid int, err error)
}

// Listen opens the socket. One that a dead process left behind is replaced; a file of another kind, or a socket that is served, is not.
func Listen(path string, o Options) (net.Listener, error) {
	if len(path) > MaxPath {
		return nil, fmt.Errorf("socket path %s has %d bytes; the system takes %d", path, len(path), MaxPath)
	}
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("socket: %s exists and is no socket", path)
	default:
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			_ = c.Close() // nothing was sent
			return nil, fmt.Errorf("socket: another process serves on %s; end it, or name another directory", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("socket: %w", err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close() // the first error is the one that counts
		return nil, fmt.Errorf("socket: %w", err)
	}
	if o.Peer == nil {
		return l, nil
	}
	return gate{l, o}, nil
}

// gate is a listener that knows its callers.
type gate struct {
	*net.UnixListener
	o Options
}

// Accept returns connections of admitted processes and closes all others.
func (g gate) Accept() (net.Conn, error) {
	for {
		c, err := g.AcceptUnix()
		if err != nil {
			return nil, err
		}
		pid, err := peerPID(c)
		if err == nil && (pid == os.Getpid() || pid != 0 && pid == g.o.Peer()) {
			return c, nil
		}
		_ = c.Close() // it was never ours
		if g.o.Refused != nil {
			g.o.Refused(pid, err)
		}
	}
}
