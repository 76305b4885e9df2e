package harness

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Limits of patience. They only bound how long a failing test takes: a passing one never waits for them.
const (
	readyTimeout = 30 * time.Second
	stopTimeout  = 15 * time.Second
	pollInterval = 5 * time.Millisecond
)

// Command says what to start.
type Command struct {
	Name string   // what a failure calls it; the path where empty
	Path string   // the program
	Args []string // its arguments, without the program
	Env  []string // "KEY=value", on top of the test's own environment
	Dir  string   // working directory; the test's own where empty
}

// Process is a running child. Its methods may be used from any goroutine, except those that take a test.
type Process struct {
	Stdout, Stderr *Output

	name   string
	cmd    *exec.Cmd
	ended  chan struct{} // closed once the child was waited for; status is set before
	status *os.ProcessState
}

// Start starts a child in a process group of its own. When the test ends it is asked to stop
// (SIGTERM), then killed with all of its group; a child that needs the kill, or leaves one of its own
// behind, fails the test. Its output is shown only when the test has failed.
func Start(t testing.TB, c Command) *Process {
	t.Helper()
	if c.Name == "" {
		c.Name = c.Path
	}
	p := &Process{Stdout: newOutput(), Stderr: newOutput(), name: c.Name, ended: make(chan struct{})}
	p.cmd = exec.Command(c.Path, c.Args...) // not CommandContext: the test's context ends before Cleanup runs
	p.cmd.Env = append(os.Environ(), c.Env...)
	p.cmd.Dir = c.Dir
	p.cmd.Stdout, p.cmd.Stderr = p.Stdout, p.Stderr
	p.cmd.SysProcAttr = childAttributes()
	// A grandchild may hold the output open after the child is gone: then Wait must not hang.
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", c.Name, err)
	}
	go func() {
		_ = p.cmd.Wait() // the status says all that the error would
		p.status = p.cmd.ProcessState
		p.Stdout.close()
		p.Stderr.close()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.end(t)
		if t.Failed() {
			t.Logf("%s (pid %d, %v)\n--- stdout\n%s\n--- stderr\n%s", p.name, p.Pid(), p.status, p.Stdout, p.Stderr)
		}
	})
	return p
}

// Pid returns the child's process id, which is its group's as well.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends a signal to the child alone, not to its group.
func (p *Process) Signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("signal %v to %s: %v", s, p.name, err)
	}
}

// Ended is closed when the child has ended and its output is complete.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Wait waits until the child has ended and returns its exit status, -1 after a signal.
func (p *Process) Wait(t testing.TB, patience time.Duration) int {
	t.Helper()
	select {
	case <-p.ended:
		return p.status.ExitCode()
	case <-time.After(patience):
		t.Fatalf("%s (pid %d) still runs after %v", p.name, p.Pid(), patience)
		return 0
	}
}

// Stop asks the child to stop, waits for it and returns its exit status.
func (p *Process) Stop(t testing.TB) int {
	t.Helper()
	p.Signal(t, syscall.SIGTERM)
	return p.Wait(t, stopTimeout)
}

// Kill ends the child and its whole group at once, as a crash would.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	_ = syscall.Kill(-p.Pid(), syscall.SIGKILL) // ESRCH: gone already, which is what was asked for
	p.Wait(t, stopTimeout)
}

// end is Cleanup's part: it may not use Fatal, since later cleanups have to run.
func (p *Process) end(t testing.TB) {
	_ = syscall.Kill(p.Pid(), syscall.SIGCONT) // a stopped process reads no SIGTERM
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(stopTimeout):
		t.Errorf("%s (pid %d) did not stop within %v of SIGTERM", p.name, p.Pid(), stopTimeout)
	}
	// The child's own children may be just ending.
	left := func() bool { return populated(p.Pid()) }
	for deadline := time.Now().Add(2 * time.Second); left() && time.Now().Before(deadline); {
		time.Sleep(pollInterval)
	}
	if left() {
		_ = syscall.Kill(-p.Pid(), syscall.SIGKILL)
		<-p.ended
		t.Errorf("%s (pid %d) left processes of its group behind", p.name, p.Pid())
	}
}

// Output is what a child has written to one of its streams; past 8 MiB the oldest half is dropped.
type Output struct {
	mu      sync.Mutex
	text    []byte
	changed chan struct{} // closed and replaced at each write
	closed  bool
}

const outputLimit = 8 << 20

func newOutput() *Output { return &Output{changed: make(chan struct{})} }

// Write appends what the child wrote; it never fails.
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, b...)
	if len(o.text) > outputLimit {
		o.text = append([]byte(nil), o.text[len(o.text)-outputLimit/2:]...)
	}
	close(o.changed)
	o.changed = make(chan struct{})
	return len(b), nil
}

func (o *Output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	close(o.changed)
	o.changed = make(chan struct{})
}

// String returns all that was kept so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

// Lines returns the complete lines so far, without their ends.
func (o *Output) Lines() []string {
	text, _, ok := cutLast(o.String(), "\n")
	if !ok {
		return nil
	}
	return strings.Split(text, "\n")
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// Await waits until the output matches and returns the match and its groups. It is fatal when the
// stream ends first, or when the patience does.
func (o *Output) Await(t testing.TB, pattern string, patience time.Duration) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		o.mu.Lock()
		found, changed, closed := re.FindSubmatch(o.text), o.changed, o.closed
		o.mu.Unlock()
		if found != nil {
			groups := make([]string, len(found))
			for i, group := range found {
				groups[i] = string(group)
			}
			return groups
		}
		if closed {
			t.Fatalf("the output ended without %q:\n%s", pattern, o)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("no %q in the output within %v:\n%s", pattern, patience, o)
		}
	}
}

// Eventually waits until what holds, asking again and again. It is for facts of another process that
// nobody announces; what can be waited for should be.
func Eventually(t testing.TB, patience time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(pollInterval) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
