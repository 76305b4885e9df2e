package gateway

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// LaneAuthorize is the lane of a request that another's Envoy routes: it is let through or refused, and nothing else.
const LaneAuthorize = "ext_authz"

// Pass lets a request go on as it came, but for what is removed.
type Pass struct {
	Remove []string // headers
	Facts  Facts
}

func (*Pass) verdict() {}

// AuthorizePath is where the catalog keeps a server's items for Authorize. No client can reach it: no endpoint of the settings has its
// name.
func AuthorizePath(server string) string { return "/" + LaneAuthorize + ":" + server }

// Authorize judges a whole request, head and body, for a rim that can only let it pass: an Envoy that somebody else configures, with one
// MCP server behind it. The same rules count as for a call by an endpoint, and the same refusals are told. What such a rim cannot do is
// refused: a request that it did not read whole, one that changes the protocol, a ruling that wants arguments or results changed. Lists
// are the server's own and pass unfiltered; sessions are between client and server. h and body are not kept.
func (g *Gateway) Authorize(ctx context.Context, h *Head, body []byte, server string) (*Exchange, Verdict) {
	x := &Exchange{g: g, ctx: ctx, header: h.Header, Snapshot: g.Snapshot()}
	x.Record = Record{DecisionID: rand.Text(), Start: time.Now(), HTTPMethod: clip(h.Method, 16), Address: h.Address, Lane: LaneAuthorize, BodyBytes: len(body)}
	if bytes := g.opts.Bytes; bytes != nil {
		if !bytes.TryAcquire(int64(len(body))) {
			return x, x.Refuse(fault.New(fault.Overload, "too many requests are in flight; try again"))
		}
		defer bytes.Release(int64(len(body)))
	}
	v, f := x.authorize(h, body, server)
	if f != nil {
		return x, x.Refuse(f)
	}
	return x, v
}

// Unjudged refuses a request that its rim could not read, for the reason f.
func (g *Gateway) Unjudged(ctx context.Context, h *Head, f *fault.Error) (*Exchange, Verdict) {
	x := &Exchange{g: g, ctx: ctx, header: h.Header, Snapshot: g.Snapshot()}
	x.Record = Record{DecisionID: rand.Text(), Start: time.Now(), HTTPMethod: clip(h.Method, 16), Address: h.Address, Lane: LaneAuthorize}
	return x, x.Refuse(f)
}

func (x *Exchange) authorize(h *Head, body []byte, server string) (Verdict, *fault.Error) {
	if x.Snapshot == nil {
		return nil, fault.New(fault.Internal, "the gateway is starting")
	}
	x.listener = x.Snapshot.Settings.Listeners[h.Listener]
	x.View = x.Snapshot.Catalog.View(AuthorizePath(server))
	if x.listener == nil || x.View == nil {
		return nil, fault.New(fault.Internal, "the gateway does not know this server").Wrap(errors.New("ext_authz for listener " + clip(h.Listener, 64) + ", server " + clip(server, 64)))
	}
	x.Listener, x.Path = x.listener.Name, x.View.Path
	x.Endpoint = &Endpoint{Name: LaneAuthorize}
	x.Record.Endpoint = x.Endpoint.Name
	x.Record.Snapshot, x.Catalog = x.Snapshot.Version(), x.Snapshot.Catalog.Version()
	if f := x.listener.checkHost(h); f != nil {
		return nil, f
	}
	x.origin = h.Header.Get("origin")
	if f := x.identify(); f != nil {
		return nil, f
	}
	if h.Header.Get("upgrade") != "" || slices.ContainsFunc(h.Header.Values("connection"), func(v string) bool { return strings.Contains(strings.ToLower(v), "upgrade") }) {
		return nil, fault.New(fault.Invalid, "an MCP endpoint does not change protocols") // after which every byte would pass unread
	}
	if !isHTTPMethod(h.Method) {
		return nil, fault.WithAllow(methods)
	}
	if h.Method != http.MethodPost {
		if !h.NoBody || len(body) > 0 {
			return nil, fault.New(fault.Invalid, "a %s takes no body", h.Method)
		}
		return x.pass(), nil
	}
	if f := checkPost(h); f != nil {
		return nil, f
	}
	m, f := x.read(body)
	if f != nil {
		return nil, f
	}
	if f := x.era(m); f != nil {
		return nil, f
	}
	return x.message(m)
}

// message judges what a client says to its server.
func (x *Exchange) message(m *jsonrpc.Message) (Verdict, *fault.Error) {
	if !x.legacy && m.Kind == jsonrpc.Request {
		if !m.Meta.Get(mcp.MetaCapabilities).Exists() || m.Meta.Get(mcp.MetaCapabilities).Kind() != '{' {
			return nil, fault.New(fault.BadMeta, "params._meta needs %s, an object", mcp.MetaCapabilities)
		}
		if f := x.mirrors(mcp.HeaderMethod, m.Method); f != nil {
			return nil, f
		}
	}
	if m.Kind == jsonrpc.Response {
		return x.pass(), nil
	}
	switch x.row.Class {
	case mcp.Use, mcp.Watch:
		t, v, f := x.judge(m)
		if t == nil {
			return v, f
		}
		return x.pass(), nil
	case mcp.Listen:
		return x.subscribe(m)
	case mcp.Absent:
		return nil, fault.New(fault.NoMethod, "there is no method %q in %s", clip(m.Method, 64), x.Revision)
	}
	return x.pass(), nil // the protocol's own methods: a principal is enough
}

// maxWatched is how many resources one request may name: each is a question to policy, and 4 MiB hold a quarter of a million.
const maxWatched = 1000

// subscribe judges the resources of subscriptions/listen as reads. What may not be read is unknown.
func (x *Exchange) subscribe(m *jsonrpc.Message) (Verdict, *fault.Error) {
	wanted, err := jsonrpc.Parse(m.Params.Get("notifications").Raw, jsonrpc.Limits{})
	if err != nil {
		return nil, fault.New(fault.BadArguments, "params.notifications must be an object")
	}
	var uris []string
	if list := wanted.Get("resourceSubscriptions"); list.Exists() && json.Unmarshal(list.Raw, &uris) != nil {
		return nil, fault.New(fault.BadArguments, "resourceSubscriptions must be texts")
	}
	if len(uris) > maxWatched {
		return nil, fault.New(fault.BadArguments, "resourceSubscriptions names more than %d resources", maxWatched)
	}
	slices.Sort(uris)
	for _, uri := range slices.Compact(uris) {
		t := target{kind: catalog.Resource, action: mcp.MethodResourcesRead, public: uri}
		x.resolve(&t)
		if t.entry == nil {
			return nil, t.unknown()
		}
		q := x.asks(t.action)
		q.Item, q.URI = t.entry.Item, uri
		if f := x.decide(q); f != nil { // what an allow demands besides is met, or refuses, too
			x.Fault = f
			return nil, t.unknown()
		}
	}
	return x.pass(), nil
}

// credentials are the headers that prove to the gateway who calls. They are not the server's to see.
var credentials = []string{"authorization", "x-api-key"}

func (x *Exchange) pass() *Pass {
	x.grant.Done() // what comes after it is not seen here
	return &Pass{Remove: credentials, Facts: x.facts()}
}
