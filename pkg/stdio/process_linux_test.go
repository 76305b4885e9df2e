package stdio

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// A gateway that is killed takes its children with it, those that ignore everything included.
func TestKilledGateway(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	gateway := exec.Command(os.Args[0])
	gateway.Env = append(os.Environ(), playEnv+"=gateway", fifoEnv+"="+fifo, socketEnv+"="+filepath.Join(dir, "s"))
	if err := gateway.Start(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(fifo) // blocks until the child opens its end
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if line, err := io.ReadAll(io.LimitReader(f, 6)); err != nil || string(line) != "alive\n" {
		t.Fatalf("%q %v", line, err)
	}
	if err := gateway.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = gateway.Wait()
	if _, err := f.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %v, want the end of the pipe", err)
	}
}
