// Package server assembles the gateway: a configuration becomes every room, and one function runs them all.
//
// Its files: translate.go (configuration → the rooms' words), world.go (a whole new world built, then switched to), peers.go (local
// processes, watchers, clients of servers), crew.go (what runs in the background), envoy.go (the child), reload.go (when to build anew).
package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/mcpgw/mcpgw/pkg/accesslog"
	"github.com/mcpgw/mcpgw/pkg/admin"
	"github.com/mcpgw/mcpgw/pkg/approval"
	"github.com/mcpgw/mcpgw/pkg/broker"
	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/decision"
	"github.com/mcpgw/mcpgw/pkg/envoyproc"
	"github.com/mcpgw/mcpgw/pkg/extauthz"
	"github.com/mcpgw/mcpgw/pkg/extproc"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/internal/socket"
	"github.com/mcpgw/mcpgw/pkg/limit"
	"github.com/mcpgw/mcpgw/pkg/session"
	"github.com/mcpgw/mcpgw/pkg/stdio"
	"github.com/mcpgw/mcpgw/pkg/telemetry"
	"github.com/mcpgw/mcpgw/pkg/upstream"
	"github.com/mcpgw/mcpgw/pkg/xds"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// Options say what to run. File, Load, Log and Out must be set.
type Options struct {
	// Load reads the configuration, again at each reload.
	Load    func() (*config.Config, error)
	Version string
	Log     *slog.Logger
	Out     io.Writer // gets the one line that begins "ready"
	Envoy   bool      // start Envoy as a child; else one that someone else runs connects

	// NoGuard and NoAccessLog leave these parts of the data path out. No configuration can: they are there for the benchmark, which
	// measures what each part costs.
	NoGuard, NoAccessLog bool
}

// gcPercent is how much of its live memory the gateway may take again before garbage is collected.
const gcPercent = 200

// Server is a running gateway.
type Server struct {
	opts      Options
	log       *slog.Logger
	sockets   xds.Sockets
	token     string
	gateway   *gateway.Gateway
	broker    *broker.Broker
	sessions  *session.Memory
	labels    *session.Labels
	approvals *approval.Store
	kept      *keptForExplain
	streams   *limit.Slots
	bodies    *limit.Bytes
	publisher *xds.Publisher
	telemetry *telemetry.Telemetry
	extproc   *extproc.Server
	accesslog *accesslog.Log
	egress    *http.Transport
	crew      *crew
	envoy     *envoyproc.Process // nil without Envoy; written once, before started is closed
	slow      *http.Server       // serves the broker
	shadow    *decision.Shadow
	decisions atomic.Pointer[decisions] // of the world in force
	logLost   atomic.Uint64             // decision log entries
	draining  atomic.Bool
	started   chan struct{} // closed when the child Envoy is there
	news      chan struct{} // holds one where something was learned of a server

	clients sync.Map // server name → *upstream.Client; not under mu, which is held while a catalog is built

	mu       sync.Mutex // guards all below
	world    *built     // what is in force
	sources  map[string]*catalog.Source
	open     bool // the gateway serves: the catalog was read once
	stdio    map[string]*stdio.Server
	watchers map[string]*upstream.Watcher
	fault    error // of the last reload

	bundleFeeds
}

// Run serves until ctx ends, then drains, and returns once nothing of it runs any more. The error says why it could not start or go on.
func Run(ctx context.Context, o Options) error {
	c, err := o.Load()
	if err != nil {
		return err
	}
	s, cleanup, err := newServer(ctx, o, c)
	if err != nil {
		return err
	}
	defer cleanup()
	return s.run(ctx, c)
}

