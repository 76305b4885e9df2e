package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mcpgw/mcpgw/pkg/approval"
	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/policy"
	"github.com/mcpgw/mcpgw/pkg/session"
)

// Exchange is one client request under way. It belongs to one goroutine at a time; what it holds of the request's bytes is copied.
type Exchange struct {
	Record
	Snapshot *Snapshot
	Session  *session.Session // of a legacy client, nil before initialize and in the modern era
	View     *catalog.View    // the endpoint's items
	Entry    *catalog.Entry   // the item a call names, nil for other methods
	Endpoint *Endpoint

	g        *Gateway
	ctx      context.Context
	listener *Listener
	header   Header // valid during a step: the rim keeps the head until the exchange ends
	origin   string // of a browser's page, once it is known to be an allowed one
	id       []byte // JSON text of the request's id, once it is known
	legacy   bool
	row      mcp.Method
	changes  changes // that policy demands

	asking   *Asking         // a legacy client's user has to be asked before the call goes on
	grant    *approval.Grant // a human's yes to this call
	stripped bool            // what was for the gateway alone is taken out of the message
}

// Head judges what the head alone decides. It returns an exchange and no verdict when a body must follow, else a verdict; the exchange
// is never nil, so that it can be reported. ctx and the Header of h must stay valid until the exchange's last step has returned.
func (g *Gateway) Head(ctx context.Context, h *Head) (*Exchange, Verdict) {
	x := &Exchange{g: g, ctx: ctx, header: h.Header, Snapshot: g.Snapshot()}
	x.Record = Record{DecisionID: rand.Text(), Start: time.Now(), HTTPMethod: clip(h.Method, 16), Address: h.Address, Lane: "answer"}
	v, f := x.head(h)
	if f != nil {
		return x, x.Refuse(f)
	}
	return x, v
}

func (x *Exchange) head(h *Head) (Verdict, *fault.Error) {
	if x.Snapshot == nil {
		return nil, fault.New(fault.Internal, "the gateway is starting")
	}
	x.listener = x.Snapshot.Settings.Listeners[h.Listener]
	if x.listener == nil {
		return nil, fault.New(fault.Internal, "the gateway does not know this listener").Wrap(errors.New("listener " + clip(h.Listener, 64)))
	}
	x.Listener = x.listener.Name
	x.Trace = clip(h.Header.Get(HeaderClientTrace), 64) // where the listener links a client's trace instead of continuing it
	x.Record.Snapshot, x.Catalog = x.Snapshot.Version(), x.Snapshot.Catalog.Version()
	if f := x.listener.checkHost(h); f != nil {
		return nil, f
	}
	x.origin = h.Header.Get("origin")
	if h.Method == http.MethodOptions && x.origin != "" && h.Header.Get("access-control-request-method") != "" {
		return x.preflight(h), nil
	}
	if f := x.identify(); f != nil { // before the path: which endpoints there are is not for everybody
		return nil, f
	}

	path, _, query := strings.Cut(h.Path, "?")
	x.View = x.Snapshot.Catalog.View(path)
	if x.View == nil {
		return nil, fault.New(fault.NotFound, "there is no endpoint at this path")
	}
	x.Path = x.View.Path
	x.Endpoint = x.Snapshot.Settings.Endpoints[x.View.Endpoint]
	if x.Endpoint == nil || !x.Endpoint.on(x.Listener) {
		return nil, fault.New(fault.NotFound, "there is no endpoint at this path")
	}
	x.Record.Endpoint = x.Endpoint.Name
	if query {
		return nil, fault.New(fault.Query, "an MCP endpoint takes no query")
	}
	if !isHTTPMethod(h.Method) {
		return nil, fault.WithAllow(methods)
	}
	if h.Method == http.MethodPost {
		return nil, checkPost(h)
	}
	return x.standing(h)
}

// identify finds the principal. An address that keeps presenting bad credentials is told to wait.
func (x *Exchange) identify() *fault.Error {
	failures := x.g.opts.Failures
	if failures != nil {
		if retry, blocked := failures.Blocked(x.Address); blocked {
			f := fault.New(fault.Limited, "too many failed credentials from this address")
			f.Header = map[string]string{"retry-after": strconv.Itoa(int(retry/time.Second) + 1)}
			return f
		}
	}
	p, err := x.listener.Auth.Authenticate(x.ctx, x.header.Values("authorization"), x.header.Values("x-api-key"))
	if err != nil {
		f := fault.From(err)
		if f.Kind == fault.Unauthenticated {
			if failures != nil && len(x.header.Values("authorization"))+len(x.header.Values("x-api-key")) > 0 {
				failures.Failed(x.Address)
			}
		}
		return f
	}
	x.Principal = p
	return nil
}

