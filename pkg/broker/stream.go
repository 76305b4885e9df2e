package broker

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/session"
	"github.com/mcpgw/mcpgw/pkg/sse"
)

// settle is how long a stream waits after a change before it looks: several servers that refresh together are told once.
const settle = 100 * time.Millisecond

// reading is how long a client may read nothing of a stream before it counts as gone.
const reading = time.Minute

// out is an event stream to the client. Writes are serialised; a comment line keeps a quiet one alive.
type out struct {
	mu   sync.Mutex
	w    http.ResponseWriter
	rc   *http.ResponseController
	gone bool
	over chan struct{} // closed when the client has gone, or reads nothing any more
	stop chan struct{}
	once sync.Once // closes
	done sync.WaitGroup
}

// stream opens the event stream of this exchange, or takes the one that is open.
func (c *call) stream() *out {
	if c.asked != nil {
		return c.asked
	}
	h := c.w.Header()
	h.Set("content-type", "text/event-stream")
	h.Set("cache-control", "no-cache")
	h.Set("x-accel-buffering", "no")
	c.w.WriteHeader(http.StatusOK)
	o := &out{w: c.w, rc: http.NewResponseController(c.w), over: make(chan struct{}), stop: make(chan struct{})}
	_ = o.rc.Flush() // a client that has gone shows at the first message
	o.done.Go(func() {
		t := time.NewTicker(c.b.Keepalive)
		defer t.Stop()
		for {
			select {
			case <-o.stop:
				return
			case <-t.C:
				o.write([]byte(":\n\n"))
			}
		}
	})
	return o
}

func (o *out) message(b []byte) { o.write(sse.Append(nil, sse.Event{Name: "message", Data: b})) }

func (o *out) write(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gone {
		return
	}
	_ = o.rc.SetWriteDeadline(time.Now().Add(reading)) // every connection has one
	if _, err := o.w.Write(b); err != nil || o.rc.Flush() != nil {
		o.gone = true
		close(o.over)
	}
}

func (o *out) close() {
	o.once.Do(func() {
		close(o.stop)
		o.done.Wait()
		_ = o.rc.SetWriteDeadline(time.Now().Add(reading)) // for the end of the body
	})
}

// hold takes one of the principal's streams; the caller must release it.
func (c *call) hold() (release func(), ok bool) {
	release, ok = c.b.Streams.TryAcquire(c.p.Principal.Key())
	if !ok {
		f := fault.New(fault.Limited, "too many streams are open")
		f.Header = map[string]string{"retry-after": "10"}
		c.fail(f)
	}
	return release, ok
}

// listChanges names the notification for each kind of list.
var listChanges = [...]string{
	catalog.Tool: mcp.NotifyToolsChanged, catalog.Resource: mcp.NotifyResourcesChanged,
	catalog.Template: mcp.NotifyResourcesChanged, catalog.Prompt: mcp.NotifyPromptsChanged,
}

// watch tells of every change of what the caller sees, until stop, or until its credential does not count any more or its endpoint is
// gone. want filters the kinds; tell sends one notification. Where policy cannot rule nothing is told, and asked again at the next look.
func (c *call) watch(stop <-chan struct{}, want func(catalog.Kind) bool, tell func(method string)) {
	changed := c.b.Gateway.Changed()
	marked, deaf := c.p.Marked()
	defer deaf()
	marks := c.p.Marks()
	was, ok, err := c.p.Sees(c.b.Gateway.Snapshot())
	again := time.NewTicker(c.b.Keepalive) // a token expires without a change of ours
	defer again.Stop()
	for ok {
		select {
		case <-stop:
			return
		case <-c.b.closing:
			return
		case <-c.r.Context().Done():
			return
		case <-again.C:
			if ok = c.p.Still(c.b.Gateway.Snapshot()); err == nil && c.p.Marks() == marks { // labels expire in silence, too
				continue
			}
		case <-marked:
		case <-changed:
			select {
			case <-time.After(settle):
			case <-stop:
				return
			}
		}
		changed, marks = c.b.Gateway.Changed(), c.p.Marks()
		var now [len(catalog.Kinds)][32]byte
		if now, ok, err = c.p.Sees(c.b.Gateway.Snapshot()); !ok || err != nil {
			continue
		}
		told := map[string]bool{}
		for _, k := range catalog.Kinds {
			if method := listChanges[k]; now[k] != was[k] && want(k) && !told[method] {
				told[method] = true
				tell(method)
			}
		}
		was = now
	}
}