func newServer(ctx context.Context, o Options, c *config.Config) (s *Server, cleanup func(), err error) {
	p := c.Proto
	s = &Server{
		opts: o, log: o.Log, kept: newKept(), started: make(chan struct{}), news: make(chan struct{}, 1), sources: map[string]*catalog.Source{},
		stdio: map[string]*stdio.Server{}, watchers: map[string]*upstream.Watcher{},
	}
	s.feeds, s.offers = map[string]*feed{}, make(chan offered)
	dir, temporary, err := runDir(p.Envoy.GetRunDir())
	if err != nil {
		return nil, nil, err
	}
	s.sockets = Sockets(dir)
	var undo []func()
	undoAll := func() {
		for _, f := range slices.Backward(undo) {
			f()
		}
	}
	cleanup = undoAll
	if temporary {
		undo = append(undo, func() { _ = os.RemoveAll(dir) })
	}
	defer func() {
		if err != nil {
			undoAll() // s and cleanup are nil by now
		}
	}()
	if s.token, err = Token(dir, !temporary); err != nil {
		return nil, nil, err
	}
	tracing := telemetry.TracingOptions{Collector: p.Telemetry.GetOtlp().GetEndpoint(), Version: o.Version, Ratio: p.Telemetry.GetOtlp().GetSamplingPercent() / 100, Log: s.log}
	if t := p.Telemetry.GetOtlp().GetTls(); t != nil {
		if tracing.TLS, err = collectorTLS(t); err != nil {
			return nil, nil, err
		}
	}
	var shutdown func(context.Context) error
	if s.telemetry, shutdown, err = telemetry.New(ctx, tracing, s.log); err != nil {
		return nil, nil, err
	}
	undo = append(undo, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if err := shutdown(ctx); err != nil {
			o.Log.Warn("spans may be lost", "error", err)
		}
	})

	l := p.Limits
	s.sessions = session.NewMemory(session.MemoryOptions{
		Max: int(l.GetSessions()), MaxPerPrincipal: int(l.GetSessionsPerPrincipal()), Idle: l.GetSessionIdle().AsDuration(),
		Ended: func(ended *session.Session, _ session.Reason) { s.broker.Ended(ended) },
	})
	if s.labels, err = s.openLabels(p.Policy.GetLabels()); err != nil {
		return nil, nil, err
	}
	labels := s.labels
	undo = append(undo, func() {
		if err := labels.Close(); err != nil {
			o.Log.Warn("the file of labels", "error", err)
		}
	})
	s.streams = limit.NewSlots(int(l.GetStreamsPerPrincipal()))
	s.bodies = limit.NewBytes(int64(l.GetBodiesInFlightBytes()))
	s.approvals = approval.New(nil)
	s.gateway, err = gateway.New(gateway.Options{
		Sessions: s.sessions, Approvals: s.approvals, Labels: s.labels, Bytes: s.bodies, Judged: s.judged, ParkTime: l.GetPark().AsDuration(), SessionLifetime: l.GetSessionLifetime().AsDuration(),
		Failures: limit.NewFailureLimiter(limit.FailureOptions{Burst: int(l.GetFailedCredentialsPerMinute()), Every: time.Minute / time.Duration(max(1, l.GetFailedCredentialsPerMinute()))}),
	})
	if err != nil {
		return nil, nil, err
	}
	s.broker = broker.New(broker.Options{
		Gateway: s.gateway, Sessions: s.sessions, Streams: s.streams, Log: s.log.With("component", "broker"), Server: s.client,
		Keepalive: l.GetStreamKeepalive().AsDuration(), CallTotal: l.GetCallTotal().AsDuration(), MaxEvent: int(l.GetServerMessageBytes()),
	})
	s.publisher = xds.NewPublisher(s.log.With("component", "xds"))
	s.extproc = extproc.New(s.gateway, s.report, s.log.With("component", "extproc"))
	s.accesslog = accesslog.New(accesslog.Options{Report: s.outcome, MaxAge: l.GetCallTotal().AsDuration() + 5*time.Minute})
	s.egress = egressTransport(s.sockets.Egress)
	s.crew = newCrew(ctx, s.log)
	s.newShadow()
	s.telemetry.Metrics.Watch(telemetry.Sources{
		InFlight: s.extproc.InFlight, Broken: s.extproc.Broken, BodyBytes: s.bodies.InUse, Sessions: s.sessions.Len, Streams: s.streams.InUse,
		Parked: s.gateway.Parked, SpansLost: s.telemetry.Tracing.Lost, AccessLogLost: s.accesslog.Lost,
		Restarts: s.stdioRestarts, EnvoyRestarts: s.envoyRestarts,
		DecisionLogLost: s.logLost.Load, ShadowCompared: func() uint64 { return s.shadow.Counts().Compared },
		ShadowFailed: func() uint64 { return s.shadow.Counts().Failed }, ShadowSkipped: func() uint64 { return s.shadow.Counts().Skipped },
		ShadowLoaded: s.shadowLoaded,
		Bundles:      s.bundleCounts,
		Envoys:       func() int { return s.publisher.Stats().Connected }, Rejected: func() uint64 { return s.publisher.Stats().Rejected },
	})
	return s, cleanup, nil
}

// Sockets are the sockets in a run directory.
func Sockets(dir string) xds.Sockets {
	return xds.Sockets{
		GRPC: filepath.Join(dir, "mcpgw.sock"), Broker: filepath.Join(dir, "broker.sock"),
		Egress: filepath.Join(dir, "egress.sock"), Admin: filepath.Join(dir, "envoy.sock"),
	}
}

