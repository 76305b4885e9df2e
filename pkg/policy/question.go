package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

// AppendJSON writes the whole question as the JSON that policies/input.schema.json describes: what a policy that read everything would
// see. Numbers keep their digits. It holds arguments and claims, so it belongs where those may be kept.
func (q *Question) AppendJSON(b []byte) []byte {
	p, i, c := q.Subject, q.Item, &q.Context
	b = append(b, `{"subject":{`...)
	b = member(b, "type", p.Type)
	b = member(append(b, ','), "id", p.ID)
	b = member(append(b, ','), "issuer", p.Issuer)
	b = member(append(b, ','), "client", p.Client)
	b = member(append(b, ','), "tenant", p.Tenant)
	b = list(append(b, `,"roles":`...), p.Roles)
	b = list(append(b, `,"scopes":`...), p.Scopes)
	b = object(append(b, `,"claims":`...), p.Claims)
	b = append(b, `},"action":{`...)
	b = member(b, "name", q.Action)
	b = append(b, `},"resource":{`...)
	b = member(b, "type", i.Kind.String())
	b = member(append(b, ','), "id", i.ID())
	b = member(append(b, ','), "server", i.Server)
	b = member(append(b, ','), "name", i.Name)
	b = member(append(b, ','), "title", i.Title)
	b = object(append(b, `,"annotations":`...), i.Annotations)
	b = object(append(b, `,"claimed":`...), i.Claimed)
	b = list(append(b, `,"tags":`...), i.Tags)
	b = member(append(b, ','), "digest", i.Digest)
	b = member(append(b, ','), "drift", i.Drift)
	b = list(append(b, `,"findings":`...), i.Findings)
	if u, ok := q.ConcreteURI(); ok {
		b = member(append(b, ','), "uri", u)
	}
	b = object(append(b, `},"arguments":`...), q.Arguments)
	b = append(b, `,"context":{`...)
	b = member(b, "endpoint", c.Endpoint)
	b = member(append(b, ','), "era", c.Era)
	b = member(append(b, ','), "revision", c.Revision)
	b = list(append(b, `,"session":{"labels":`...), c.Labels)
	b = fmt.Appendf(b, `,"lost":%t},`, c.LabelsLost)
	b = member(b, "client_address", c.ClientAddress)
	b = member(append(b, ','), "request_id", c.RequestID)
	b = fmt.Appendf(b, `,"round":%d,`, c.Round)
	b = member(b, "time", c.TimeText())
	return append(b, `}}`...)
}

// MarshalJSON is AppendJSON. Subject and Item must be set.
func (q *Question) MarshalJSON() ([]byte, error) {
	if q.Subject == nil || q.Item == nil {
		return nil, errors.New("a question needs subject and item")
	}
	return q.AppendJSON(nil), nil
}

// Clone is a question that may be kept. Principal and item are immutable and shared; the rest is copied.
func (q *Question) Clone() *Question {
	c := *q
	c.Arguments = bytes.Clone(q.Arguments)
	c.Context.Labels = slices.Clone(q.Context.Labels)
	return &c
}

// TimeText is the time as rules see it.
func (c *Context) TimeText() string { return c.Time.UTC().Format(time.RFC3339Nano) }

// ConcreteURI is the URI that is read; ok is false where there is none, as for tools, and for templates of which none is known.
func (q *Question) ConcreteURI() (uri string, ok bool) {
	switch q.Item.Kind {
	case catalog.Resource:
		if q.URI == "" {
			return q.Item.Name, true
		}
		return q.URI, true
	case catalog.Template:
		return q.URI, q.URI != ""
	}
	return "", false
}

