package gateway_test

import (
	"bytes"
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
)

const changing = `package mcpgw.policy

allow if not input.resource.name in {"hidden"}

rewrite contains {"path": "/max", "value": 50} if input.resource.name in {"search", "hidden", "test://a"}

rewrite contains {"pattern": "^http://", "with": "https://"} if input.resource.name == "search"

rewrite contains {"path": "/tenant", "value": input.subject.tenant} if input.resource.name == "search"

rewrite contains {"path": "/max", "value": "fifty"} if input.resource.name == "wrong"

rewrite contains {"path": "/opts/deep", "value": 1} if input.resource.name == "deep"

rewrite contains {"path": "/opts/-", "value": 1} if input.resource.name == "deep"

rewrite contains {"path": "/text", "value": concat("", [x | some _ in numbers.range(1, 100); x := "0123456789"])} if input.resource.name == "long"

rewrite contains {"path": "/who", "value": "you"} if input.resource.name == "greet"

rewrite contains {"path": "/who", "value": 5} if input.resource.name == "badgreet"

redact contains {"pattern": "[0-9]{16}"} if input.resource.name in {"card", "test://b"}

redact contains {"path": "/structuredContent/a"} if input.resource.name == "card"

rewrite contains {"path": "/max", "value": 1} if input.resource.name == "card"

rewrite contains {"path": "/text", "value": "y"} if input.resource.name == "plainer"

label contains "seen" if input.resource.name == "label"
`

