package config

import (
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

// maxSocketPath is what fits into a unix socket's address on every system that
// is supported (macOS takes 104 bytes with the closing zero, Linux 108).
const maxSocketPath = 103

// Address is where something listens.
type Address struct {
	Network string // "tcp" or "unix", as net.Listen takes it
	Address string // "ip:port", or the socket's path
}

// ParseAddress reads `IP:PORT`, `localhost:PORT` (which is 127.0.0.1) or
// `unix:PATH`.
func ParseAddress(s string) (Address, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		switch {
		case path == "":
			return Address{}, errors.New("the socket has no path")
		case strings.ContainsRune(path, 0):
			return Address{}, errors.New("the socket's path holds a zero byte")
		}
		return Address{"unix", path}, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Address{}, errors.New("is not host and port")
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Zone() != "" {
		return Address{}, errors.New("the host is not an IP address")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Address{}, errors.New("the port is not a number from 0 to 65535")
	}
	return Address{"tcp", netip.AddrPortFrom(ip, uint16(n)).String()}, nil
}

// String is the address as ParseAddress reads it.
func (a Address) String() string {
	if a.Network == "unix" {
		return "unix:" + a.Address
	}
	return a.Address
}

// Local says that only this machine can reach it: a loopback address or a unix
// socket.
func (a Address) Local() bool {
	if a.Network == "unix" {
		return true
	}
	ap, err := netip.ParseAddrPort(a.Address)
	return err == nil && ap.Addr().Unmap().IsLoopback()
}

// fixed is false for port 0, which two listeners may both ask for.
func (a Address) fixed() bool { return a.Network == "unix" || !strings.HasSuffix(a.Address, ":0") }

// in takes a relative socket path from dir.
func (a Address) in(dir string) (Address, error) {
	if a.Network != "unix" {
		return a, nil
	}
	if !filepath.IsAbs(a.Address) {
		a.Address = filepath.Join(dir, a.Address)
	}
	if len(a.Address) > maxSocketPath {
		return a, errors.New("the socket's path " + a.Address + " is longer than " + strconv.Itoa(maxSocketPath) + " bytes")
	}
	return a, nil
}

// localHost says that a URL's host is this machine.
func localHost(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