// listen serves subscriptions/listen (2026-07-28, "Subscriptions") with the gateway's own list changes. Subscriptions to resources are
// not honoured, and the acknowledgement says so by leaving them out.
func (c *call) listen() {
	asked, err := jsonrpc.Parse(c.p.Message.Params.Get("notifications").Raw, jsonrpc.Limits{})
	if err != nil {
		c.fail(fault.New(fault.BadArguments, "params.notifications must be an object"))
		return
	}
	release, ok := c.hold()
	if !ok {
		return
	}
	defer release()
	yes := func(name string) bool { return asked.Get(name).Kind() == 't' }
	want := map[string]bool{
		mcp.NotifyToolsChanged: yes("toolsListChanged"), mcp.NotifyPromptsChanged: yes("promptsListChanged"), mcp.NotifyResourcesChanged: yes("resourcesListChanged"),
	}
	meta := append([]byte(`"_meta":{"`+mcp.MetaSubscription+`":`), c.p.Message.ID...)
	meta = append(meta, '}')
	honoured := []byte("{")
	for _, n := range []struct{ member, method string }{
		{"toolsListChanged", mcp.NotifyToolsChanged}, {"promptsListChanged", mcp.NotifyPromptsChanged}, {"resourcesListChanged", mcp.NotifyResourcesChanged},
	} {
		if want[n.method] {
			if len(honoured) > 1 {
				honoured = append(honoured, ',')
			}
			honoured = append(honoured, `"`+n.member+`":true`...)
		}
	}
	honoured = append(honoured, '}')

	c.p.Unpin()
	o := c.stream()
	defer o.close()
	o.message([]byte(`{"jsonrpc":"2.0","method":"` + mcp.NotifyAcknowledged + `","params":{"notifications":` + string(honoured) + `,` + string(meta) + `}}`))
	c.watch(o.over, func(k catalog.Kind) bool { return want[listChanges[k]] }, func(method string) {
		o.message([]byte(`{"jsonrpc":"2.0","method":"` + method + `","params":{` + string(meta) + `}}`))
	})
	o.message(jsonrpc.Result(c.p.Message.ID, []byte(`{"resultType":"complete",`+string(meta)+`}`)))
}

// standing serves the GET stream of a legacy session: the gateway's own list changes, and what the session's servers say outside of
// calls. It ends with the session.
func (c *call) standing() {
	release, ok := c.hold()
	if !ok {
		return
	}
	defer release()
	c.p.Unpin()
	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	o := c.stream()
	defer o.close()

	var servers sync.WaitGroup
	defer servers.Wait()
	defer cancel()
	servers.Go(func() {
		defer cancel() // the caller may see nothing here any more
		c.b.safely(func() {
			c.watch(ctx.Done(), func(catalog.Kind) bool { return true }, func(method string) { o.message([]byte(`{"jsonrpc":"2.0","method":"` + method + `"}`)) })
		})
	})

	open := map[string]*followed{}
	alive := time.NewTicker(c.b.Keepalive)
	defer alive.Stop()
	for {
		made, changed := c.st.wait(), c.b.Gateway.Changed()
		s, err := c.b.Sessions.Get(ctx, c.p.Session.ID, c.p.Session.Owner)
		if err != nil || s == nil {
			return
		}
		world := c.b.Gateway.Snapshot()
		for server, f := range open {
			if s.Upstream[server] != f.of || f.of.Of != c.version(server) || !c.p.Serves(world, server) || f.ended.Load() {
				f.stop()
				delete(open, server)
			}
		}
		for server, u := range s.Upstream {
			if _, is := open[server]; !is && u.Of == c.version(server) && c.p.Serves(world, server) {
				fctx, stop := context.WithCancel(ctx)
				f := &followed{of: u, stop: stop}
				open[server] = f
				servers.Go(func() { c.b.safely(func() { f.ended.Store(c.follow(fctx, o, server, u)) }) })
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-c.b.closing:
			return
		case <-o.over:
			return
		case <-made:
		case <-changed:
		case <-alive.C:
		}
	}
}

// followed is a server's own stream that is passed on.
type followed struct {
	of    session.Upstream
	stop  context.CancelFunc
	ended atomic.Bool // there was one: another can be had
}

// follow passes on what a server says on its own GET stream, and reports whether there was one: a server need not offer it.
func (c *call) follow(ctx context.Context, o *out, server string, u session.Upstream) bool {
	client := c.b.Server(server)
	if client == nil {
		return false
	}
	defer c.st.unfollowed(server)
	resp, err := client.Resume(u.ID, u.Revision).Stream(ctx, c.travel(server))
	if err != nil {
		return true // the server cannot be reached now
	}
	defer closeBody(resp)
	if resp.StatusCode != http.StatusOK || mediaType(resp) != "text/event-stream" {
		return localFault(server, resp) != nil
	}
	var why error
	for m := range c.b.messages(ctx, resp.Body, c.b.MaxEvent, &why) {
		if m = c.aside(server, m); m == nil {
			continue
		}
		if b, _ := c.pass(server, m); b != nil {
			o.message(b)
		}
	}
	return true
}

// mayRead asks policy anew whether the caller may still read what a server says has changed. Of what it may read redacted alone it hears
// only if nothing but the URI is said.
func (c *call) mayRead(m *jsonrpc.Message) bool {
	uri, ok := m.Params.Get("uri").Str()
	if !ok {
		return false
	}
	may, redacts := c.p.MayRead(context.WithoutCancel(c.r.Context()), c.b.Gateway.Snapshot(), uri)
	return may && (!redacts || len(m.Params.Members) == 1)
}