// changer is a gateway before one modern server, whose policy changes what is said.
func changer(t testing.TB) *gateway.Gateway {
	t.Helper()
	engine, err := opa.Load(opa.Options{Modules: []opa.File{{Name: "p.rego", Text: []byte(changing)}}})
	if err != nil {
		t.Fatal(err)
	}
	auth, err := identity.New(identity.Options{APIKeys: []identity.APIKey{{ID: "r", Digest: identity.DigestOf("key"), Principal: identity.Principal{Tenant: "blue"}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(auth.Close)
	src := &catalog.Source{Server: "s", Modern: true, Revisions: []mcp.Revision{mcp.R20260728}}
	var tools [][]byte
	for _, name := range []string{"search", "hidden", "wrong", "deep", "long", "card", "label", "plain", "plainer"} {
		tools = append(tools, fmt.Appendf(nil, `{"name":%q,"inputSchema":{"type":"object","properties":{"max":{"type":"integer","x-mcp-header":"Max"},"tenant":{"type":"string","x-mcp-header":"Tenant"},"text":{"type":"string"}}}}`, name))
	}
	for kind, definitions := range map[catalog.Kind][][]byte{
		catalog.Tool: tools, catalog.Prompt: {[]byte(`{"name":"greet","arguments":[{"name":"who"}]}`), []byte(`{"name":"badgreet"}`)},
		catalog.Resource: {[]byte(`{"uri":"test://a","name":"a"}`), []byte(`{"uri":"test://b","name":"b"}`)},
	} {
		items, bad := catalog.Collect("s", kind, definitions, catalog.Trust{})
		if len(bad) > 0 {
			t.Fatal(bad)
		}
		src.Items[kind] = items
	}
	g, err := gateway.New(gateway.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g.Swap(func(gateway.Snapshot) gateway.Snapshot {
		return gateway.Snapshot{
			Settings: &gateway.Settings{
				Listeners: map[string]*gateway.Listener{"main": {Name: "main", Auth: auth}}, Endpoints: map[string]*gateway.Endpoint{"mcp": {Name: "mcp"}},
				Servers: map[string]*gateway.Server{"s": {Name: "s"}}, BodyBytes: 1000, RedactBytes: 77,
			},
			Policy: engine, Routes: gateway.Routes{Servers: map[string]bool{"s": true}},
			Catalog: catalog.Build([]catalog.Endpoint{
				{Name: "mcp", Path: "/mcp", Servers: []catalog.Selection{{Server: "*"}}}, {Name: "mcp", Path: gateway.AuthorizePath("s"), Servers: []catalog.Selection{{Server: "s"}}},
			}, []*catalog.Source{src}, nil),
		}
	})
	return g
}

// sends lets a gateway judge a modern message.
func sends(t interface{ Fatalf(string, ...any) }, g *gateway.Gateway, method, name, params string, more ...[2]string) (*gateway.Exchange, gateway.Verdict, string) {
	body := `{"jsonrpc":"2.0" , "id":9007199254740993,"method":"` + method + `","params":{` + params + `,` + modernMeta + `}}`
	h := append(lines{
		{"authorization", "Bearer key"},
		{"content-type", "application/json"},
		{"accept", "application/json, text/event-stream"},
		{"mcp-protocol-version", "2026-07-28"},
		{"mcp-method", method},
		{"mcp-name", name},
	}, more...)
	x, v := g.Head(context.Background(), &gateway.Head{Listener: "main", Method: "POST", Path: "/mcp", Authority: "localhost", Header: h})
	if v != nil {
		t.Fatalf("refused at the head: %+v", v)
	}
	return x, x.Body([]byte(body)), body
}

// TestRewrite: what a server gets is what the client sent but for what policy demands, in body and headers.
func TestRewrite(t *testing.T) {
	g := changer(t)
	const call, get = mcp.MethodToolsCall, mcp.MethodPromptsGet
	for name, c := range map[string]struct {
		method, item, arguments string // arguments with the comma before it
		headers                 [][2]string
		want                    string // arguments as they go on; "!text" for a refusal with that cause, "?text" with that message
		set, remove             string
		rewritten               int
	}{
		"nothing to do": {call, "plain", `,"arguments":{"max":100}`, [][2]string{{"mcp-param-max", "100"}}, `,"arguments":{"max":100}`, "mcp-name=plain", "", 0},
		"set and add": {
			call, "search", `, "arguments" : { "n":1.0, "max":100 ,"text":"http://a\/"}`,
			[][2]string{{"mcp-param-max", "100"}},
			`, "arguments" : { "n":1.0, "max":50 ,"text":"https://a/","tenant":"blue"}`, "mcp-name=search mcp-param-max=50 mcp-param-tenant=blue", "", 3,
		},
		"a header that says more than a double": {
			call, "plainer", `,"arguments":{"max":9007199254740993,"text":"x"}`,
			[][2]string{{"mcp-param-max", "9007199254740993.0"}},
			`,"arguments":{"max":9007199254740993,"text":"y"}`, "mcp-name=plainer", "", 1,
		},
		"no arguments":             {call, "search", ``, nil, `,"arguments":{"max":50,"tenant":"blue"}`, "mcp-name=search mcp-param-max=50 mcp-param-tenant=blue", "", 2},
		"a prompt":                 {get, "greet", `,"arguments":{"who":"me"}`, nil, `,"arguments":{"who":"you"}`, "mcp-name=greet", "", 1},
		"a prompt takes text":      {get, "badgreet", `,"arguments":{"who":"me"}`, nil, `!must be of type string`, "", "", 0},
		"a value of another type":  {call, "wrong", `,"arguments":{"max":1}`, [][2]string{{"mcp-param-max", "1"}}, `!must be of type integer`, "", "", 0},
		"the client's own fault":   {call, "search", `,"arguments":{"Max":1}`, nil, `?differs only in case`, "", "", 0},
		"an absent parent":         {call, "deep", `,"arguments":{"opts":[]}`, nil, `!the place is not there`, "", "", 0},
		"longer than a body":       {call, "long", `,"arguments":{"text":"x"}`, nil, `!larger than the bound`, "", "", 0},
		"a hidden tool is unknown": {call, "hidden", `,"arguments":{}`, nil, `?unknown tool`, "", "", 0},
		"a mark":                   {call, "label", `,"arguments":{}`, nil, `?what this call marks its caller with cannot be kept`, "", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			x, v, body := sends(t, g, c.method, "s_"+c.item, `"name":"s_`+c.item+`"`+c.arguments, c.headers...)
			if why, refused := strings.CutPrefix(c.want, "!"); refused {
				r, ok := v.(*gateway.Reply)
				if !ok || r.Status != 503 || x.Fault == nil || x.Fault.Cause == nil || !strings.Contains(x.Fault.Cause.Error(), why) || bytes.Contains(r.Body, []byte(why)) {
					t.Fatalf("got %+v, fault %v", v, x.Fault)
				}
				return
			}
			if why, refused := strings.CutPrefix(c.want, "?"); refused {
				if r, ok := v.(*gateway.Reply); !ok || !strings.Contains(string(r.Body), why) {
					t.Fatalf("got %+v", v)
				}
				return
			}
			f, ok := v.(*gateway.Forward)
			if !ok {
				t.Fatalf("got %s, fault %v", v.(*gateway.Reply).Body, x.Fault)
			}
			want := strings.Replace(strings.Replace(body, `"s_`+c.item+`"`, `"`+c.item+`"`, 1), c.arguments+","+modernMeta, c.want+","+modernMeta, 1)
			if string(f.Body) != want {
				t.Errorf("got  %s\nwant %s", f.Body, want)
			}
			var set []string
			for _, h := range f.Set {
				set = append(set, h.Name+"="+h.Value)
			}
			slices.Sort(set)
			if got := strings.Join(set, " "); got != c.set || x.Lane != "direct" || x.Rewritten != c.rewritten {
				t.Errorf("headers %q, want %q; lane %s, %d rewritten", got, c.set, x.Lane, x.Rewritten)
			}
		})
	}
	for _, method := range []string{mcp.MethodResourcesRead} {
		if x, v, _ := sends(t, g, method, "test://a", `"uri":"test://a"`); v.(*gateway.Reply).Status != 503 {
			t.Errorf("%s with a rewrite: %+v, %v", method, v, x.Fault)
		}
	}
	if x, v, _ := sends(t, g, mcp.MethodComplete, "", `"ref":{"type":"ref/prompt","name":"s_greet"},"argument":{"name":"who","value":"m"}`); v.(*gateway.Reply).Status != 503 {
		t.Errorf("completion with a rewrite: %+v, %v", v, x.Fault)
	}
}

// TestRemovedArgumentsHaveNoHeader: a header that repeats an argument goes with it.
func TestRemovedArgumentsHaveNoHeader(t *testing.T) {
	g := changer(t)
	engine, err := opa.Load(opa.Options{Modules: []opa.File{{Name: "p.rego", Text: []byte("package mcpgw.policy\n\nallow if true\n\nrewrite contains {\"path\": \"/tenant\", \"remove\": true}\n")}}})
	if err != nil {
		t.Fatal(err)
	}
	g.Swap(func(s gateway.Snapshot) gateway.Snapshot {
		s.Policy = engine
		return s
	})
	_, v, _ := sends(t, g, mcp.MethodToolsCall, "s_plain", `"name":"s_plain","arguments":{"tenant":"red"}`, [2]string{"mcp-param-tenant", "red"})
	f, ok := v.(*gateway.Forward)
	if !ok || !slices.Contains(f.Remove, "mcp-param-tenant") || !strings.Contains(string(f.Body), `"arguments":{}`) {
		t.Errorf("got %+v", v)
	}
}

// TestRedactedCallsLeaveTheDirectLane, and no others do.
func TestRedactedCallsLeaveTheDirectLane(t *testing.T) {
	g := changer(t)
	x, v, _ := sends(t, g, mcp.MethodToolsCall, "s_card", `"name":"s_card","arguments":{"max":7}`, [2]string{"mcp-param-max", "7"})
	f, ok := v.(*gateway.Forward)
	if !ok || f.Backend != gateway.BackendBroker || x.Lane != "broker" || x.Redactions != 2 || x.Rewritten != 1 {
		t.Fatalf("got %+v, lane %s, %d redactions, %d rewritten", v, x.Lane, x.Redactions, x.Rewritten)
	}
	p := g.Take(f.Set[0].Value)
	if p == nil || p.Redaction() == nil || p.Redaction().Most != 77 || string(p.Message.Arguments.Raw) != `{"max":1}` {
		t.Fatalf("parked %+v", p)
	}
	p.Done()
	if _, v, _ := sends(t, g, mcp.MethodResourcesRead, "test://b", `"uri":"test://b"`); v.(*gateway.Forward).Backend != gateway.BackendBroker {
		t.Errorf("a redacted resource goes to %+v", v)
	}
	if x, v, _ := sends(t, g, mcp.MethodToolsCall, "s_plain", `"name":"s_plain"`); v.(*gateway.Forward).Backend != "s/s" || x.Redaction() != nil {
		t.Errorf("a plain call goes to %+v", v)
	}
	snapshot := g.Snapshot()
	for uri, want := range map[string][2]bool{"test://a": {false, false}, "test://b": {true, true}, "test://c": {false, false}} {
		if may, redacts := x.MayRead(t.Context(), snapshot, uri); may != want[0] || redacts != want[1] {
			t.Errorf("%s may be read: %v, redacted: %v", uri, may, redacts)
		}
	}
}

// TestWhoCanOnlyLetPassRefusesChanges: a rim that changes neither arguments nor results must not let a call happen without the change.
func TestWhoCanOnlyLetPassRefusesChanges(t *testing.T) {
	g := changer(t)
	for item, passes := range map[string]bool{"plain": true, "search": false, "card": false, "label": false} {
		var name string
		for _, e := range g.Snapshot().Catalog.View(gateway.AuthorizePath("s")).Entries(catalog.Tool, catalog.Modern) {
			if e.Item.Name == item {
				name = e.Public
			}
		}
		body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + name + `",` + modernMeta + `}}`
		h := lines{
			{"authorization", "Bearer key"},
			{"content-type", "application/json"},
			{"accept", "application/json, text/event-stream"},
			{"mcp-protocol-version", "2026-07-28"},
			{"mcp-method", "tools/call"},
			{"mcp-name", name},
		}
		x, v := g.Authorize(t.Context(), &gateway.Head{Listener: "main", Method: "POST", Path: "/mcp", Authority: "localhost", Header: h}, []byte(body), "s")
		if _, ok := v.(*gateway.Pass); ok != passes {
			t.Errorf("%s: %+v, %v", item, v, x.Fault)
		}
	}
	for uri, passes := range map[string]bool{"test://a": false, "test://b": false} { // one rewritten, one redacted
		body := `{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["` + uri + `"]},` + modernMeta + `}}`
		h := lines{
			{"authorization", "Bearer key"},
			{"content-type", "application/json"},
			{"accept", "application/json, text/event-stream"},
			{"mcp-protocol-version", "2026-07-28"},
			{"mcp-method", "subscriptions/listen"},
		}
		x, v := g.Authorize(t.Context(), &gateway.Head{Listener: "main", Method: "POST", Path: "/mcp", Authority: "localhost", Header: h}, []byte(body), "s")
		if _, ok := v.(*gateway.Pass); ok != passes {
			t.Errorf("%s: %+v, %v", uri, v, x.Fault)
		}
	}
}

// TestRewriteLeavesTheRest: whatever else a call says, its bytes arrive.
func TestRewriteLeavesTheRest(t *testing.T) {
	g := changer(t)
	texts := rapid.SampledFrom([]string{`1`, `1.0`, `"\u0041"`, `9007199254740993`, `{"max":7, "x":[ ]}`, `[{"tenant":null}]`, `"ftp://x"`, `-0`})
	rapid.Check(t, func(t *rapid.T) {
		var before, after []string
		for n := range rapid.IntRange(0, 5).Draw(t, "members") {
			m := fmt.Sprintf(`%s"m%d" : %s`, rapid.SampledFrom([]string{"", " ", "\n"}).Draw(t, "space"), n, texts.Draw(t, "value"))
			before, after = append(before, m), append(after, m)
		}
		at := rapid.IntRange(0, len(before)).Draw(t, "at")
		before, after = slices.Insert(before, at, `"tenant":"red"`, `"max": 7`), slices.Insert(after, at, `"tenant":"blue"`, `"max": 50`)
		x, v, body := sends(t, g, mcp.MethodToolsCall, "s_search", `"name":"s_search","arguments":{`+strings.Join(before, ",")+`}`,
			[2]string{"mcp-param-max", "7"}, [2]string{"mcp-param-tenant", "red"})
		f, ok := v.(*gateway.Forward)
		if !ok {
			t.Fatalf("refused: %v", x.Fault)
		}
		want := strings.Replace(strings.Replace(body, `"s_search"`, `"search"`, 1), strings.Join(before, ","), strings.Join(after, ","), 1)
		if string(f.Body) != want || !json.Valid(f.Body) {
			t.Fatalf("got  %s\nwant %s", f.Body, want)
		}
	})
}
