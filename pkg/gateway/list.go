package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/http"

	"github.com/maypok86/otter/v2"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// lists keeps, for every view and every set of callers whom policy cannot tell apart, what they see and the bytes of the first page.
// A new catalog has new views and a new policy a new revision, so nothing here is ever stale; what is no longer asked for falls out.
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

func newLists(bytes int) (*lists, error) {
	c, err := otter.New(&otter.Options[listKey, *visible]{
		MaximumWeight: uint64(bytes),
		Weigher: func(_ listKey, v *visible) uint32 {
			return uint32(min(len(v.first)+8*len(v.entries)+256, 1<<30))
		},
	})
	if err != nil {
		return nil, fmt.Errorf("list cache: %w", err)
	}
	return &lists{cache: c}, nil
}

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
	return x.reply(http.StatusOK, jsonrpc.Result(x.id, result)), nil
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
		if v, ok := x.g.lists.cache.GetIfPresent(key); ok {
			return v, nil
		}
	}
	v := &visible{}
	for _, e := range x.View.Entries(kind, key.era) {
		q.Item = e.Item
		if x.Snapshot.Policy.Visible(x.ctx, q) {
			v.entries = append(v.entries, e)
		}
	}
	if err := x.ctx.Err(); err != nil {
		return nil, err // an answer cut short must not be kept
	}
	page, next, err := x.View.Page(v.entries, "")
	if err != nil {
		return nil, err
	}
	v.first = x.View.AppendList(nil, kind, key.era, page, next)
	if reusable {
		x.g.lists.cache.Set(key, v)
	}
	return v, nil
}

// Sees digests, by kind, what the caller of x sees of its endpoint in a snapshot: equal digests, equal lists. Streams compare it to
// know when to tell their client that a list has changed. ok is false when the endpoint is gone or policy cannot rule.
func (x *Exchange) Sees(s *Snapshot) (digests [len(catalog.Kinds)][32]byte, ok bool) {
	y := *x
	y.Snapshot, y.View, y.ctx = s, s.Catalog.View(x.View.Path), context.WithoutCancel(x.ctx)
	if y.View == nil || s.Settings.Endpoints[x.Endpoint.Name] == nil {
		return digests, false
	}
	for _, k := range catalog.Kinds {
		v, err := y.visible(k)
		if err != nil {
			return digests, false
		}
		h := sha256.New()
		for _, e := range v.entries {
			_, _ = h.Write(binary.AppendUvarint(nil, uint64(len(e.Fragment(y.eraOf()))))) // a hash never fails
			_, _ = h.Write(e.Fragment(y.eraOf()))
		}
		h.Sum(digests[k][:0])
	}
	return digests, true
}