// standing serves what has no body: the GET stream and the DELETE of a legacy session.
func (x *Exchange) standing(h *Head) (Verdict, *fault.Error) {
	if !h.NoBody {
		return nil, fault.New(fault.Invalid, "a %s takes no body", h.Method)
	}
	if mcp.Revision(x.header.Get(mcp.HeaderVersion)).Modern() {
		return nil, fault.WithAllow(http.MethodPost)
	}
	x.legacy = true
	if h.Method == http.MethodGet && !accepts(x.header.Values("accept"), "text/event-stream") {
		return nil, fault.New(fault.NotAcceptable, "accept must name text/event-stream")
	}
	if f := x.findSession(); f != nil {
		return nil, f
	}
	if h.Method == http.MethodGet {
		return x.toBroker(nil)
	}
	if _, err := x.g.opts.Sessions.Delete(x.ctx, x.Session.ID, x.Session.Owner); err != nil {
		return nil, fault.New(fault.Internal, "the session could not be ended").Wrap(err)
	}
	return x.reply(http.StatusNoContent, nil), nil
}

// Body judges the whole message. b is not kept.
func (x *Exchange) Body(b []byte) Verdict {
	x.BodyBytes = len(b)
	if bytes := x.g.opts.Bytes; bytes != nil {
		if !bytes.TryAcquire(int64(len(b))) {
			return x.Refuse(fault.New(fault.Overload, "too many requests are in flight; try again"))
		}
		defer bytes.Release(int64(len(b)))
	}
	v, f := x.body(b)
	if f != nil {
		return x.Refuse(f)
	}
	return v
}

// body is the walk: read, era, then by method.
func (x *Exchange) body(b []byte) (Verdict, *fault.Error) {
	m, f := x.read(b)
	if f != nil {
		return nil, f
	}
	if f := x.era(m); f != nil {
		return nil, f
	}
	if x.legacy {
		return x.legacyMethod(m)
	}
	return x.modernMethod(m)
}

func (x *Exchange) read(b []byte) (*jsonrpc.Message, *fault.Error) {
	m, err := jsonrpc.Read(b, jsonrpc.Limits{Depth: x.Snapshot.Settings.Depth})
	if err != nil {
		var e *jsonrpc.Error
		if !errors.As(err, &e) {
			return nil, fault.From(err)
		}
		x.setID(e.ID)
		if e.Kind == jsonrpc.Malformed {
			return nil, fault.New(fault.Parse, "%s", e.Msg)
		}
		return nil, fault.New(fault.Invalid, "%s", e.Msg)
	}
	x.setID(m.ID)
	return m, nil
}

func (x *Exchange) setID(id []byte) {
	if id != nil {
		x.id = append([]byte(nil), id...)
		x.ID = string(x.id)
	}
}

// modernMethod serves a request of 2026-07-28.
func (x *Exchange) modernMethod(m *jsonrpc.Message) (Verdict, *fault.Error) {
	switch {
	case m.Kind == jsonrpc.Notification:
		return x.reply(http.StatusAccepted, nil), nil // HTTP carries no client notification in this era: nothing to act on
	case !m.Meta.Get(mcp.MetaCapabilities).Exists() || m.Meta.Get(mcp.MetaCapabilities).Kind() != '{':
		return nil, fault.New(fault.BadMeta, "params._meta needs %s, an object", mcp.MetaCapabilities)
	}
	if f := x.mirrors(mcp.HeaderMethod, m.Method); f != nil {
		return nil, f
	}
	switch x.row.Class {
	case mcp.Discover:
		return x.result(x.discover())
	case mcp.List:
		return x.list(m)
	case mcp.Use:
		return x.use(m)
	case mcp.Listen:
		return x.toBroker(m)
	}
	return nil, fault.New(fault.NoMethod, "there is no method %q in %s", clip(m.Method, 64), x.Revision)
}

// legacyMethod serves a message of a revision with sessions.
func (x *Exchange) legacyMethod(m *jsonrpc.Message) (Verdict, *fault.Error) {
	if x.row.Class == mcp.Initialize {
		return x.initialize(m)
	}
	if f := x.findSession(); f != nil {
		return nil, f
	}
	if m.Kind == jsonrpc.Response {
		return x.toBroker(m)
	}
	switch x.row.Class {
	case mcp.Ping:
		return x.result([]byte("{}"))
	case mcp.List:
		return x.list(m)
	case mcp.Use, mcp.Watch:
		return x.use(m)
	case mcp.SetLevel:
		return x.setLevel(m)
	case mcp.Notification:
		if m.Method == mcp.NotifyInitialized {
			return x.initialized()
		}
		return x.toBroker(m)
	}
	if m.Kind == jsonrpc.Notification {
		return x.reply(http.StatusAccepted, nil), nil
	}
	return nil, fault.New(fault.NoMethod, "there is no method %q in %s", clip(m.Method, 64), x.Revision)
}

