package stdio

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/internal/socket"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// Share says who may talk to one child.
type Share string

// The ways to share.
const (
	ShareAll     Share = "all"     // one child serves everybody
	ShareSession Share = "session" // a legacy child serves one session; a modern one has no sessions and serves everybody
)

// Options describe one stdio server. Zero values mean the default that is named.
type Options struct {
	Name    string   // the configured name, for logs and error data
	Command string   // a path, or a name that is looked up in the gateway's PATH
	Args    []string //
	Dir     string   // working directory; default the gateway's
	User    string   // run as this user; needs root unless it is our own

	Env         map[string]string // set for the child
	Passthrough []string          // names of variables that come from the gateway's environment; nil means DefaultPassthrough

	Socket  string     // path of the unix socket to serve on; its directory must exist
	PeerPID func() int // if set, only this process and our own may connect; a result of 0 admits our own alone

	Share        Share         // default ShareAll
	MaxProcesses int           // children at once with ShareSession; default 32
	SessionIdle  time.Duration // a session without calls and streams ends after it; default 30 min

	MaxRequest   int           // bytes of one message to the child; default 4 MiB
	MaxMessage   int           // bytes of one message from the child; default 16 MiB. A longer line ends the child
	MaxCalls     int           // open calls of one child; default 256
	CallTimeout  time.Duration // of a call without a byte from the child, and of a write to it; default 5 min
	ProbeTimeout time.Duration // how long server/discover may go unanswered before initialize is tried too; default 10 s

	Version string       // of the gateway, told to the child; default "dev"
	Log     *slog.Logger // default: discarded
}

// maxBodies bounds the bytes of requests that are read and not yet written to a child.
const maxBodies = 64 << 20

// admission is how long a request may wait for a child that is starting and for room under maxBodies.
const admission = 2 * time.Second

// Backoff of a child that ends: doubled from least to most, with jitter, and forgotten after a healthy time.
const (
	leastBackoff = 100 * time.Millisecond
	mostBackoff  = 30 * time.Second
	healthyTime  = time.Minute
)

// Check reports every mistake in the options that no retry can cure.
func (o Options) Check() error {
	var errs []error
	if o.Command == "" {
		errs = append(errs, errors.New("command is missing"))
	}
	if o.Socket == "" {
		errs = append(errs, errors.New("socket path is missing"))
	}
	if o.Share != "" && o.Share != ShareAll && o.Share != ShareSession {
		errs = append(errs, fmt.Errorf("share is %q; use %q or %q", o.Share, ShareAll, ShareSession))
	}
	if o.MaxRequest > maxBodies {
		errs = append(errs, fmt.Errorf("max request is %d bytes; at most %d are read at once", o.MaxRequest, maxBodies))
	}
	if min(o.MaxProcesses, o.MaxRequest, o.MaxMessage, o.MaxCalls) < 0 || min(o.SessionIdle, o.CallTimeout, o.ProbeTimeout) < 0 {
		errs = append(errs, errors.New("a bound is negative"))
	}
	if _, _, err := credential(o.User); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	o.Share = cmp.Or(o.Share, ShareAll)
	o.MaxProcesses = cmp.Or(o.MaxProcesses, 32)
	o.SessionIdle = cmp.Or(o.SessionIdle, 30*time.Minute)
	o.MaxRequest = cmp.Or(o.MaxRequest, 4<<20)
	o.MaxMessage = cmp.Or(o.MaxMessage, 16<<20)
	o.MaxCalls = cmp.Or(o.MaxCalls, 256)
	o.CallTimeout = cmp.Or(o.CallTimeout, 5*time.Minute)
	o.ProbeTimeout = cmp.Or(o.ProbeTimeout, 10*time.Second)
	o.Version = cmp.Or(o.Version, "dev")
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Server makes one stdio server a streamable HTTP server on a unix socket. Make it with New and run it once.
type Server struct {
	o       Options
	log     *slog.Logger
	threads starter
	bodies  *semaphore.Weighted
	count   counters
	closing chan struct{} // closed when Run ends
	wg      sync.WaitGroup

	mu        sync.Mutex
	closed    bool          // no request is taken any more; set with closing
	face      *face         // what is served; nil while no child is ready
	turned    chan struct{} // closed and replaced when face changes
	sessions  map[string]*session
	processes int // children of sessions, those that are ending included
	starts    int
	pid       int
	since     time.Time
	era       string // the last that was found
	revision  string
	lastErr   string
}

// New returns a server that is not running yet.
func New(o Options) *Server {
	o = o.withDefaults()
	return &Server{
		o: o, log: o.Log.With("server", o.Name), threads: make(starter), bodies: semaphore.NewWeighted(maxBodies),
		closing: make(chan struct{}), turned: make(chan struct{}), sessions: make(map[string]*session),
	}
}

// State is what is known of a server at one moment.
type State struct {
	Running   bool      // requests are served
	PID       int       // of the shared child; 0 if there is none
	Since     time.Time // when Running became true
	Era       string    // modern or legacy as last found; "" before
	Revision  string    // the protocol version in use
	Restarts  int       // of the shared child
	LastError string    // why the last start failed or the last child ended

	Sessions  int // open legacy sessions
	Processes int // children of sessions
	Calls     int // open calls of the shared child

	Malformed     int64 // lines on stdout that were no message
	Late          int64 // answers to no open call
	Notifications int64 // notifications that nobody got
	StderrDropped int64 // lines of stderr over the log's bound
	WordsDropped  int64 // log notifications over the log's bound
	PeersRefused  int64 // connections of foreign processes
}

// State may be called at any time.
func (s *Server) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := State{
		Running: s.face != nil, PID: s.pid, Era: s.era, Revision: s.revision, Restarts: max(0, s.starts-1), LastError: s.lastErr,
		Sessions: len(s.sessions), Processes: s.processes,
		Malformed: s.count.malformed.Load(), Late: s.count.late.Load(), Notifications: s.count.notifications.Load(),
		StderrDropped: s.count.stderr.Load(), WordsDropped: s.count.messages.Load(), PeersRefused: s.count.refused.Load(),
	}
	if s.face != nil {
		st.Since = s.since
		if s.face.link != nil {
			st.Calls = s.face.link.load()
		}
	}
	return st
}