// ParseQuestion reads what AppendJSON wrote. It is strict as the reader of messages is, except that members may be absent, which is
// the same as empty. Its item is made of what the text says of it: it is no item of a catalog, and has no definition.
func ParseQuestion(text []byte) (*Question, error) {
	o, err := jsonrpc.Parse(text, jsonrpc.Limits{Depth: 256})
	if err != nil {
		return nil, fmt.Errorf("the question cannot be read: %w", err)
	}
	r := &reader{}
	var item catalog.Item
	var who identity.Principal
	q := &Question{Subject: &who, Item: &item}
	for _, m := range o.Members {
		switch m.Name {
		case "subject":
			r.members(m.Value, "subject", map[string]func(jsonrpc.Value) bool{
				"type": str(&who.Type), "id": str(&who.ID), "issuer": str(&who.Issuer), "client": str(&who.Client), "tenant": str(&who.Tenant),
				"roles": strs(&who.Roles), "scopes": strs(&who.Scopes), "claims": raw(&who.Claims),
			})
		case "action":
			r.members(m.Value, "action", map[string]func(jsonrpc.Value) bool{"name": str(&q.Action)})
		case "resource":
			r.members(m.Value, "resource", map[string]func(jsonrpc.Value) bool{
				"type": func(v jsonrpc.Value) bool {
					s, ok := v.Str()
					return ok && item.Kind.UnmarshalText([]byte(s)) == nil
				},
				"id": str(new(string)), "server": str(&item.Server), "name": str(&item.Name), "uri": str(&q.URI), "title": str(&item.Title),
				"annotations": raw(&item.Annotations), "claimed": raw(&item.Claimed), "tags": strs(&item.Tags), "digest": str(&item.Digest),
				"drift": str(&item.Drift), "findings": strs(&item.Findings),
			})
		case "arguments":
			if !raw(&q.Arguments)(m.Value) {
				r.fail("arguments")
			}
		case "context":
			c := &q.Context
			r.members(m.Value, "context", map[string]func(jsonrpc.Value) bool{
				"endpoint": str(&c.Endpoint), "era": str(&c.Era), "revision": str(&c.Revision), "client_address": str(&c.ClientAddress),
				"request_id": str(&c.RequestID),
				"session": func(v jsonrpc.Value) bool {
					r.members(v, "context.session", map[string]func(jsonrpc.Value) bool{
						"labels": strs(&c.Labels), "lost": func(v jsonrpc.Value) bool { return json.Unmarshal(v.Raw, &c.LabelsLost) == nil },
					})
					return true
				},
				"round": func(v jsonrpc.Value) bool { return json.Unmarshal(v.Raw, &c.Round) == nil },
				"time": func(v jsonrpc.Value) bool {
					s, _ := v.Str()
					var err error
					c.Time, err = time.Parse(time.RFC3339Nano, s)
					return err == nil
				},
			})
		default:
			r.fail(m.Name)
		}
	}
	return q, r.err
}

func member(b []byte, name, value string) []byte {
	b = append(append(append(b, '"'), name...), `":`...)
	return jsonrpc.AppendString(b, value)
}

func list(b []byte, values []string) []byte {
	b = append(b, '[')
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = jsonrpc.AppendString(b, v)
	}
	return append(b, ']')
}

func object(b, text []byte) []byte {
	if text == nil {
		return append(b, `{}`...)
	}
	return append(b, text...)
}

// reader keeps the first fault of a question's text.
type reader struct{ err error }

func (r *reader) fail(path string) {
	if r.err == nil {
		r.err = fmt.Errorf("the question has no %s of this kind; policies/input.schema.json describes it", path)
	}
}

func (r *reader) members(v jsonrpc.Value, path string, known map[string]func(jsonrpc.Value) bool) {
	o, err := jsonrpc.Parse(v.Raw, jsonrpc.Limits{Depth: 256})
	if err != nil {
		r.fail(path)
		return
	}
	for _, m := range o.Members {
		if take := known[m.Name]; take == nil || !take(m.Value) {
			r.fail(path + "." + m.Name)
		}
	}
}

func str(into *string) func(jsonrpc.Value) bool {
	return func(v jsonrpc.Value) (ok bool) {
		*into, ok = v.Str()
		return ok
	}
}

func strs(into *[]string) func(jsonrpc.Value) bool {
	return func(v jsonrpc.Value) bool { return v.Kind() == '[' && json.Unmarshal(v.Raw, into) == nil }
}

func raw(into *[]byte) func(jsonrpc.Value) bool {
	return func(v jsonrpc.Value) bool {
		*into = append([]byte(nil), v.Raw...)
		return v.Kind() == '{'
	}
}