// use serves a message that names one item: resolve, check, decide, lane.
func (x *Exchange) use(m *jsonrpc.Message) (Verdict, *fault.Error) {
	t, v, f := x.judge(m)
	if t == nil {
		return v, f
	}
	v, f = x.lane(t, t.sent)
	if f != nil {
		x.forgo()
	}
	return v, f
}

// judge finds the item that a message names and rules on it. Without a target it is refused, by a fault or a verdict.
func (x *Exchange) judge(m *jsonrpc.Message) (*target, Verdict, *fault.Error) {
	t, f := x.target(m)
	if f != nil {
		return nil, nil, f
	}
	if x.row.Mirrored {
		if f := x.mirrors(mcp.HeaderName, t.public); f != nil {
			return nil, nil, f
		}
	}
	x.resolve(&t)
	if t.entry == nil {
		return nil, nil, t.unknown()
	}
	x.Entry = t.entry
	x.Kind, x.Server, x.Item, x.Public = t.entry.Item.Kind.String(), t.entry.Item.Server, t.entry.Item.Name, t.entry.Public

	q := x.question(&t, m)
	refusal := x.check(&t, m)
	var question Verdict // for the client's user
	if refusal == nil {
		question, refusal = x.confirm(&t, m, q, x.decide(q))
	}
	if refusal == nil && question == nil {
		t.sent, refusal = x.rewrite(&t, m)
	}
	if refusal != nil {
		x.forgo()
		// A list asks about the first round.
		q.Context.Round = 0
		if visible, err := x.Snapshot.Policy.Visible(x.ctx, q); !visible || err != nil { // whatever failed: what cannot be seen is unknown
			x.Fault = refusal // the true reason: for the record alone
			return nil, nil, t.unknown()
		}
		v, f := x.refuseUse(m, refusal)
		return nil, v, f
	}
	if question != nil {
		return nil, question, nil
	}
	return &t, nil, nil
}

// decide asks policy. Anything but allow is a refusal, which confirm may take back where a human says yes.
func (x *Exchange) decide(q *policy.Question) *fault.Error {
	r := x.g.ruling(x.ctx, x.Snapshot, q)
	x.Ruling = &r
	switch {
	case r.Err != nil:
		return fault.New(fault.Internal, "policy could not rule on this call").Wrap(r.Err)
	case r.Effect == policy.Allow:
		if f := x.oblige(r.Obligations); f != nil {
			return f
		}
		return x.mark(r.Obligations)
	}
	return fault.New(fault.Denied, "%s", r.Public()).With(denial(&r))
}

// ruling asks policy about a call, and tells whoever listens.
func (g *Gateway) ruling(ctx context.Context, s *Snapshot, q *policy.Question) policy.Ruling {
	r := s.Policy.Decide(ctx, q)
	if g.opts.Judged != nil {
		g.opts.Judged(q, &r, s)
	}
	return r
}

// refuseUse tells a caller who can see the item why not; as a result where the endpoint says so, for the model to read.
func (x *Exchange) refuseUse(m *jsonrpc.Message, f *fault.Error) (Verdict, *fault.Error) {
	f = x.identified(f)
	if f.Kind != fault.Denied || !x.Endpoint.DenialsAsResult || m.Method != mcp.MethodToolsCall {
		return nil, f
	}
	x.Fault = f
	return x.result(denialResult(f, x.DecisionID, x.legacy))
}

// denialResult is a refusal as a tool's result.
func denialResult(f *fault.Error, decision string, legacy bool) []byte {
	b := append([]byte(`{"content":[{"type":"text","text":`), jsonrpc.AppendString(nil, f.Message)...)
	b = append(append(b, `}],"isError":true,"_meta":`...), resultMeta(decision)...)
	if !legacy {
		b = append(b, `,"resultType":"complete"`...)
	}
	return append(b, '}')
}