// Run serves until ctx ends, and returns when every child is gone. It returns an error only for what no retry can cure: options that
// Check refuses, or a socket that cannot be had. A child that does not start is retried for ever and shows in State.
func (s *Server) Run(ctx context.Context) error {
	if err := s.o.Check(); err != nil {
		return fmt.Errorf("stdio server %s: %w", s.o.Name, err)
	}
	ln, err := s.listen()
	if err != nil {
		return fmt.Errorf("stdio server %s: %w", s.o.Name, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hs := &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	started, served := make(chan struct{}), make(chan error, 1)
	go func() { defer close(started); s.threads.run() }()
	go func() { served <- hs.Serve(ln) }()
	s.wg.Go(func() { s.reap(ctx) })
	s.wg.Go(func() { s.supervise(ctx) })

	select {
	case <-ctx.Done():
	case err = <-served: // the listener broke
	}
	cancel()
	s.mu.Lock()
	s.closed = true
	close(s.closing)
	sessions := slices.Collect(maps.Values(s.sessions))
	s.mu.Unlock()
	for _, x := range sessions {
		s.drop(x)
	}
	// Every call has failed or is about to, so that handlers end by themselves; who does not read his answer is cut off.
	cut, done := context.WithTimeout(context.Background(), admission)
	defer done()
	if hs.Shutdown(cut) != nil {
		hs.Close()
	}
	s.wg.Wait()
	close(s.threads)
	<-started
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("stdio server %s: %w", s.o.Name, err)
	}
	return nil
}

// supervise keeps the shared child running, or, where each session has its own, finds the era and leaves.
func (s *Server) supervise(ctx context.Context) {
	probe, wait := true, leastBackoff
	modern := false // the child has spoken modern once: one that speaks both eras must not come back in the other after a start that went wrong
	for ctx.Err() == nil {
		began := time.Now()
		f, l, unanswered, err := s.start(ctx, probe)
		if err != nil {
			// A child that the probe brought down may live if it is not probed, and the other way round.
			probe = modern || !probe
			s.failed(fmt.Errorf("start: %w", err))
		} else {
			modern = modern || f.modern()
			probe = modern || !unanswered
			if f.link == nil {
				s.turn(f)
				l.stop()
				<-l.gone
				<-ctx.Done()
				return
			}
			s.turn(f)
			select {
			case <-l.dead:
			case <-ctx.Done():
			}
			s.turn(nil)
			l.stop()
			<-l.gone
			if ctx.Err() == nil {
				s.failed(fmt.Errorf("child ended: %w (%s)", l.err, l.p.status))
			}
		}
		if time.Since(began) > healthyTime {
			wait = leastBackoff
		}
		select {
		case <-time.After(wait/2 + rand.N(wait/2)):
		case <-ctx.Done():
		}
		wait = min(2*wait, mostBackoff)
	}
}

// start starts a child and finds its era. On error no child is left.
func (s *Server) start(ctx context.Context, probe bool) (f *face, l *link, unanswered bool, err error) {
	l, err = startLink(&s.o, s.threads, s.log, &s.count, shared{s, newBoundedLog(s.log, "log notification", &s.count.messages)})
	if err != nil {
		return nil, nil, false, err
	}
	s.mu.Lock()
	s.starts++
	s.pid = l.p.pid
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if f, unanswered, err = negotiate(ctx, l, probe); err != nil {
		l.stop()
		<-l.gone
		s.mu.Lock()
		s.pid = 0
		s.mu.Unlock()
		return nil, nil, false, fmt.Errorf("%w (%s)", err, l.p.status)
	}
	if s.o.Share == ShareSession && !f.modern() {
		f.link = nil
	}
	s.log.Info("child ready", "pid", l.p.pid, "era", f.era, "revision", f.revision, "probed", probe && !unanswered)
	return f, l, unanswered, nil
}

// turn makes f what is served and wakes who waits for it. A new shared child may offer other things than the last one, so legacy
// clients that listen are told that every list may have changed; modern listeners have lost their streams and know.
func (s *Server) turn(f *face) {
	s.mu.Lock()
	again := f != nil && s.era != ""
	s.face, s.since = f, time.Now()
	if f != nil {
		s.era, s.revision = f.era, f.revision
	}
	if f == nil || f.link == nil {
		s.pid = 0
	}
	close(s.turned)
	s.turned = make(chan struct{})
	s.mu.Unlock()
	if again && !f.modern() && f.link != nil {
		for _, method := range []string{mcp.NotifyToolsChanged, mcp.NotifyResourcesChanged, mcp.NotifyPromptsChanged} {
			s.broadcast([]byte(`{"jsonrpc":"2.0","method":"` + method + `"}`))
		}
	}
}

func (s *Server) failed(err error) {
	s.log.Warn("stdio server is not running", "error", err)
	s.mu.Lock()
	s.lastErr = err.Error()
	s.mu.Unlock()
}

// current waits for a while for something to serve.
func (s *Server) current(ctx context.Context) (*face, *fault.Error) {
	var timeout <-chan time.Time
	for {
		s.mu.Lock()
		f, turned, last := s.face, s.turned, s.lastErr
		s.mu.Unlock()
		if f != nil && (f.link == nil || f.link.alive()) {
			return f, nil
		}
		if timeout == nil {
			t := time.NewTimer(admission)
			defer t.Stop()
			timeout = t.C
		}
		select {
		case <-turned:
		case <-timeout:
			return nil, refused(s.o.Name, reasonDown, errors.New(last))
		case <-s.closing:
			return nil, refused(s.o.Name, reasonDown, errors.New("shutting down"))
		case <-ctx.Done():
			return nil, refused(s.o.Name, reasonDown, ctx.Err())
		}
	}
}

// broadcast tells a change to every session that listens.
func (s *Server) broadcast(message []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.sessions {
		x.push(message) // false: nobody listens, or so many changes wait that one more says nothing new
	}
}

// handle makes a session over the shared child.
func (s *Server) handle() (*session, *fault.Error) {
	x := newSession(&s.count, false)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sessions) >= maxSessions {
		return nil, refused(s.o.Name, reasonOverload, fmt.Errorf("%d sessions are open", maxSessions))
	}
	s.sessions[x.id] = x
	return x, nil
}

