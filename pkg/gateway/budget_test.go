//go:build !race

package gateway_test

// The race detector makes sync.Pool forget at random, so allocations are counted without it.

import (
	"context"
	"fmt"
	"testing"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/session"
)

const budgetPolicy = `package mcpgw.policy

allow if "reader" in input.subject.roles

deny contains "too many" if {
	input.resource.name == "t1"
	not few
}

few if {
	is_number(input.arguments.n)
	input.arguments.n <= 50
}
`

// world is a gateway over a catalog of servers with as many tools each.
func world(t testing.TB, servers, tools int) (*gateway.Gateway, *opa.Engine) {
	t.Helper()
	engine, err := opa.Load(opa.Options{Modules: []opa.File{{Name: "p.rego", Text: []byte(budgetPolicy)}}})
	if err != nil {
		t.Fatal(err)
	}
	auth, err := identity.New(identity.Options{APIKeys: []identity.APIKey{{ID: "r", Digest: identity.DigestOf("key"), Principal: identity.Principal{Roles: []string{"reader"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(auth.Close)
	settings := &gateway.Settings{
		Version: "v", Name: "mcpgw", Build: "test",
		Listeners: map[string]*gateway.Listener{"main": {Name: "main", Auth: auth, Hosts: []string{"localhost"}}},
		Endpoints: map[string]*gateway.Endpoint{"mcp": {Name: "mcp"}}, Servers: map[string]*gateway.Server{},
	}
	routes := gateway.Routes{Version: "r", Servers: map[string]bool{}}
	var sources []*catalog.Source
	for s := range servers {
		name := fmt.Sprintf("s%d", s)
		routes.Servers[name] = true
		settings.Servers[name] = &gateway.Server{Name: name}
		var definitions [][]byte
		for i := range tools {
			definitions = append(definitions, fmt.Appendf(nil, `{"name":"t%d","description":"A tool that does something useful for somebody.","inputSchema":{"type":"object","properties":{"n":{"type":"integer"},"text":{"type":"string"}}}}`, i))
		}
		items, bad := catalog.Collect(name, catalog.Tool, definitions, catalog.Trust{})
		if len(bad) > 0 {
			t.Fatal(bad)
		}
		src := &catalog.Source{Server: name, Modern: true, Revisions: []mcp.Revision{mcp.R20260728}}
		src.Items[catalog.Tool] = items
		sources = append(sources, src)
	}
	g, err := gateway.New(gateway.Options{Sessions: session.NewMemory(session.MemoryOptions{})})
	if err != nil {
		t.Fatal(err)
	}
	g.Swap(func(gateway.Snapshot) gateway.Snapshot {
		return gateway.Snapshot{
			Settings: settings, Policy: engine, Routes: routes,
			Catalog: catalog.Build([]catalog.Endpoint{{Name: "mcp", Path: "/mcp", Servers: []catalog.Selection{{Server: "*"}}}}, sources, nil),
		}
	})
	return g, engine
}

func head(method, name string) *gateway.Head {
	h := lines{
		{"authorization", "Bearer key"},
		{"content-type", "application/json"},
		{"accept", "application/json, text/event-stream"},
		{"user-agent", "bench/1"},
		{"content-length", "300"},
		{"mcp-protocol-version", "2026-07-28"},
		{"mcp-method", method},
		{"x-forwarded-proto", "http"},
		{"x-request-id", "00000000-0000-0000-0000-000000000000"},
	}
	if name != "" {
		h = append(h, [2]string{"mcp-name", name})
	}
	return &gateway.Head{Listener: "main", Method: "POST", Path: "/mcp", Authority: "localhost:8080", Address: "127.0.0.1", Header: h}
}

func exchange(t testing.TB, g *gateway.Gateway, h *gateway.Head, body []byte) gateway.Verdict {
	x, v := g.Head(context.Background(), h)
	if v != nil {
		t.Fatalf("refused at the head: %s", v.(*gateway.Reply).Body)
	}
	v = x.Body(body)
	if r, ok := v.(*gateway.Reply); ok && r.Done != nil {
		defer r.Done() // as a rim does once the reply is sent
	}
	return v
}

func call(name string) []byte {
	return fmt.Appendf(nil, `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":%q,"arguments":{"n":5,"text":"hello"},%s}}`, name, modernMeta)
}

// Budgets of allocations for one exchange, head and body, ruling from the cache. They are spent on: the record and the exchange (1), the
// decision id, the reader (4), the header view's copies, the forward with its removals, the spliced body.
const (
	callAllocs = 40
	listAllocs = 30
)

func TestAllocationsOfAnExchange(t *testing.T) {
	g, engine := world(t, 20, 50)
	for _, c := range []struct {
		name   string
		head   *gateway.Head
		body   []byte
		budget float64
	}{
		{"a direct call, renamed", head("tools/call", "s3_t2"), call("s3_t2"), callAllocs},
		{"a warm list of 1,000 tools", head("tools/list", ""), []byte(`{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{` + modernMeta + `}}`), listAllocs},
	} {
		t.Run(c.name, func(t *testing.T) {
			exchange(t, g, c.head, c.body) // warm
			before := engine.Evaluations()
			got := testing.AllocsPerRun(200, func() { exchange(t, g, c.head, c.body) })
			t.Logf("%.0f allocations", got)
			if got > c.budget {
				t.Errorf("%.0f allocations, budget %.0f", got, c.budget)
			}
			if n := engine.Evaluations() - before; n != 0 {
				t.Errorf("%d evaluations of Rego, want none when warm", n)
			}
		})
	}
}

func BenchmarkDirectCall(b *testing.B) {
	g, _ := world(b, 20, 50)
	h, body := head("tools/call", "s3_t2"), call("s3_t2")
	b.ReportAllocs()
	for b.Loop() {
		exchange(b, g, h, body)
	}
}

func BenchmarkWarmList1000(b *testing.B) {
	g, _ := world(b, 20, 50)
	h, body := head("tools/list", ""), []byte(`{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{`+modernMeta+`}}`)
	b.ReportAllocs()
	for b.Loop() {
		exchange(b, g, h, body)
	}
}
