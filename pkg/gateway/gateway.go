// Package gateway is the walk: what happens to one client request, from its head to a verdict.
//
// An exchange has two steps, as HTTP has. [Gateway.Head] judges what the head alone decides: path, method, Host and Origin,
// credential, content type. [Exchange.Body] judges the message: read, resolve, check, decide, take, lane. Both are in exchange.go,
// top to bottom. They return a [Verdict] and do nothing else; a rim (ext_proc today) carries it out and reports the [Record].
//
// The package knows no Envoy, gRPC, protobuf or OPA. One [Snapshot] serves an exchange from start to end.
package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcpgw/mcpgw/pkg/approval"
	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/edit"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/policy"
	"github.com/mcpgw/mcpgw/pkg/session"
)

// Snapshot is one immutable world of four parts, each with its own version. A catalog refresh replaces the catalog alone.
type Snapshot struct {
	Settings *Settings
	Policy   policy.Engine
	Catalog  *catalog.Catalog
	Routes   Routes

	shapes map[*catalog.Item]func() *shape // of the catalog's tools and prompts; Swap keeps it
	lists  *lists                          // ready lists of this catalog, gone with it

	version string // Version, once Swap has worked it out
}

// Version names the four parts, for spans and logs.
func (s *Snapshot) Version() string {
	if s.version != "" {
		return s.version
	}
	return s.Settings.Version + "." + short(s.Policy.Revision()) + "." + short(s.Catalog.Version()) + "." + s.Routes.Version
}

func short(v string) string { return v[:min(len(v), 8)] }

// Routes says which servers Envoy can reach: those whose cluster and route it has acknowledged.
type Routes struct {
	Version string
	Servers map[string]bool
}

// Settings is the part of the configuration that the walk reads. It is immutable.
type Settings struct {
	Version   string
	Listeners map[string]*Listener
	Endpoints map[string]*Endpoint // by configured name
	Servers   map[string]*Server
	Depth     int // nesting of a body; 0 is the reader's default
	Name      string
	Build     string // the gateway's own version, for serverInfo

	BodyBytes   int // the longest body after a rewrite; 0 is 4 MiB
	RedactBytes int // the longest message of a server that is redacted; 0 is 4 MiB
	Approvals   Approvals
}

// Authenticator finds out who calls. Its errors are faults of kind Unauthenticated or TwoCredentials. It must not wait for a network.
type Authenticator interface {
	Authenticate(ctx context.Context, authorization, apiKey []string) (*identity.Principal, error)
	// Current is what a principal that was authenticated before is now: nil when its credential does not count any more.
	Current(p *identity.Principal) *identity.Principal
}

// Listener is one front door.
type Listener struct {
	Name      string
	Hosts     []string // allowed Host names without port, lower case; empty: any
	Origins   []string // allowed Origins, exact, or with * for any port: http://localhost:*
	Auth      Authenticator
	Challenge string // WWW-Authenticate of a 401
}

// Endpoint is how one endpoint answers. Its items are the catalog's matter.
type Endpoint struct {
	Name            string
	DenialsAsResult bool            // a refused tools/call is a result with isError, so that the model reads it
	Listeners       map[string]bool // where it is served; empty: everywhere
}

// on reports whether a listener serves the endpoint.
func (e *Endpoint) on(listener string) bool { return len(e.Listeners) == 0 || e.Listeners[listener] }

// Server is what the walk must know of one upstream server.
type Server struct {
	Name           string
	Version        string          // changes with anything that is configured of it
	ForwardHeaders map[string]bool // headers of the client that travel on, lower case
	CallIdle       time.Duration   // how long a call by the broker may go without a byte from the server; 0 is 5 min
}

// Failures bounds wrong credentials an address may present.
type Failures interface {
	Blocked(address string) (retry time.Duration, blocked bool)
	Failed(address string)
}

// Bytes bounds the body bytes in flight.
type Bytes interface {
	TryAcquire(n int64) bool
	Release(n int64)
}

// Options is what outlives snapshots.
type Options struct {
	Sessions session.Store
	Failures Failures
	Bytes    Bytes
	// Judged, where set, hears of every ruling on a call, before anything is done about it. It must not wait, and keep nothing of the
	// question after it has returned.
	Judged func(q *policy.Question, r *policy.Ruling, s *Snapshot)
	// Labels keeps what callers of the modern era are marked with; without it their labels count as lost, and none can be given.
	Labels Labels
	// Approvals keeps the questions of ask rulings; without it they refuse.
	Approvals *approval.Store
	// ListBytes bounds the ready lists that are kept; 0 is 64 MiB.
	ListBytes int
	// ParkTime is how long an exchange waits for the broker; 0 is 30 s. ParkMax bounds how many wait; 0 is 16,384.
	ParkTime time.Duration
	ParkMax  int
	// SessionLifetime bounds a legacy session, however busy; 0 is 24 h.
	SessionLifetime time.Duration
}

// Gateway serves exchanges over the current snapshot. It is safe for concurrent use.
type Gateway struct {
	opts    Options
	snap    atomic.Pointer[Snapshot]
	changed atomic.Pointer[change]
	swap    sync.Mutex
	park    *lot
	bells   bells

	patterns edit.Patterns
}

// change is closed when the snapshot it belongs to is replaced.
type change struct {
	once sync.Once
	ch   chan struct{}
}

// New makes a gateway that refuses everything until the first Swap.
func New(o Options) (*Gateway, error) {
	if o.ListBytes == 0 {
		o.ListBytes = 64 << 20
	}
	if o.ParkTime == 0 {
		o.ParkTime = 30 * time.Second
	}
	if o.ParkMax == 0 {
		o.ParkMax = 16384
	}
	if o.SessionLifetime == 0 {
		o.SessionLifetime = 24 * time.Hour
	}
	g := &Gateway{opts: o, park: newLot(o.ParkMax, o.ParkTime, o.Bytes)}
	g.changed.Store(&change{ch: make(chan struct{})})
	return g, nil
}

// Snapshot is the current world, nil before the first Swap.
func (g *Gateway) Snapshot() *Snapshot { return g.snap.Load() }

// Swap makes edit's result the current world. edit gets the current one (nil at first) and returns the next; it must not change what
// it got. Swaps happen one after the other.
func (g *Gateway) Swap(edit func(Snapshot) Snapshot) *Snapshot {
	g.swap.Lock()
	defer g.swap.Unlock()
	var old Snapshot
	if s := g.snap.Load(); s != nil {
		old = *s
	}
	next := edit(old)
	if next.Catalog != old.Catalog {
		next.shapes, next.lists = shapesOf(next.Catalog, old.shapes), newLists(g.opts.ListBytes)
	}
	next.version = ""
	next.version = next.Version()
	g.snap.Store(&next)
	was := g.changed.Swap(&change{ch: make(chan struct{})})
	was.once.Do(func() { close(was.ch) })
	return &next
}

// Changed is closed at the next Swap. Take it before looking at the snapshot, so that no change is missed.
func (g *Gateway) Changed() <-chan struct{} { return g.changed.Load().ch }

// Parked is the number of exchanges that wait for the broker.
func (g *Gateway) Parked() int { return g.park.len() }
