package socket_test

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/pkg/internal/socket"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("SOCKET_TEST_DIAL"); path != "" { // this program as another process
		c, err := net.Dial("unix", path)
		if err != nil {
			os.Exit(3)
		}
		line, _ := bufio.NewReader(c).ReadString('\n')
		if line != "welcome\n" {
			os.Exit(4)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// dial connects from another process and returns its exit status: 0 welcomed, 4 closed.
func dial(t *testing.T, path string, started func(pid int)) int {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "SOCKET_TEST_DIAL="+path)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if started != nil {
		started(c.Process.Pid)
	}
	_ = c.Wait()
	return c.ProcessState.ExitCode()
}

func serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = c.Write([]byte("welcome\n"))
		_ = c.Close()
	}
}

func TestOnlyTheNamedProcessIsAdmitted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	pids := make(chan int, 1)
	refused := make(chan int, 1)
	l, err := socket.Listen(path, socket.Options{Peer: func() int { return <-pids }, Refused: func(pid int, _ error) { refused <- pid }})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go serve(l)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if got := dial(t, path, func(pid int) { pids <- pid }); got != 0 {
		t.Errorf("the named process: exit %d", got)
	}
	other := 0
	if got := dial(t, path, func(pid int) { other = pid; pids <- pid + 1 }); got != 4 {
		t.Errorf("another process: exit %d", got)
	}
	select {
	case pid := <-refused:
		if pid != other {
			t.Errorf("refused %d, want %d", pid, other)
		}
	case <-time.After(5 * time.Second):
		t.Error("the refusal was not told")
	}
	c, err := net.Dial("unix", path) // our own process needs no naming
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if line, _ := bufio.NewReader(c).ReadString('\n'); line != "welcome\n" {
		t.Errorf("our own process got %q", line)
	}
}

func TestListenReplacesOnlyWhatIsDead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	l, err := socket.Listen(path, socket.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := socket.Listen(path, socket.Options{}); err == nil || !strings.Contains(err.Error(), "another process serves") {
		t.Errorf("a socket that is served: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	l, err = socket.Listen(path, socket.Options{})
	if err != nil {
		t.Fatalf("a dead socket: %v", err)
	}
	_ = l.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := socket.Listen(file, socket.Options{}); err == nil {
		t.Error("a file was replaced")
	}
	if _, err := socket.Listen(filepath.Join(dir, strings.Repeat("x", 200)), socket.Options{}); err == nil {
		t.Error("a long path was taken")
	}
}