// lane chooses how the call is served. Direct needs one modern server on both sides and nothing to change in its answer; what is
// redacted goes by the broker, and so does everything legacy, whose sessions it holds.
func (x *Exchange) lane(t *target, m *jsonrpc.Message) (Verdict, *fault.Error) {
	server := t.entry.Item.Server
	if !x.Snapshot.Routes.Servers[server] {
		return nil, upstream(server, "unavailable")
	}
	if x.legacy || x.changes.result != nil || x.grant != nil || x.stripped {
		return x.toBroker(m)
	}
	x.Lane = "direct"
	fw := &Forward{
		Backend: BackendPrefix + server, Set: x.changes.set,
		Remove: append(removals(x.header, x.Snapshot.Settings.Servers[server]), x.changes.remove...),
	}
	if x.Rewritten > 0 {
		fw.Body = m.Body
	}
	if t.origin != t.public { // renamed: the same string in body and header
		fw.Body = jsonrpc.Splice(m.Body, jsonrpc.Edit{Pos: t.value.Pos, Len: len(t.value.Raw), Text: jsonrpc.AppendString(nil, t.origin)})
		if x.row.Mirrored {
			fw.Set = append(fw.Set, HeaderLine{mcp.HeaderName, mcp.EncodeHeader(t.origin)})
		}
	}
	fw.Facts = x.facts()
	return fw, nil
}

// toBroker parks the exchange and sends the client's connection to the slow lane. The broker has the body already, so none is sent.
func (x *Exchange) toBroker(m *jsonrpc.Message) (Verdict, *fault.Error) {
	x.Lane = "broker"
	ticket, err := x.g.park.put(x, m)
	if err != nil {
		return nil, fault.New(fault.Overload, "too many requests wait for a server; try again").Wrap(err)
	}
	fw := &Forward{
		Backend: BackendBroker, Set: append([]HeaderLine{{HeaderTicket, ticket}}, x.changes.set...),
		Remove: append(removals(x.header, x.Snapshot.Settings.Servers[x.Server]), x.changes.remove...), Facts: x.facts(),
	}
	if m != nil {
		fw.Body = []byte{}
	}
	return fw, nil
}

// upstream is the fault for a server that cannot serve; reason is from the closed set of architecture.
func upstream(server, reason string) *fault.Error {
	return fault.New(fault.Upstream, "the server did not answer this call").
		With([]byte(fmt.Sprintf(`{"server":%q,"reason":%q}`, server, reason)))
}

// Upstream is the fault that a client is told when a server did not answer as an MCP server: a fixed text, the configured name and a
// reason from a closed set (unavailable, timeout, not_mcp, unauthorized), never an address.
func Upstream(server, reason string) *fault.Error { return upstream(server, reason) }

// result answers with a result of the request.
func (x *Exchange) result(result []byte) (Verdict, *fault.Error) {
	return x.reply(http.StatusOK, jsonrpc.Result(x.id, result)), nil
}

func (x *Exchange) reply(status int, body []byte, header ...HeaderLine) *Reply {
	x.Status, x.ReplyBytes = status, len(body)
	if body != nil {
		header = append(header, HeaderLine{"content-type", "application/json"})
	}
	return &Reply{Status: status, Header: header, Body: body, Facts: x.facts()}
}

// Refuse renders a fault for this caller. The first fault found stays on record: a hidden item is told as unknown, but recorded as
// what it was.
func (x *Exchange) Refuse(f *fault.Error) *Reply {
	if x.Fault == nil {
		x.Fault = f
	}
	var header []HeaderLine
	for k, v := range f.Header {
		header = append(header, HeaderLine{k, v})
	}
	return x.reply(f.Kind.Status(x.legacy), f.Reply(x.id), header...)
}

// Panicked is the refusal for a walk that panicked in its middle.
func (x *Exchange) Panicked() *Reply {
	x.Fault = fault.New(fault.Internal, "the gateway could not serve this request")
	return x.Refuse(x.Fault)
}

// Legacy reports the client's era.
func (x *Exchange) Legacy() bool { return x.legacy }

// Class is how the method of the message is served.
func (x *Exchange) Class() mcp.Class { return x.row.Class }

func (x *Exchange) facts() Facts {
	f := Facts{IDJSON: x.ID, Lane: x.Lane, Server: x.Server, DecisionID: x.DecisionID, Method: x.Method, Tool: x.Public, Origin: x.origin}
	if f.IDJSON == "" {
		f.IDJSON = "null"
	}
	f.Era = "modern"
	if x.legacy {
		f.Era = "legacy"
	}
	return f
}

// clip bounds what of a client's words is repeated to it or logged.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// Broken is the refusal where there is no exchange to speak of.
func Broken() *Reply {
	f := fault.New(fault.Internal, "the gateway could not serve this request")
	return &Reply{Status: f.Kind.Status(false), Body: f.Reply(nil), Header: []HeaderLine{{"content-type", "application/json"}}, Facts: Facts{IDJSON: "null"}}
}