// runDir makes the directory for the sockets, mode 0700; a fresh temporary one where none is configured.
func runDir(configured string) (dir string, temporary bool, err error) {
	if configured == "" {
		dir, err = os.MkdirTemp("", "mcpgw-")
		return dir, true, err
	}
	if err := os.MkdirAll(configured, 0o700); err != nil {
		return "", false, err
	}
	info, err := os.Stat(configured)
	if err != nil {
		return "", false, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", false, fmt.Errorf("envoy.run_dir %s has mode %04o; others could reach the sockets: chmod 700 %s", configured, info.Mode().Perm(), configured)
	}
	return configured, false, nil
}

// Token is what the broker shows at Envoy's egress. With keep it lives in a file of the run directory, so that a static Envoy
// configuration and a later start agree on it; else it is new at every start.
func Token(dir string, keep bool) (string, error) {
	file := filepath.Join(dir, "egress-token")
	if keep {
		b, err := os.ReadFile(file)
		if err == nil {
			return string(b), nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	token := hex.EncodeToString(b[:])
	if !keep {
		return token, nil
	}
	return token, os.WriteFile(file, []byte(token), 0o600)
}

func (s *Server) run(ctx context.Context, c *config.Config) (err error) {
	// Workers outlive ctx: streams in flight need them while Envoy drains.
	crewCtx, stopCrew := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCrew()
	defer s.endFeeds() // after all workers
	s.crew.ctx = crewCtx
	defer s.crew.stopAll()

	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }() // nothing is read from it any more
	s.follow(w, c)                   // before anything is read, for starting takes seconds

	if err := s.serveSockets(c.Proto); err != nil {
		return err
	}
	s.crew.start("sessions", s.sessions.Run)
	s.crew.start("explain", s.kept.recent.Run)
	s.crew.start("accesslog", s.accesslog.Run)
	s.crew.start("rouse", s.rouse)
	s.crew.start("shadow", s.shadow.Run)
	first, err := s.build(ctx, c)
	if err != nil {
		return err
	}
	if s.opts.Envoy {
		if err := s.startEnvoy(ctx, c); err != nil {
			s.abandon(first)
			return err
		}
	}
	if err := s.install(ctx, first); err != nil {
		s.abandon(first)
		return err
	}
	s.telemetry.Metrics.Reload(true, time.Now())
	for _, w := range c.Warnings {
		s.log.Warn("configuration", "warning", w.Error())
	}
	if err := s.missingPolicy(); err != nil {
		s.log.Error("every call is refused until there is a policy", "error", err)
	}
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent)) // memory is traded for fewer collections, which cost a sixth of an exchange
	if err := s.begin(ctx); err != nil {
		return err
	}
	err = s.reloads(ctx, w)
	s.drain()
	return err
}

// begin serves, as soon as there is a policy. Without one nothing is served, and every call refused: a gateway that ended instead would
// be started again and again, and each start would hide why the one before has failed.
func (s *Server) begin(ctx context.Context) error {
	if s.begun || s.now().engine == nil {
		return nil
	}
	s.begun = true
	s.awaitCatalog(ctx)
	s.serveWorld()
	if s.envoy != nil {
		if err := s.warm(ctx); err != nil {
			return err
		}
	}
	debug.FreeOSMemory() // what starting has left behind
	fmt.Fprintln(s.opts.Out, "ready "+s.urls(ctx))
	return nil
}

// maxMessage is the largest body that a configuration may allow, and its wrapping: a reload may raise limits.body_bytes, and Envoy holds
// to that.
const maxMessage = 64<<20 + 1<<20

// serveSockets opens the sockets on which Envoy finds us, and the operator.
func (s *Server) serveSockets(c *configv1.Config) error {
	g := grpc.NewServer(
		// Goroutines that are kept have grown their stacks; a new one for each exchange would copy it anew. More exchanges at once than
		// these get goroutines of their own.
		grpc.NumStreamWorkers(64),
		grpc.WriteBufferSize(256<<10), // a long list leaves in one write
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	s.extproc.Register(g)
	s.accesslog.Register(g)
	s.publisher.Register(g)
	grpcListener, err := s.listenUnix(s.sockets.GRPC)
	if err != nil {
		return err
	}
	s.crew.start("grpc", func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, g.Stop)
		defer stop()
		return g.Serve(grpcListener)
	})
	brokerListener, err := s.listenUnix(s.sockets.Broker)
	if err != nil {
		return err
	}
	s.slow = &http.Server{Handler: s.broker, ReadHeaderTimeout: 10 * time.Second}
	s.serveHTTP("broker", brokerListener, s.slow)

	for i, front := range c.ExtAuthz {
		if err := s.serveExtAuthz(fmt.Sprintf("ext_authz %d", i), front); err != nil {
			return err
		}
	}

	a, err := config.ParseAddress(c.Admin.Address)
	if err != nil {
		return fmt.Errorf("admin.address: %w", err)
	}
	adminListener, err := listen(a)
	if err != nil {
		return fmt.Errorf("admin.address %s: %w; name another address, or end what listens there", a, err)
	}
	s.serveHTTP("admin", adminListener, &http.Server{ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second, Handler: admin.Handler(admin.Options{
		Ready: s.ready, Metrics: s.telemetry.Metrics.Handler(), Catalog: s.catalogReport, Items: s.savedCatalog,
		Operators: s.operators, Guarded: a.Network == "unix", Routes: s.routes(),
	})})
	return nil
}

