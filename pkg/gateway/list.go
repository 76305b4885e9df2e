package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// lists keeps, for every view of one catalog and every set of callers whom policy cannot tell apart, what they see and the bytes of the
// first page. It goes with its catalog, and a new policy has a new revision, so nothing here is ever stale.
type lists struct {
	cache *otter.Cache[listKey, *visible]
}

type listKey struct {
	view   *catalog.View
	kind   catalog.Kind
	era    catalog.Era
	policy string
	caller [32]byte // policy.Engine.ListKey
}

// visible is what one kind of caller sees of one view.
type visible struct {
	entries []*catalog.Entry
	first   []byte // the result of the first page, ready
}

func newLists(bytes int) *lists {
	c := otter.Must(&otter.Options[listKey, *visible]{
		MaximumWeight: uint64(bytes),
		Weigher: func(_ listKey, v *visible) uint32 {
			return uint32(min(len(v.first)+8*len(v.entries)+256, 1<<30))
		},
	})
	return &lists{cache: c}
}

// buffers are of replies to lists: a long one for each call would be most of the garbage. What is larger than the bound is not kept.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

const maxBuffer = 1 << 20

var kinds = map[mcp.Kind]catalog.Kind{mcp.Tool: catalog.Tool, mcp.Resource: catalog.Resource, mcp.Template: catalog.Template, mcp.Prompt: catalog.Prompt}

// actions is what policy is asked about each kind of item: the question of its use, never that of the list.
var actions = [...]string{catalog.Tool: mcp.MethodToolsCall, catalog.Resource: mcp.MethodResourcesRead, catalog.Template: mcp.MethodResourcesRead, catalog.Prompt: mcp.MethodPromptsGet}

// list answers a list from the catalog: what this caller may use, in ready bytes.
func (x *Exchange) list(m *jsonrpc.Message) (Verdict, *fault.Error) {
	cursor := ""
	if c := m.Params.Get("cursor"); c.Exists() {
		var ok bool
		if cursor, ok = c.Str(); !ok {
			return nil, fault.New(fault.Unknown, "params.cursor must be a string")
		}
	}
	kind := kinds[x.row.Kind]
	v, err := x.visible(kind)
	if err != nil {
		return nil, fault.New(fault.Internal, "policy could not rule on this list").Wrap(err)
	}
	result := v.first
	if cursor != "" {
		page, next, err := x.View.Page(v.entries, cursor)
		if err != nil {
			return nil, fault.New(fault.Unknown, "bad cursor").Wrap(err)
		}
		result = x.View.AppendList(nil, kind, x.eraOf(), page, next)
	}
	b := buffers.Get().(*[]byte)
	*b = jsonrpc.AppendResult((*b)[:0], x.id, result)
	r := x.reply(http.StatusOK, *b)
	r.Done = func() {
		if cap(*b) <= maxBuffer {
			buffers.Put(b)
		}
	}
	return r, nil
}

func (x *Exchange) eraOf() catalog.Era {
	if x.legacy {
		return catalog.Legacy
	}
	return catalog.Modern
}

// visible asks policy about each item, or remembers what it said to a caller it cannot tell from this one.
func (x *Exchange) visible(kind catalog.Kind) (*visible, error) {
	q := x.asks(actions[kind])
	caller, reusable := x.Snapshot.Policy.ListKey(q)
	key := listKey{x.View, kind, x.eraOf(), x.Snapshot.Policy.Revision(), caller}
	if reusable {
		if v, ok := x.Snapshot.lists.cache.GetIfPresent(key); ok {
			return v, nil
		}
	}
	v := &visible{}
	for _, e := range x.View.Entries(kind, key.era) {
		q.Item = e.Item
		visible, err := x.Snapshot.Policy.Visible(x.ctx, q)
		switch {
		case errors.Is(err, policy.ErrTimeout):
			return nil, err
		case err != nil: // a fault of the policy with this one item: it stays hidden
			reusable = false
		case visible:
			v.entries = append(v.entries, e)
		}
	}
	page, next, err := x.View.Page(v.entries, "")
	if err != nil {
		return nil, err
	}
	v.first = x.View.AppendList(nil, kind, key.era, page, next)
	if reusable {
		x.Snapshot.lists.cache.Set(key, v)
	}
	return v, nil
}

// Unpin lets go of the world in which the exchange was judged, so that a long stream holds no old catalog. Sees and MayRead ask the
// world of the moment, and go on.
func (x *Exchange) Unpin() {
	x.Snapshot, x.View, x.Entry, x.header, x.listener, x.Endpoint = nil, nil, nil, nil, nil, nil
	x.ctx = context.Background() // the one it had ended with its judgement, and holds the stream to Envoy
}

// now is the exchange as it would be judged in a snapshot: the caller as it is now, the endpoint's view of then. Nil when its credential
// does not count any more, or the endpoint is gone from this listener.
func (x *Exchange) now(s *Snapshot) *Exchange {
	y := *x
	y.Snapshot, y.View, y.ctx, y.Start = s, s.Catalog.View(x.Path), context.WithoutCancel(x.ctx), time.Now()
	y.listener, y.Endpoint = s.Settings.Listeners[x.Listener], s.Settings.Endpoints[x.Record.Endpoint]
	if y.View == nil || y.listener == nil || y.Endpoint == nil || !y.Endpoint.on(y.Listener) {
		return nil
	}
	if y.Principal = y.listener.Auth.Current(x.Principal); y.Principal == nil {
		return nil
	}
	return &y
}

// Still reports whether the caller may use its endpoint in a snapshot.
func (x *Exchange) Still(s *Snapshot) bool { return x.now(s) != nil }

// Serves reports whether a server is part of the endpoint in a snapshot.
func (x *Exchange) Serves(s *Snapshot, server string) bool {
	y := x.now(s)
	return y != nil && slices.ContainsFunc(y.View.Servers(), func(src *catalog.Source) bool { return src.Server == server })
}

// Sees digests, by kind, what the caller of x sees of its endpoint in a snapshot: equal digests, equal lists. Streams compare it to
// know when to tell their client that a list has changed. ok is false when the caller may not use the endpoint any more; an error says
// that policy could not rule.
func (x *Exchange) Sees(s *Snapshot) (digests [len(catalog.Kinds)][32]byte, ok bool, err error) {
	y := x.now(s)
	if y == nil {
		return digests, false, nil
	}
	for _, k := range catalog.Kinds {
		v, err := y.visible(k)
		if err != nil {
			return digests, true, err
		}
		h := sha256.New()
		for _, e := range v.entries {
			_, _ = h.Write(binary.AppendUvarint(nil, uint64(len(e.Fragment(y.eraOf()))))) // a hash never fails
			_, _ = h.Write(e.Fragment(y.eraOf()))
		}
		h.Sum(digests[k][:0])
	}
	return digests, true, nil
}
