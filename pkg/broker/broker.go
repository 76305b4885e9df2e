// Package broker is the slow lane: it serves what the direct lane cannot. Legacy sessions with servers that hold sessions of their own,
// legacy clients of modern servers (the bridge), streams that the gateway itself feeds, and requests that servers send to clients.
//
// It serves only what the walk has judged. Envoy sends it a request with a ticket; [gateway.Gateway.Take] hands the judged exchange
// out once. The broker reads no credential and no body, and asks policy nothing that was ruled on already. It reaches servers through
// Envoy's egress alone.
package broker

import (
	"context"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/session"
	"github.com/mcpgw/mcpgw/pkg/upstream"
)

// Slots bounds the streams that one principal holds open.
type Slots interface {
	TryAcquire(key string) (release func(), ok bool)
}

// Options is what a broker needs. All but the durations and sizes must be set.
type Options struct {
	Gateway  *gateway.Gateway
	Sessions session.Store
	Streams  Slots
	Log      *slog.Logger
	// Server is the client of a configured server, nil where there is none. It goes by Envoy's egress listener.
	Server func(name string) *upstream.Client

	Keepalive time.Duration // between comment lines on a quiet stream; 0 is 25 s
	CallTotal time.Duration // longest call; 0 is 30 min
	MaxEvent  int           // bytes of one message of a server; 0 is 16 MiB
}

// Broker serves parked exchanges over HTTP. It is safe for concurrent use.
type Broker struct {
	Options
	open singleflight.Group // upstream sessions under way, by session and server

	mu       sync.Mutex
	sessions map[string]*state // by client session id
	closing  chan struct{}
	forgets  chan struct{} // one place for each upstream session that is being ended
}

// New makes a broker.
func New(o Options) *Broker {
	if o.Keepalive == 0 {
		o.Keepalive = 25 * time.Second
	}
	if o.CallTotal == 0 {
		o.CallTotal = 30 * time.Minute
	}
	if o.MaxEvent == 0 {
		o.MaxEvent = 16 << 20
	}
	return &Broker{Options: o, sessions: map[string]*state{}, closing: make(chan struct{}), forgets: make(chan struct{}, maxForgets)}
}

// Close ends every stream that the gateway itself feeds, so that a drain need not wait for them. Calls go on.
func (b *Broker) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.closing:
	default:
		close(b.closing)
	}
}

// ServeHTTP serves one exchange. A request without a ticket that is good now is refused.
func (b *Broker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := b.Gateway.Take(r.Header.Get(gateway.HeaderTicket))
	if p == nil {
		writeFault(w, nil, false, fault.New(fault.Forbidden, "this request was not judged"))
		return
	}
	defer p.Done()
	c := &call{b: b, p: p, w: w, r: r}
	if p.Session != nil {
		c.st = b.enter(p.Session.ID)
		defer b.leave(p.Session.ID, c.st)
	}
	switch {
	case p.Message == nil:
		c.standing()
	case p.Message.Kind == jsonrpc.Response:
		c.answer()
	case p.Message.Kind == jsonrpc.Notification:
		c.notify()
	case p.Class() == mcp.Listen:
		c.listen()
	case p.Class() == mcp.SetLevel:
		c.setLevel()
	default:
		c.use()
	}
}

// safely runs what has a goroutine of its own: a panic ends that, and not the process.
func (b *Broker) safely(run func()) {
	defer func() {
		if p := recover(); p != nil {
			b.Log.Error("the broker panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	run()
}

// call is one exchange in the broker's hands; one goroutine owns it.
type call struct {
	b  *Broker
	p  *gateway.Parked
	w  http.ResponseWriter
	r  *http.Request
	st *state // of the legacy session; nil in the modern era

	asked *out // the stream on which the user was asked before the call went on; the answer goes there, too
}

// source is what is known of the server that the call goes to.
func (c *call) source() *catalog.Source { return c.p.Snapshot.Catalog.Source(c.p.Server) }

// use serves a call: forwarded where client and server are modern, relayed to a server that has sessions as the client has, bridged to one
// that is modern alone.
func (c *call) use() {
	defer c.p.Dropped()
	if c.p.Asks() != nil {
		if !c.confirm() {
			return
		}
		defer c.asked.close()
	}
	s := c.source()
	switch {
	case s == nil:
		c.fail(gateway.Upstream(c.p.Server, "unavailable"))
	case !c.p.Legacy():
		c.forward()
	case s.Legacy:
		c.relay()
	default:
		c.bridge()
	}
}

// detached is the context of work that a legacy client's disconnect must not end: there, leaving is not cancelling (2025-11-25,
// "Transports").
func (c *call) detached() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(c.r.Context()), c.b.CallTotal)
}

func (c *call) fail(f *fault.Error) {
	var id []byte
	if c.p.Message != nil {
		id = c.p.Message.ID
	}
	if c.asked != nil {
		c.asked.message(f.Reply(id))
		return
	}
	writeFault(c.w, id, c.p.Legacy(), f)
}

func (c *call) status(code int) {
	if c.asked == nil { // else the stream has a status, and ends without a word
		c.w.WriteHeader(code)
	}
}

func (c *call) json(body []byte) {
	if c.asked != nil {
		c.asked.message(body)
		return
	}
	writeJSON(c.w, http.StatusOK, body)
}

func writeFault(w http.ResponseWriter, id []byte, legacy bool, f *fault.Error) {
	for k, v := range f.Header {
		w.Header().Set(k, v)
	}
	writeJSON(w, f.Kind.Status(legacy), f.Reply(id))
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("content-type", "application/json")
	w.Header().Set("content-length", strconv.Itoa(len(body))) // else net/http sends what is long in chunks
	w.WriteHeader(status)
	const piece = 256 << 10
	rc := http.NewResponseController(w)
	for {
		_ = rc.SetWriteDeadline(time.Now().Add(reading)) // every connection has one; it is cleared before the next request
		n := min(len(body), piece)
		if _, err := w.Write(body[:n]); err != nil || n == len(body) { // a client that has gone is no fault of ours
			return
		}
		body = body[n:]
	}
}
