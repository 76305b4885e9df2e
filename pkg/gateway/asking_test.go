package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/pkg/approval"
	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/session"
)

// asking is a gateway whose policy asks.
type asking struct {
	*Gateway
	t     *testing.T
	store *approval.Store
	now   time.Time
	who   Approvals
	says  string // what the tool push says of itself
	id    int
}

const askPolicy = `package mcpgw.policy

allow if input.resource.name == "plain"

ask contains "the push needs a yes" if input.resource.name == "push"

ask contains "the file needs a yes" if input.resource.name == "file:///a"

ask contains "the prompt needs a yes" if input.resource.name == "letter"

deny contains "never by force" if input.arguments.force

deny contains "no third time" if input.context.round > 2

deny contains "hidden" if input.resource.name == "hidden"

ask contains "hidden, too" if input.resource.name == "hidden"
`

func startAsking(t *testing.T) *asking {
	t.Helper()
	a := &asking{
		t: t, now: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC),
		who: Approvals{User: true, Operator: true, Limits: approval.Limits{Expiry: time.Minute, Max: 100, PerPrincipal: 5}},
	}
	a.store = approval.New(func() time.Time { return a.now })
	var err error
	if a.Gateway, err = New(Options{Approvals: a.store, Sessions: session.NewMemory(session.MemoryOptions{})}); err != nil {
		t.Fatal(err)
	}
	a.swap(askPolicy)
	return a
}

// swap makes a policy the one in force.
func (a *asking) swap(policy string) {
	a.t.Helper()
	engine, err := opa.Load(opa.Options{Modules: []opa.File{{Name: "p.rego", Text: []byte(policy)}}})
	if err != nil {
		a.t.Fatal(err)
	}
	auth, err := identity.New(identity.Options{APIKeys: []identity.APIKey{
		{ID: "alice", Digest: identity.DigestOf("alice")}, {ID: "bob", Digest: identity.DigestOf("bob")},
	}})
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(auth.Close)
	src := &catalog.Source{Server: "s", Modern: true, Legacy: true, Revisions: []mcp.Revision{mcp.R20260728, mcp.R20251125}}
	for kind, definitions := range map[catalog.Kind][][]byte{
		catalog.Tool: {
			[]byte(`{"name":"push","description":"` + a.says + `","inputSchema":{"type":"object"}}`), []byte(`{"name":"plain","inputSchema":{"type":"object"}}`), []byte(`{"name":"hidden","inputSchema":{"type":"object"}}`),
		},
		catalog.Prompt:   {[]byte(`{"name":"letter","arguments":[{"name":"to"}]}`)},
		catalog.Resource: {[]byte(`{"uri":"file:///a","name":"a"}`)},
	} {
		src.Items[kind], _ = catalog.Collect("s", kind, definitions, catalog.Trust{})
	}
	a.Swap(func(Snapshot) Snapshot {
		return Snapshot{
			Settings: &Settings{
				Listeners: map[string]*Listener{"main": {Name: "main", Auth: auth, Hosts: []string{"localhost"}}},
				Endpoints: map[string]*Endpoint{"mcp": {Name: "mcp"}, "told": {Name: "told", DenialsAsResult: true}}, Servers: map[string]*Server{"s": {Name: "s"}},
				Approvals: a.who,
			},
			Policy: engine, Routes: Routes{Servers: map[string]bool{"s": true}},
			Catalog: catalog.Build([]catalog.Endpoint{
				{Name: "mcp", Path: "/mcp", Servers: []catalog.Selection{{Server: "*"}}},
				{Name: "told", Path: "/told", Servers: []catalog.Selection{{Server: "*"}}},
				{Name: LaneAuthorize, Path: AuthorizePath("s"), Servers: []catalog.Selection{{Server: "s"}}},
			}, []*catalog.Source{src}, nil),
		}
	})
}

// sent is one request's fate: a result, an error, or a message that goes on.
type sent struct {
	*Exchange
	reply struct {
		Result map[string]any
		Error  struct {
			Code    int
			Message string
			Data    struct {
				Decision, Approval string
				Reasons            []map[string]string
			}
		}
	}
	body string          // of a reply
	on   *Parked         // what goes on by the broker
	to   string          // the lane
	m    jsonrpc.Message // that goes on
}

func (s *sent) state() string { v, _ := s.reply.Result["requestState"].(string); return v }

func (a *asking) header(key, method, name string, more ...string) fields {
	h := fields{"authorization", "Bearer " + key, "content-type", "application/json", "accept", "application/json, text/event-stream"}
	if len(more) == 0 {
		h = append(h, "mcp-protocol-version", "2026-07-28", "mcp-method", method)
		if name != "" {
			h = append(h, "mcp-name", name)
		}
	}
	return append(h, more...)
}

func (a *asking) post(path string, h fields, body string) *sent {
	a.t.Helper()
	x, v := a.Head(context.Background(), &Head{Listener: "main", Method: "POST", Path: path, Authority: "localhost", Address: "127.0.0.1", Header: h})
	if v == nil {
		v = x.Body([]byte(body))
	}
	s := &sent{Exchange: x}
	switch v := v.(type) {
	case *Reply:
		s.body = string(v.Body)
		if err := json.Unmarshal(v.Body, &s.reply); err != nil && v.Body != nil {
			a.t.Fatalf("%v: %s", err, v.Body)
		}
	case *Forward:
		if s.to = v.Backend; s.to == BackendBroker {
			s.on = a.Take(v.Set[0].Value)
			s.m = *s.on.Message
			s.on.Done()
		}
	}
	return s
}

const elicits = `{"elicitation":{}}`

// call is a modern client's; params are those beside _meta, as JSON members.
func (a *asking) call(key, capabilities, method, name, params string) *sent {
	a.t.Helper()
	a.id++
	return a.post("/mcp", a.header(key, method, name), fmt.Sprintf(
		`{"jsonrpc":"2.0","id":%d,"method":%q,"params":{%s,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":%s}}}`,
		a.id, method, params, capabilities))
}

func (a *asking) push(key, capabilities, arguments, more string) *sent {
	a.t.Helper()
	return a.call(key, capabilities, mcp.MethodToolsCall, "s_push", `"name":"s_push","arguments":`+arguments+more)
}

// brings is what a client adds when it comes back.
func brings(state, answer string) string {
	return `,"inputResponses":{"mcpgw_confirm":` + answer + `},"requestState":"` + state + `"`
}

const yes = `{"action":"accept","content":{"confirm":true}}`