// spawn starts a child for a session that does not exist yet; admit or drop must follow.
func (s *Server) spawn() (*session, *link, *fault.Error) {
	s.mu.Lock()
	if s.processes >= s.o.MaxProcesses {
		s.mu.Unlock()
		return nil, nil, refused(s.o.Name, reasonOverload, fmt.Errorf("%d processes are running", s.o.MaxProcesses))
	}
	s.processes++
	s.mu.Unlock()
	x := newSession(&s.count, true)
	l, err := startLink(&s.o, s.threads, s.log.With("session_child", true), &s.count, x)
	if err != nil {
		s.mu.Lock()
		s.processes--
		s.mu.Unlock()
		s.failed(fmt.Errorf("start: %w", err))
		return nil, nil, refused(s.o.Name, reasonDown, err)
	}
	x.mu.Lock()
	x.own = l
	x.mu.Unlock()
	s.wg.Go(func() { // ends with the child, and the session with it
		<-l.dead
		s.drop(x)
		<-l.gone
		s.mu.Lock()
		s.processes--
		s.mu.Unlock()
	})
	return x, l, nil
}

// admit lets requests reach the session. It reports false where its child ended, or the server is ending.
func (s *Server) admit(x *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-x.ended:
		return false
	default:
	}
	if s.closed {
		return false
	}
	s.sessions[x.id] = x
	return true
}

// drop ends a session, its streams and its child. It may be called more than once.
func (s *Server) drop(x *session) {
	s.mu.Lock()
	delete(s.sessions, x.id)
	x.end()
	s.mu.Unlock()
	if l := x.child(); l != nil {
		l.stop()
	}
}

// session finds a session and books its use; leave must follow.
func (s *Server) session(id string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.sessions[id]
	if x != nil {
		x.enter()
	}
	return x
}

// reap ends sessions that were idle for too long.
func (s *Server) reap(ctx context.Context) {
	t := time.NewTicker(max(s.o.SessionIdle/4, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			var idle []*session
			s.mu.Lock()
			for _, x := range s.sessions {
				if used, free := x.idleSince(); free && now.Sub(used) > s.o.SessionIdle {
					idle = append(idle, x)
				}
			}
			s.mu.Unlock()
			for _, x := range idle {
				s.drop(x)
			}
		}
	}
}

// listen opens the socket.
func (s *Server) listen() (net.Listener, error) {
	return socket.Listen(s.o.Socket, socket.Options{Peer: s.o.PeerPID, Refused: func(pid int, err error) {
		s.count.refused.Add(1)
		s.log.Warn("refused a connection", "pid", pid, "error", err)
	}})
}
