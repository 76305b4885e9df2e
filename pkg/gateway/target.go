package gateway

import (
	"context"
	"encoding/json"
	"time"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// target is the item that a message names.
type target struct {
	kind   catalog.Kind
	action string        // what policy is asked
	value  jsonrpc.Value // where the name stands in the body
	public string        // the name as the client used it
	entry  *catalog.Entry
	origin string           // the name as the server knows it
	uri    string           // of a resource
	sent   *jsonrpc.Message // as it goes on: the client's, but for what policy rewrites; once it is judged
}

// target reads which item a message names, without looking for it yet.
func (x *Exchange) target(m *jsonrpc.Message) (target, *fault.Error) {
	if x.row.Param == "ref" {
		return completionTarget(m)
	}
	t := target{action: x.row.Action, value: m.Params.Get(x.row.Param)}
	switch x.row.Kind {
	case mcp.Tool:
		t.kind = catalog.Tool
	case mcp.Prompt:
		t.kind = catalog.Prompt
	default:
		t.kind = catalog.Resource
	}
	var ok bool
	if t.public, ok = t.value.Str(); !ok || t.public == "" {
		return t, fault.New(fault.BadArguments, "params.%s must be a string", x.row.Param)
	}
	return t, nil
}

// completionTarget reads the prompt or resource template whose argument is to be completed; policy is asked as for its use.
func completionTarget(m *jsonrpc.Message) (target, *fault.Error) {
	if !m.Ref.Exists() {
		return target{}, fault.New(fault.BadArguments, "params.ref must be an object")
	}
	typ, _ := m.Ref.Get("type").Str()
	t, member := target{kind: catalog.Prompt, action: mcp.MethodPromptsGet}, "name"
	switch typ {
	case "ref/prompt":
	case "ref/resource":
		t, member = target{kind: catalog.Template, action: mcp.MethodResourcesRead}, "uri"
	default:
		return t, fault.New(fault.BadArguments, "params.ref.type must be ref/prompt or ref/resource")
	}
	t.value = m.Ref.Get(member)
	var ok bool
	if t.public, ok = t.value.Str(); !ok || t.public == "" {
		return t, fault.New(fault.BadArguments, "params.ref.%s must be a string", member)
	}
	return t, nil
}

// resolve finds the item by table. A resource is found by its URI, then by the templates that match it.
func (x *Exchange) resolve(t *target) {
	t.origin = t.public
	switch t.kind {
	case catalog.Resource:
		t.uri = t.public
		t.entry = x.View.ResolveURI(t.public)
	case catalog.Template:
		if t.entry = x.View.Resolve(catalog.Template, t.public); t.entry == nil {
			t.entry = x.View.ResolveURI(t.public) // a plain resource may be completed, too
		}
	default:
		if t.entry = x.View.Resolve(t.kind, t.public); t.entry != nil {
			t.origin = t.entry.Item.Name
		}
	}
	if t.entry != nil && !x.legacy && !t.entry.Modern {
		t.entry = nil // its server speaks to legacy clients alone
	}
}

// unknown is what a caller hears of an item that does not exist or that is hidden from it: the same bytes.
func (t *target) unknown() *fault.Error {
	switch t.kind {
	case catalog.Tool:
		return fault.New(fault.Unknown, "unknown tool %q", clip(t.public, 128))
	case catalog.Prompt:
		return fault.New(fault.Unknown, "unknown prompt %q", clip(t.public, 128))
	}
	data, _ := json.Marshal(map[string]string{"uri": clip(t.public, 2048)}) // a string: it cannot fail
	return fault.New(fault.Unknown, "unknown resource").With(data)
}

// question is what policy is asked about the target. A member named arguments counts only where the method has one: elsewhere no server
// reads it, and it must not sway policy.
func (x *Exchange) question(t *target, m *jsonrpc.Message) *policy.Question {
	q := x.asks(t.action)
	q.Item, q.URI = t.entry.Item, t.uri
	if m.Method == mcp.MethodToolsCall || m.Method == mcp.MethodPromptsGet {
		q.Arguments = m.Arguments.Raw // nil where absent
	}
	q.Context.Round = x.round(m, q)
	return q
}

// asks is a question about no item yet.
func (x *Exchange) asks(action string) *policy.Question {
	labels, lost := x.marks()
	return &policy.Question{Subject: x.Principal, Action: action, Context: policy.Context{
		Labels: labels, LabelsLost: lost,
		Endpoint: x.Endpoint.Name, Era: era(x.legacy), Revision: string(x.Revision), ClientAddress: x.Address,
		RequestID: x.DecisionID, Time: x.Start.UTC().Truncate(time.Millisecond),
	}}
}

func era(legacy bool) string {
	if legacy {
		return "legacy"
	}
	return "modern"
}

// denial is the data of a refusal by policy.
func denial(r *policy.Ruling) json.RawMessage {
	type reason struct {
		Rule    string `json:"rule"`
		Message string `json:"message"`
	}
	reasons := make([]reason, len(r.Reasons))
	for i, why := range r.Reasons {
		reasons[i] = reason{why.Rule, why.Message}
	}
	b, _ := json.Marshal(struct { // strings alone: it cannot fail
		Decision policy.Effect `json:"decision"`
		Reasons  []reason      `json:"reasons"`
	}{policy.Deny, reasons})
	return b
}

// identified puts the decision's id into the data of a refusal that policy made: what an operator finds the ruling by, in log, trace and
// explanation. It is for those who can see the item.
func (x *Exchange) identified(f *fault.Error) *fault.Error {
	if x.Ruling == nil || f.Kind != fault.Denied && x.Ruling.Err == nil {
		return f
	}
	id := append([]byte(`"decision_id":`), jsonrpc.AppendString(nil, x.DecisionID)...)
	data := append([]byte(nil), f.Data...)
	if n := len(data); n > len("{}") && data[0] == '{' {
		data = append(append(data[:n-1], ','), id...)
	} else {
		data = append([]byte{'{'}, id...)
	}
	return f.With(append(data, '}'))
}

// MetaDecisionID names the decision in a result that refuses.
const MetaDecisionID = "com.github.mcpgw/decision_id"

// resultMeta is the _meta of a refusal that is told as a result.
func resultMeta(id string) json.RawMessage {
	b, _ := json.Marshal(map[string]string{MetaDecisionID: id}) // strings alone: it cannot fail
	return b
}

// MayRead asks policy, in a snapshot, whether the caller of x may read a resource now. Where it may read it redacted alone, redacts is
// true: it may hear that the resource has changed, since it knows the URI, but nothing else that is said with it.
func (x *Exchange) MayRead(ctx context.Context, s *Snapshot, uri string) (may, redacts bool) {
	y := x.now(s)
	if y == nil {
		return false, false
	}
	e := y.View.ResolveURI(uri)
	if e == nil {
		return false, false
	}
	q := y.asks(mcp.MethodResourcesRead)
	q.Item, q.URI = e.Item, uri
	r := x.g.ruling(ctx, s, q)
	if r.Err != nil || r.Effect != policy.Allow {
		return false, false
	}
	o := r.Obligations
	if o == nil {
		return true, false
	}
	return len(o.Rewrite) == 0 && y.mark(o) == nil, len(o.Redact) > 0 // a read that has to be rewritten is none that can be done here
}
