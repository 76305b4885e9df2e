package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/session"
)

// somePolicy draws rules that go by caller, server, item and arguments.
func somePolicy(t *rapid.T) string {
	body := func() string {
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{
			`"r1" in input.subject.roles`, `"r2" in input.subject.roles`, `not "r1" in input.subject.roles`,
			`input.resource.server == "a"`, `input.resource.name == "t1"`, `input.resource.id == "b/t2"`, `input.resource.name in {"t0", "t2"}`,
			`input.arguments.n > 1`, `not small`, `is_number(input.arguments.n)`, `input.context.era == "modern"`, `true`,
		}), 1, 2).Draw(t, "body"), "\n\t")
	}
	var b strings.Builder
	b.WriteString("package mcpgw.policy\n\nsmall if {\n\tis_number(input.arguments.n)\n\tinput.arguments.n < 2\n}\n")
	for range rapid.IntRange(1, 3).Draw(t, "allows") {
		fmt.Fprintf(&b, "\nallow if {\n\t%s\n}\n", body())
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "denies") {
		fmt.Fprintf(&b, "\ndeny contains \"d%d\" if {\n\t%s\n}\n", i, body())
	}
	return b.String()
}

// TestPropertyCompositeIsItsParts: an endpoint that merges servers shows exactly what their own endpoints show, and rules on every call
// exactly as they do, under whatever names; an endpoint over some of the servers shows no more. So does the front for another's Envoy.
// One check is about 70 calls; more of them: -rapid.checks=2000.
func TestPropertyCompositeIsItsParts(t *testing.T) {
	auth, err := identity.New(identity.Options{APIKeys: []identity.APIKey{
		{ID: "one", Digest: identity.DigestOf("one"), Principal: identity.Principal{Roles: []string{"r1"}}},
		{ID: "two", Digest: identity.DigestOf("two"), Principal: identity.Principal{Roles: []string{"r2"}}},
		{ID: "none", Digest: identity.DigestOf("none")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(auth.Close)
	settings := &gateway.Settings{
		Version: "v", Name: "mcpgw", Build: "test",
		Listeners: map[string]*gateway.Listener{"main": {Name: "main", Auth: auth}},
		Endpoints: map[string]*gateway.Endpoint{"mcp": {Name: "mcp"}, "some": {Name: "some"}},
		Servers:   map[string]*gateway.Server{"a": {Name: "a"}, "b": {Name: "b"}},
	}
	var sources []*catalog.Source
	for _, server := range []string{"a", "b"} {
		var definitions [][]byte
		for i := range 3 {
			definitions = append(definitions, fmt.Appendf(nil, `{"name":"t%d","inputSchema":{"type":"object"}}`, i))
		}
		items, bad := catalog.Collect(server, catalog.Tool, definitions, catalog.Trust{})
		if len(bad) > 0 {
			t.Fatal(bad)
		}
		src := &catalog.Source{Server: server, Modern: true, Revisions: []mcp.Revision{mcp.R20260728}}
		src.Items[catalog.Tool] = items
		sources = append(sources, src)
	}
	endpoints := []catalog.Endpoint{
		{Name: "mcp", Path: "/mcp", Servers: []catalog.Selection{{Server: "*"}}, PerServer: true},
		{Name: "some", Path: "/some", Servers: []catalog.Selection{{Server: "*", Exclude: []string{"t1"}}}},
	}
	for _, s := range []string{"a", "b"} {
		endpoints = append(endpoints, catalog.Endpoint{Name: gateway.AuthorizePath(s), Path: gateway.AuthorizePath(s), Servers: []catalog.Selection{{Server: s}}})
	}
	g, err := gateway.New(gateway.Options{Sessions: session.NewMemory(session.MemoryOptions{})})
	if err != nil {
		t.Fatal(err)
	}
	request := func(key, path, method, name string) *gateway.Head {
		h := lines{
			{"authorization", "Bearer " + key},
			{"content-type", "application/json"},
			{"accept", "application/json, text/event-stream"},
			{"mcp-protocol-version", "2026-07-28"},
			{"mcp-method", method},
		}
		if name != "" {
			h = append(h, [2]string{"mcp-name", name})
		}
		return &gateway.Head{Listener: "main", Method: "POST", Path: path, Header: h}
	}
	names := func(t *rapid.T, key, path string) (out []string) {
		_, v := post(g, request(key, path, "tools/list", ""), []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{`+modernMeta+`}}`))
		var r struct {
			Result struct {
				Tools []struct{ Name string }
			}
		}
		if err := json.Unmarshal(v.(*gateway.Reply).Body, &r); err != nil {
			t.Fatal(err)
		}
		for _, tool := range r.Result.Tools {
			out = append(out, tool.Name)
		}
		return out
	}
	cases := 0
	rapid.Check(t, func(t *rapid.T) {
		source := somePolicy(t)
		engine, err := opa.Load(opa.Options{Modules: []opa.File{{Name: "p.rego", Text: []byte(source)}}})
		if err != nil {
			t.Fatalf("%v\n%s", err, source)
		}
		g.Swap(func(gateway.Snapshot) gateway.Snapshot {
			return gateway.Snapshot{Settings: settings, Policy: engine, Catalog: catalog.Build(endpoints, sources, nil), Routes: gateway.Routes{Version: "r", Servers: map[string]bool{"a": true, "b": true}}}
		})
		for _, key := range []string{"one", "two", "none"} {
			merged, some := names(t, key, "/mcp"), names(t, key, "/some")
			var parts []string
			for _, server := range []string{"a", "b"} {
				for _, n := range names(t, key, "/mcp/"+server) {
					parts = append(parts, server+"_"+n)
				}
			}
			slices.Sort(merged)
			slices.Sort(parts)
			if !slices.Equal(merged, parts) {
				t.Fatalf("merged %v, parts %v\n%s", merged, parts, source)
			}
			for _, n := range some {
				if !slices.Contains(parts, n) {
					t.Fatalf("a part shows %s, the whole does not\n%s", n, source)
				}
			}
			for _, server := range []string{"a", "b"} {
				for _, tool := range []string{"t0", "t1", "t2"} {
					arguments := rapid.SampledFrom([]string{`{}`, `{"n":1}`, `{"n":2}`, `{"n":null}`, `{"n":"x"}`}).Draw(t, "arguments")
					body := func(name string) []byte {
						return fmt.Appendf(nil, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":%s,%s}}`, name, arguments, modernMeta)
					}
					whole, wv := post(g, request(key, "/mcp", "tools/call", server+"_"+tool), body(server+"_"+tool))
					part, pv := post(g, request(key, "/mcp/"+server, "tools/call", tool), body(tool))
					other, ov := g.Authorize(context.Background(), request(key, "/anything", "tools/call", tool), body(tool), server)
					cases += 3
					if whole.Ruling.Effect != part.Ruling.Effect || whole.Ruling.Effect != other.Ruling.Effect || whole.Outcome() != part.Outcome() || whole.Outcome() != other.Outcome() {
						t.Fatalf("%s %s/%s %s: merged %+v, part %+v, ext_authz %+v\n%s", key, server, tool, arguments, whole.Ruling, part.Ruling, other.Ruling, source)
					}
					_, forwarded := wv.(*gateway.Forward)
					_, too := pv.(*gateway.Forward)
					if _, passed := ov.(*gateway.Pass); forwarded != too || forwarded != passed {
						t.Fatalf("%s %s/%s %s: merged %T, part %T, ext_authz %T\n%s", key, server, tool, arguments, wv, pv, ov, source)
					}
					if forwarded && !slices.Contains(merged, server+"_"+tool) {
						t.Fatalf("%s calls %s/%s, which it does not see\n%s", key, server, tool, source)
					}
				}
			}
		}
	})
	t.Logf("%d calls", cases)
}

func post(g *gateway.Gateway, h *gateway.Head, body []byte) (*gateway.Exchange, gateway.Verdict) {
	x, v := g.Head(context.Background(), h)
	if v == nil {
		v = x.Body(body)
	}
	return x, v
}
