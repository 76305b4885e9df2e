package gateway

import (
	"errors"
	"slices"
	"time"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// Supposed is a call that nobody makes.
type Supposed struct {
	View      *catalog.View
	Caller    *identity.Principal
	Method    string // of those that name an item: tools/call, resources/read, prompts/get
	Name      string // as a client writes it: the public name, the URI
	Arguments []byte // JSON text of an object; nil for none
	Legacy    bool
}

// Errors of Suppose: what the caller of a call would be told, and no policy decides.
var (
	ErrNoUse  = errors.New("not a method that uses an item")
	ErrNoItem = errors.New("no such item")
)

// Suppose makes the question that policy would be asked about a call, by the same table and the same checks as for a real one. refusal is
// why such a call is refused before policy is asked: its arguments do not fit what the item declares; the question is there all the same.
func (s *Snapshot) Suppose(c Supposed) (q *policy.Question, refusal *fault.Error, err error) {
	revision := mcp.R20260728
	if c.Legacy {
		revision = mcp.R20251125
	}
	row := revision.Method(c.Method)
	t := target{action: row.Action, public: c.Name}
	switch {
	case row.Class != mcp.Use || row.Param == "ref":
		return nil, nil, ErrNoUse
	case row.Kind == mcp.Tool:
		t.kind = catalog.Tool
	case row.Kind == mcp.Prompt:
		t.kind = catalog.Prompt
	default:
		t.kind = catalog.Resource
	}
	x := &Exchange{View: c.View, legacy: c.Legacy}
	if x.resolve(&t); t.entry == nil {
		return nil, nil, ErrNoItem
	}
	q = &policy.Question{
		Subject: c.Caller, Action: t.action, Item: t.entry.Item, URI: t.uri,
		Context: policy.Context{Endpoint: c.View.Endpoint, Era: era(c.Legacy), Revision: string(revision), Time: time.Now().UTC().Truncate(time.Millisecond)},
	}
	if t.kind == catalog.Resource || c.Arguments == nil {
		return q, nil, nil
	}
	arguments, err := jsonrpc.Parse(c.Arguments, jsonrpc.Limits{Depth: s.Settings.Depth})
	if err != nil {
		return nil, nil, err
	}
	q.Arguments = slices.Clone(c.Arguments)
	if shapeOf := s.shapes[t.entry.Item]; shapeOf != nil && len(arguments.Members) > 0 {
		names, all := s.Policy.Reads(t.entry.Item)
		refusal = inspect(shapeOf(), arguments, names, all)
	}
	return q, refusal, nil
}
