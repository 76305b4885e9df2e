package harness

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// Listening waits until the child listens on TCP and returns its first address. So a program that
// takes port 0 but does not say which port it got can be used without reserving one beforehand, which
// another process might take in between.
func (p *Process) Listening(t testing.TB) string {
	t.Helper()
	var found []netip.AddrPort
	Eventually(t, readyTimeout, p.name+" listens", func() bool {
		select {
		case <-p.ended:
			t.Fatalf("%s ended before it listened (%v):\n%s%s", p.name, p.status, p.Stdout, p.Stderr)
		default:
		}
		var err error
		if found, err = listeners(p.Pid()); err != nil {
			t.Fatalf("asking which ports %s listens on: %v", p.name, err)
		}
		return len(found) > 0
	})
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(found[0].Port())))
}

// listeners returns the TCP addresses on which a process listens.
func listeners(pid int) ([]netip.AddrPort, error) {
	if runtime.GOOS != "linux" {
		return lsof(pid)
	}
	inodes := map[string]bool{}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if errors.Is(err, fs.ErrNotExist) {
			continue // closed since
		} else if err != nil {
			return nil, err
		}
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	var found []netip.AddrPort
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the process is gone, or the machine has no IPv6
		} else if err != nil {
			return nil, err
		}
		// sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode; 0A is LISTEN.
		for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			if len(fields) < 10 || fields[3] != "0A" || !inodes[fields[9]] {
				continue
			}
			address, err := kernelAddress(fields[1])
			if err != nil {
				return nil, err
			}
			found = append(found, address)
		}
	}
	return found, nil
}

// kernelAddress reads "0100007F:1F90": the address as 32-bit words in the machine's byte order, the port in hex.
func kernelAddress(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	if err != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, fmt.Errorf("address %q of /proc/net/tcp: %w", s, err)
	}
	for i := 0; i < len(b); i += 4 { // x86_64 and arm64 are both little-endian
		b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
	}
	address, _ := netip.AddrFromSlice(b)
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port of %q: %w", s, err)
	}
	return netip.AddrPortFrom(address, uint16(n)), nil
}

// lsof is the way where there is no /proc. Its machine-readable lines begin with n for a name.
func lsof(pid int) ([]netip.AddrPort, error) {
	out, err := exec.Command("lsof", "-nP", "-a", "-p", strconv.Itoa(pid), "-iTCP", "-sTCP:LISTEN", "-Fn").Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) { // it exits 1 when nothing matches
		return nil, err
	}
	var found []netip.AddrPort
	for _, line := range strings.Split(string(out), "\n") {
		name, ok := strings.CutPrefix(line, "n")
		if !ok {
			continue
		}
		_, port, _ := cutLast(name, ":")
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("lsof says %q: %w", line, err)
		}
		found = append(found, netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(n)))
	}
	return found, nil
}
