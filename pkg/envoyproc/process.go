package envoyproc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Options say what to run.
type Options struct {
	Binary      string        // path, see Find
	Config      []byte        // the file Envoy starts with, YAML
	Dir         string        // folder of mode 0700 in which the file is put
	Admin       string        // path of the admin socket named in Config
	Concurrency int           // worker threads; 0 = cores
	DrainTime   time.Duration // how long a draining listener still takes connections; default 5 s
	Log         *slog.Logger  // gets Envoy's log, at the levels Envoy gives
}

const (
	firstPause  = 100 * time.Millisecond
	lastPause   = 10 * time.Second
	settled     = 30 * time.Second // an Envoy that lived so long failed anew, not again
	graceful    = 2 * time.Second  // between SIGTERM and SIGKILL
	flushSpans  = 300 * time.Millisecond
	stateEvery  = 10 * time.Millisecond
	defaultWait = 5 * time.Second
)

// Process is a supervised Envoy. Its methods may be called by several goroutines.
type Process struct {
	opts  Options
	path  string
	admin *Admin
	log   *logWriter

	stopping chan struct{} // closed by the first Stop
	stopOnce sync.Once
	done     chan struct{} // closed when the supervisor has ended and no child is left
	err      error         // why it ended, set before done is closed

	mu       sync.Mutex
	child    *os.Process // nil between two children
	live     bool        // some child has been LIVE
	restarts int
}

// Start starts Envoy and supervises it until Stop, or until ctx ends, which is a Stop without patience. An
// Envoy that ends before Ready saw it live is not started again: that is a fault of its configuration or of
// the machine, told by Ready and Wait. Later it is restarted with growing pauses, for ever.
func Start(ctx context.Context, o Options) (*Process, error) {
	if o.DrainTime == 0 {
		o.DrainTime = defaultWait
	}
	if o.Concurrency == 0 {
		o.Concurrency = runtime.NumCPU()
	}
	p := &Process{
		opts: o, path: filepath.Join(o.Dir, "envoy.yaml"), admin: NewAdmin(o.Admin), log: newLogWriter(o.Log),
		stopping: make(chan struct{}), done: make(chan struct{}),
	}
	if err := os.WriteFile(p.path, o.Config, 0o600); err != nil {
		return nil, err
	}
	go p.run()
	go func() {
		select {
		case <-ctx.Done():
			p.begone()
		case <-p.done:
		}
	}()
	return p, nil
}

// run owns the child. It keeps its thread: on Linux the child is killed when the thread that started it ends.
func (p *Process) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	defer p.admin.Close()
	pause := firstPause
	for {
		begin := time.Now()
		err := p.once()
		select {
		case <-p.stopping:
			return
		default:
		}
		p.mu.Lock()
		live := p.live
		p.restarts++
		p.mu.Unlock()
		if !live {
			p.err = fmt.Errorf("envoy ended before it was ready: %w%s", err, p.log.lastWords())
			return
		}
		if time.Since(begin) > settled {
			pause = firstPause
		}
		p.opts.Log.Error("envoy ended and will be restarted", "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-p.stopping:
			return
		}
		pause = min(2*pause, lastPause)
	}
}

// once runs one child to its end.
func (p *Process) once() error {
	cmd := exec.Command(p.opts.Binary, "-c", p.path, "--disable-hot-restart",
		"--concurrency", strconv.Itoa(p.opts.Concurrency),
		"--drain-time-s", strconv.Itoa(max(1, int(p.opts.DrainTime/time.Second))), "--drain-strategy", "immediate",
		"--log-level", "warning", "--log-format", logFormat)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.WaitDelay = graceful
	cmd.SysProcAttr = attributes()
	p.mu.Lock()
	select {
	case <-p.stopping:
		p.mu.Unlock()
		return nil
	default:
	}
	err := cmd.Start()
	if err == nil {
		p.child = cmd.Process
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	err = cmd.Wait()
	p.log.flush()
	p.mu.Lock()
	p.child = nil
	p.mu.Unlock()
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// Admin is the client of this Envoy's admin socket.
func (p *Process) Admin() *Admin { return p.admin }

// Pid is the process id of the present child, 0 between two children.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child == nil {
		return 0
	}
	return p.child.Pid
}

// Restarts counts how often a child ended without being asked to.
func (p *Process) Restarts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.restarts
}

// Ready returns once Envoy is LIVE, which under xDS means that it has all of its first configuration. From
// then on an Envoy that dies is started again.
func (p *Process) Ready(ctx context.Context) error {
	tick := time.NewTicker(stateEvery)
	defer tick.Stop()
	state := "not reachable"
	for {
		if s, err := p.admin.State(ctx); err == nil {
			if state = s; s == "LIVE" {
				p.mu.Lock()
				p.live = true
				p.mu.Unlock()
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-p.done:
			if p.err != nil {
				return p.err
			}
			return errors.New("envoy was stopped")
		case <-ctx.Done():
			return fmt.Errorf("envoy is not ready, but %s: %w%s", state, ctx.Err(), p.log.lastWords())
		}
	}
}

// Done is closed when the supervisor has ended and no child is left; Wait then returns why.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for that end: nil after Stop.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Stop drains Envoy until its requests have ended or ctx does, gives its last spans time to leave, and ends
// it. No child is left when it returns. The error says which requests were cut; Envoy has ended all the same.
func (p *Process) Stop(ctx context.Context) error {
	p.stopOnce.Do(func() { close(p.stopping) }) // should Envoy die meanwhile, it stays so
	var err error
	if p.Pid() != 0 {
		if err = p.admin.Drain(ctx); err == nil {
			select {
			case <-time.After(flushSpans):
			case <-p.done:
			case <-ctx.Done():
			}
		}
	}
	p.begone()
	<-p.done
	return err
}

// begone ends the child without patience for requests: SIGTERM, then SIGKILL.
func (p *Process) begone() {
	p.mu.Lock()
	p.stopOnce.Do(func() { close(p.stopping) })
	child := p.child
	p.mu.Unlock()
	if child == nil {
		return
	}
	_ = child.Signal(syscall.SIGTERM) // an error means that it is gone already
	select {
	case <-p.done:
	case <-time.After(graceful):
		_ = child.Kill()
	}
}

// Free reports an address ("ip:port") that another process listens on. Envoy itself would not always notice:
// its sockets may share a port with those of another Envoy of the same user, and take half of its clients.
// Ask before the first start only, for afterwards the other process is our own.
func Free(ctx context.Context, address string) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%s is taken by another process: stop it, or choose another address", address)
		}
		return fmt.Errorf("cannot listen on %s: %w", address, err)
	}
	return l.Close()
}
