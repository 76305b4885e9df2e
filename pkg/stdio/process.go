package stdio

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// stopStep is how long a child gets at each step of its end: after stdin was closed, and after SIGTERM.
const stopStep = 2 * time.Second

// drainTime is how long pipes are still read after a child's death. Its group is dead too by then; only a descendant that left the
// group can hold a pipe open longer.
const drainTime = time.Second

// starter starts children from one OS thread. On Linux a child's parent-death signal comes when the thread that started it ends, not
// when the process does; the Go runtime ends threads as it likes unless a goroutine is locked to them. So one goroutine a Server
// holds a thread for as long as the Server runs, and nothing else starts children.
type starter chan func()

// run serves starts until the channel is closed, which must come after the last child's death.
func (s starter) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for start := range s {
		start()
	}
}

// do runs f on the starter's thread and waits for it.
func (s starter) do(f func()) {
	done := make(chan struct{})
	s <- func() { defer close(done); f() }
	<-done
}

// process is one child with its pipes. It leads a process group of its own, and the group ends with it.
type process struct {
	pid    int
	stdin  *os.File      // our end
	stdout *os.File      // our end; reads end soon after the child's death
	exited chan struct{} // closed once the child is reaped, its group killed and stderr read to the end
	status string        // how it ended; set before exited is closed

	mu     sync.Mutex // guards reaped: after it the number may belong to another process
	reaped bool
}

// startProcess starts the command. It blocks for as long as the operating system needs to execute it.
func startProcess(o *Options, threads starter, log *slog.Logger, dropped *atomic.Int64) (*process, error) {
	cmd := exec.Command(o.Command, o.Args...)
	cmd.Dir = o.Dir
	attr, home, err := credential(o.User)
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = attr
	cmd.Env = environment(o, home)

	var pipes [3][2]*os.File // stdin, stdout, stderr; read end first
	for i := range pipes {
		if pipes[i][0], pipes[i][1], err = os.Pipe(); err != nil {
			closePipes(pipes)
			return nil, fmt.Errorf("pipe for the child: %w", err)
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = pipes[0][0], pipes[1][1], pipes[2][1]
	threads.do(func() { err = cmd.Start() })
	if err != nil {
		closePipes(pipes)
		return nil, fmt.Errorf("starting %s: %w", o.Command, err)
	}
	for _, f := range []*os.File{pipes[0][0], pipes[1][1], pipes[2][1]} {
		f.Close() // the child has its own
	}
	p := &process{pid: cmd.Process.Pid, stdin: pipes[0][1], stdout: pipes[1][0], exited: make(chan struct{})}
	stderr := pipes[2][0]
	read := make(chan struct{})
	go func() { // ends with the pipe
		defer close(read)
		newBoundedLog(log.With("pid", p.pid), "stderr", dropped).copy(stderr)
	}()
	go func() { // ends with the child
		defer close(p.exited)
		waitUnreaped(p.pid)
		p.mu.Lock()
		// Before reaping: until then the number cannot have been given to another process.
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
		err := cmd.Wait()
		p.reaped = true
		p.mu.Unlock()
		p.status = "exit status 0"
		if err != nil {
			p.status = err.Error()
		}
		end := time.Now().Add(drainTime)
		_ = p.stdout.SetReadDeadline(end) // the pipe's reader closes it
		_ = stderr.SetReadDeadline(end)
		<-read
		stderr.Close()
	}()
	return p, nil
}

func closePipes(pipes [3][2]*os.File) {
	for _, p := range pipes {
		for _, f := range p {
			if f != nil {
				f.Close()
			}
		}
	}
}

// signal sends sig to the child's group, unless the child is gone already.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		_ = syscall.Kill(-p.pid, sig)
	}
}

// stop ends the child the way the specification asks for ("stdio", Shutdown) and returns once it is gone. It may be called more than
// once and at the same time.
func (p *process) stop() {
	p.stdin.Close()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t := time.NewTimer(stopStep)
		select {
		case <-p.exited:
			t.Stop()
			return
		case <-t.C:
			p.signal(sig)
		}
	}
	<-p.exited
}

// DefaultPassthrough are the variables that a child gets from the gateway's environment where Options.Passthrough is nil: enough to
// find programs, a home, a temporary directory and a language, and nothing that usually holds a secret.
var DefaultPassthrough = []string{"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"}

// environment builds the child's whole environment. Explicit pairs win over passed ones, the home of Options.User over both HOMEs
// but an explicit one.
func environment(o *Options, home string) []string {
	names := o.Passthrough
	if names == nil {
		names = DefaultPassthrough
	}
	env := []string{} // not nil, which would mean the gateway's whole environment
	for _, name := range names {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	if home != "" {
		env = append(env, "HOME="+home, "USER="+o.User, "LOGNAME="+o.User)
	}
	for name, v := range o.Env {
		env = append(env, name+"="+v)
	}
	return env // exec keeps the last of equal names
}

// credential gives the attributes of a child of the named user, and that user's home. An empty name, or our own, changes nothing.
func credential(name string) (*syscall.SysProcAttr, string, error) {
	attr := groupAttr()
	if name == "" {
		return attr, "", nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, "", fmt.Errorf("user %q: %w", name, err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, "", fmt.Errorf("user %q has the id %q, which is no number", name, u.Uid)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, "", fmt.Errorf("user %q has the group %q, which is no number", name, u.Gid)
	}
	if int(uid) == os.Geteuid() {
		return attr, "", nil
	}
	if os.Geteuid() != 0 {
		return nil, "", errors.New("user: only root may run a child as another user; run the gateway as root or leave user out")
	}
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)} // no supplementary groups: Groups is empty
	return attr, u.HomeDir, nil
}