// serveExtAuthz opens the front for an Envoy that somebody else configures.
func (s *Server) serveExtAuthz(name string, c *configv1.ExtAuthz) error {
	a, err := config.ParseAddress(c.Address)
	if err != nil {
		return fmt.Errorf("%s: address: %w", name, err)
	}
	l, err := listen(a)
	if err != nil {
		return fmt.Errorf("%s: address %s: %w; name another address, or end what listens there", name, a, err)
	}
	g := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	extauthz.New(extauthz.Options{Gateway: s.gateway, Listener: c.Listener, Server: c.Server, Report: s.report, Log: s.log.With("component", "extauthz")}).Register(g)
	s.crew.start(name, func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, g.Stop)
		defer stop()
		return g.Serve(l)
	})
	return nil
}

// listen opens an address of our own; a unix socket is its owner's alone.
func listen(a config.Address) (net.Listener, error) {
	if a.Network == "unix" {
		return socket.Listen(a.Address, socket.Options{})
	}
	return net.Listen(a.Network, a.Address)
}

func (s *Server) serveHTTP(name string, l net.Listener, h *http.Server) {
	h.ErrorLog = slog.NewLogLogger(s.log.With("component", name).Handler(), slog.LevelDebug)
	s.crew.start(name, func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = h.Close() }) // the listener's error shows in Serve
		defer stop()
		if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
}

// listenUnix opens a socket that Envoy alone uses. The child's process id is known; that of an Envoy that someone else runs is not.
func (s *Server) listenUnix(path string) (net.Listener, error) {
	o := socket.Options{}
	if s.opts.Envoy {
		o.Peer = s.envoyPID
		o.Refused = func(pid int, err error) {
			s.log.Warn("a process that is not our Envoy was refused", "socket", path, "pid", pid, "error", err)
		}
	}
	return socket.Listen(path, o)
}

// ready is nil once a world is in force and served.
func (s *Server) ready() error {
	if s.gateway.Snapshot() == nil {
		if err := s.missingPolicy(); err != nil {
			return err
		}
		return errors.New("starting")
	}
	if s.draining.Load() {
		return errors.New("draining")
	}
	if s.envoy != nil && s.publisher.Stats().Connected == 0 {
		return errors.New("no Envoy is connected")
	}
	return nil
}

// CatalogReport is what `mcpgw catalog` shows.
type CatalogReport struct {
	*catalog.Report
	Configuration string `json:"configuration"`   // version in force
	Fault         string `json:"fault,omitempty"` // why the last reload was refused

	Policy      string `json:"policy,omitempty"`       // revision of the policy in force
	Shadow      string `json:"shadow,omitempty"`       // of the one that is compared with it
	ShadowFault string `json:"shadow_fault,omitempty"` // why the one that is configured is not compared
}

func (s *Server) catalogReport() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := CatalogReport{}
	if s.fault != nil {
		r.Fault = s.fault.Error()
	}
	if s.world != nil && s.open {
		r.Configuration = s.world.config.Version
		if s.world.engine != nil {
			r.Policy = s.world.engine.Revision()
		}
		r.Shadow, r.ShadowFault = s.shadow.Status()
		r.Report = s.gateway.Snapshot().Catalog.Report()
	}
	return r
}

// savedCatalog is what tests of policies are asked about.
func (s *Server) savedCatalog() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.world == nil || !s.open {
		return nil
	}
	return s.gateway.Snapshot().Catalog.Save()
}

// awaitCatalog waits until every server was read once, or a little: who starts later is served when it comes. Until then the gateway
// refuses, for an Envoy that outlived the mcpgw before this one sends it calls at once, and an empty catalog would call every item unknown.
func (s *Server) awaitCatalog(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for {
		s.mu.Lock()
		waiting := slices.ContainsFunc(s.ordered(), func(src *catalog.Source) bool {
			return src.Fetched.IsZero() && (src.Degraded == "" || s.stdio[src.Server] != nil) // a child that starts looks like one that is down
		})
		s.mu.Unlock()
		if !waiting {
			return
		}
		select {
		case <-s.news:
		case <-ctx.Done():
			return
		}
	}
}
