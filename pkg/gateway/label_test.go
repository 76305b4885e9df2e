package gateway

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/policy"
	"github.com/mcpgw/mcpgw/pkg/session"
)

const flow = `package mcpgw.policy

allow := true

label contains "secret" if input.resource.name in {"vault", "file:///vault"}

deny contains "what is secret stays here" if {
	input.resource.name in {"post", "mail"}
	"secret" in input.context.session.labels
	not harmless
}

harmless if {
	input.resource.name == "mail"
	input.arguments.to == "me"
}
`

// flowing is a gateway whose policy marks whoever calls vault; nobody marked calls post, or mail to others.
func flowing(t *testing.T, labels Labels) *Gateway {
	t.Helper()
	engine, err := opa.Load(opa.Options{Modules: []opa.File{{Name: "p.rego", Text: []byte(flow)}}})
	if err != nil {
		t.Fatal(err)
	}
	var keys []identity.APIKey
	for _, name := range []string{"alice", "bob"} {
		keys = append(keys, identity.APIKey{ID: name, Digest: identity.DigestOf(name), Principal: identity.Principal{Roles: []string{"reader"}}})
	}
	auth, err := identity.New(identity.Options{APIKeys: keys})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(auth.Close)
	src := &catalog.Source{Server: "s", Modern: true, Legacy: true, Revisions: []mcp.Revision{mcp.R20260728, mcp.R20251125}}
	const any = `,"inputSchema":{"type":"object"}}`
	for kind, definitions := range map[catalog.Kind][][]byte{
		catalog.Tool:     {[]byte(`{"name":"vault"` + any), []byte(`{"name":"post"` + any), []byte(`{"name":"mail"` + any)},
		catalog.Resource: {[]byte(`{"uri":"file:///vault","name":"vault"}`)},
	} {
		var bad []catalog.Quarantined
		if src.Items[kind], bad = catalog.Collect("s", kind, definitions, catalog.Trust{}); len(bad) > 0 {
			t.Fatal(bad)
		}
	}
	g, err := New(Options{Sessions: session.NewMemory(session.MemoryOptions{}), Labels: labels})
	if err != nil {
		t.Fatal(err)
	}
	g.Swap(func(Snapshot) Snapshot {
		return Snapshot{
			Settings: &Settings{
				Listeners: map[string]*Listener{"main": {Name: "main", Auth: auth, Hosts: []string{"localhost"}}},
				Endpoints: map[string]*Endpoint{"mcp": {Name: "mcp"}}, Servers: map[string]*Server{"s": {Name: "s"}},
			},
			Policy: engine, Routes: Routes{Servers: map[string]bool{"s": true}},
			Catalog: catalog.Build([]catalog.Endpoint{
				{Name: "mcp", Path: "/mcp", Servers: []catalog.Selection{{Server: "*"}}, Prefix: map[string]string{"s": ""}},
				{Name: LaneAuthorize, Path: AuthorizePath("s"), Servers: []catalog.Selection{{Server: "s"}}},
			}, []*catalog.Source{src}, nil),
		}
	})
	return g
}

func flowKept(t *testing.T) *session.Labels {
	t.Helper()
	l, err := session.OpenLabels(session.LabelOptions{File: t.TempDir() + "/labels"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// flowSends returns what the walk makes of one message: "forward", or the reply's text. A session makes it legacy.
func flowSends(t *testing.T, g *Gateway, who, sid, method, name, params string) (string, *Exchange) {
	t.Helper()
	h := fields{"authorization", "Bearer " + who, "content-type", "application/json", "accept", "application/json, text/event-stream"}
	meta := `"_meta":{}`
	if sid == "" {
		h = append(h, "mcp-protocol-version", "2026-07-28", "mcp-method", method)
		if name != "" {
			h = append(h, "mcp-name", name)
		}
		meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	} else if sid != "new" {
		h = append(h, "mcp-session-id", sid, "mcp-protocol-version", "2025-11-25")
	}
	x, v := g.Head(context.Background(), &Head{Listener: "main", Method: "POST", Path: "/mcp", Authority: "localhost", Address: "127.0.0.1", Header: h})
	if v != nil {
		t.Fatalf("refused at the head: %s", v.(*Reply).Body)
	}
	if params != "" {
		params += ","
	}
	switch v := x.Body([]byte(`{"jsonrpc":"2.0","id":7,"method":"` + method + `","params":{` + params + meta + `}}`)).(type) {
	case *Forward:
		return "forward", x
	case *Reply:
		for _, l := range v.Header {
			if strings.EqualFold(l.Name, mcp.HeaderSession) {
				return l.Value, x
			}
		}
		return string(v.Body), x
	}
	return "", x
}

func flowTool(t *testing.T, g *Gateway, who, sid, name, arguments string) string {
	t.Helper()
	got, _ := flowSends(t, g, who, sid, mcp.MethodToolsCall, name, `"name":"`+name+`","arguments":{`+arguments+`}`)
	return got
}

func flowOpen(t *testing.T, g *Gateway, who string) (sid string) {
	t.Helper()
	sid, _ = flowSends(t, g, who, "new", mcp.MethodInitialize, "", `"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}`)
	if got, _ := flowSends(t, g, who, sid, "ping", "", ""); !strings.Contains(got, `"result":{}`) {
		t.Fatalf("no session: %s, %s", sid, got)
	}
	return sid
}

func flowWant(t *testing.T, what, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s: %s, want %q", what, got, want)
	}
}

// TestLabelsFlow: whoever has read what is secret does not post it, in either era; and the label is there before the read is forwarded.
func TestLabelsFlow(t *testing.T) {
	for _, era := range []string{"modern", "legacy"} {
		t.Run(era, func(t *testing.T) {
			g := flowing(t, flowKept(t))
			sid, other, bobs := "", "", ""
			if era == "legacy" {
				sid, other, bobs = flowOpen(t, g, "alice"), flowOpen(t, g, "alice"), flowOpen(t, g, "bob")
			}
			flowWant(t, "post before", flowTool(t, g, "alice", sid, "post", ""), "forward")
			flowWant(t, "the secret", flowTool(t, g, "alice", sid, "vault", ""), "forward")
			flowWant(t, "post after", flowTool(t, g, "alice", sid, "post", ""), `unknown tool`) // no call of it is allowed: it is hidden
			flowWant(t, "mail after", flowTool(t, g, "alice", sid, "mail", `"to":"you"`), `what is secret stays here`)
			flowWant(t, "mail to oneself", flowTool(t, g, "alice", sid, "mail", `"to":"me"`), `forward`)
			list, _ := flowSends(t, g, "alice", sid, mcp.MethodToolsList, "", "")
			if strings.Contains(list, `"post"`) || !strings.Contains(list, `"mail"`) {
				t.Errorf("the list is %s", list)
			}
			flowWant(t, "another principal", flowTool(t, g, "bob", bobs, "post", ""), "forward")
			if era == "legacy" {
				flowWant(t, "another session", flowTool(t, g, "alice", other, "post", ""), "forward")
				flowWant(t, "the other era", flowTool(t, g, "alice", "", "post", ""), "forward")
				flowWant(t, "a new session", flowTool(t, g, "alice", flowOpen(t, g, "alice"), "post", ""), "forward")
			}
			if got, _ := flowSends(t, g, "bob", bobs, mcp.MethodResourcesRead, "file:///vault", `"uri":"file:///vault"`); got != "forward" {
				t.Errorf("a resource: %s", got)
			}
			flowWant(t, "after the resource", flowTool(t, g, "bob", bobs, "mail", ""), `what is secret stays here`)
		})
	}
}

// brokenLabels is a store that knows nobody and keeps nothing.
type brokenLabels struct{ lost bool }

func (b brokenLabels) Get(string) ([]string, bool)      { return nil, b.lost }
func (brokenLabels) Add(string, []string) (bool, error) { return false, errors.New("the disk is full") }

// TestLabelsFailClosed: what is not known counts as marked; what cannot be kept is not done.
func TestLabelsFailClosed(t *testing.T) {
	memory, err := session.OpenLabels(session.LabelOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, labels := range map[string]Labels{"no store": nil, "a store that has lost all": brokenLabels{true}, "just started, without a file": memory} {
		t.Run(name, func(t *testing.T) {
			g := flowing(t, labels)
			flowWant(t, "mail", flowTool(t, g, "alice", "", "mail", ""), `what is secret stays here`)
			flowWant(t, "mail to oneself", flowTool(t, g, "alice", "", "mail", `"to":"me"`), "forward")
			flowWant(t, "a session", flowTool(t, g, "alice", flowOpen(t, g, "alice"), "mail", ""), "forward")
		})
	}
	t.Run("a store that is full", func(t *testing.T) {
		g := flowing(t, brokenLabels{})
		got, x := flowSends(t, g, "alice", "", mcp.MethodToolsCall, "vault", `"name":"vault"`)
		flowWant(t, "the secret", got, `cannot be kept`)
		if strings.Contains(got, "disk") || x.Fault == nil || !strings.Contains(errors.Unwrap(x.Fault).Error(), "the disk is full") {
			t.Errorf("told %s, recorded %v", got, x.Fault)
		}
		flowWant(t, "what needs no label", flowTool(t, g, "alice", "", "post", ""), "forward")
	})
	t.Run("a session with too many", func(t *testing.T) {
		g := flowing(t, nil)
		sid := flowOpen(t, g, "alice")
		_, x := flowSends(t, g, "alice", sid, "ping", "", "")
		many := &policy.Obligations{}
		for i := range session.MaxLabels {
			many.Label = append(many.Label, strings.Repeat("x", i+1))
		}
		if f := x.mark(many); f != nil {
			t.Fatal(f)
		}
		flowWant(t, "one more", flowTool(t, g, "alice", sid, "vault", ""), `cannot be kept`)
	})
	t.Run("a session that has ended meanwhile", func(t *testing.T) {
		g := flowing(t, nil)
		sid := flowOpen(t, g, "alice")
		_, x := flowSends(t, g, "alice", sid, "ping", "", "")
		if _, err := g.opts.Sessions.Delete(t.Context(), sid, x.Session.Owner); err != nil {
			t.Fatal(err)
		}
		if labels, lost := x.marks(); !lost || len(labels) != 1 {
			t.Errorf("%q, lost %v", labels, lost)
		}
		if f := x.mark(&policy.Obligations{Label: []string{"a"}}); f == nil {
			t.Error("a session that is over was marked")
		}
	})
}

// TestLabelsWakeStreams: a new label rings for the streams of its caller alone, and changes what they see.
func TestLabelsWakeStreams(t *testing.T) {
	for _, era := range []string{"modern", "legacy"} {
		t.Run(era, func(t *testing.T) {
			g := flowing(t, flowKept(t))
			sid, bobs := "", ""
			if era == "legacy" {
				sid, bobs = flowOpen(t, g, "alice"), flowOpen(t, g, "bob")
			}
			stream := func(who, sid string) *Exchange {
				_, x := flowSends(t, g, who, sid, mcp.MethodToolsList, "", "")
				x.Unpin()
				return x
			}
			a, b := stream("alice", sid), stream("bob", bobs)
			rung, stop := a.Marked()
			others, stopOthers := b.Marked()
			defer stopOthers()
			before, _, _ := a.Sees(g.Snapshot())
			marks := a.Marks()
			flowTool(t, g, "alice", sid, "vault", "")
			select {
			case <-rung:
			default:
				t.Error("the stream was not told")
			}
			if after, ok, err := a.Sees(g.Snapshot()); !ok || err != nil || after[catalog.Tool] == before[catalog.Tool] || after[catalog.Resource] != before[catalog.Resource] {
				t.Errorf("sees: %v, %v", ok, err)
			}
			if a.Marks() == marks {
				t.Error("the marks look the same")
			}
			flowTool(t, g, "alice", sid, "vault", "")
			select {
			case <-rung:
				t.Error("nothing is new, and the stream was told")
			case <-others:
				t.Error("another's stream was told")
			default:
			}
			if may, _ := a.MayRead(t.Context(), g.Snapshot(), "file:///vault"); !may {
				t.Error("a read that marks is no read any more")
			}
			if may, _ := b.MayRead(t.Context(), g.Snapshot(), "file:///vault"); !may || b.Marks() == marks {
				t.Error("word of a marked resource does not mark")
			}
			stop()
			stopOthers()
			if len(g.bells.hung) != 0 {
				t.Errorf("%d left", len(g.bells.hung))
			}
		})
	}
}

// TestLabelsBehindExtAuthz: sessions are the server's there, so labels bind principal and client in both eras, and a subscription to what
// marks its readers marks, too.
func TestLabelsBehindExtAuthz(t *testing.T) {
	g := flowing(t, flowKept(t))
	ask := func(who, method, name, params string) string {
		t.Helper()
		h := fields{"authorization", "Bearer " + who, "content-type", "application/json", "accept", "application/json, text/event-stream"}
		if name == "legacy" {
			h = append(h, "mcp-session-id", "the server's", "mcp-protocol-version", "2025-11-25")
			params += `"_meta":{}`
		} else {
			h = append(h, "mcp-protocol-version", "2026-07-28", "mcp-method", method)
			if name != "" {
				h = append(h, "mcp-name", name)
			}
			params += `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
		}
		body := `{"jsonrpc":"2.0","id":7,"method":"` + method + `","params":{` + params + `}}`
		_, v := g.Authorize(t.Context(), &Head{Listener: "main", Method: "POST", Path: "/mcp", Authority: "localhost", Address: "127.0.0.1", Header: h}, []byte(body), "s")
		if r, ok := v.(*Reply); ok {
			return string(r.Body)
		}
		return "pass"
	}
	const call = mcp.MethodToolsCall
	flowWant(t, "mail before", ask("alice", call, "mail", `"name":"mail",`), "pass")
	flowWant(t, "the secret", ask("alice", call, "legacy", `"name":"vault",`), "pass")
	flowWant(t, "mail after", ask("alice", call, "mail", `"name":"mail",`), `what is secret stays here`)
	flowWant(t, "mail after, legacy", ask("alice", call, "legacy", `"name":"mail",`), `what is secret stays here`)
	flowWant(t, "bob", ask("bob", call, "legacy", `"name":"mail",`), "pass")
	flowWant(t, "a subscription", ask("bob", mcp.MethodListen, "", `"notifications":{"resourceSubscriptions":["file:///vault"]},`), "pass")
	flowWant(t, "bob after it", ask("bob", call, "mail", `"name":"mail",`), `what is secret stays here`)

	g = flowing(t, brokenLabels{})
	flowWant(t, "a subscription that marks, and cannot", ask("bob", mcp.MethodListen, "", `"notifications":{"resourceSubscriptions":["file:///vault"]},`), `unknown resource`)
}

// TestOneRequestAsksAFewQuestions: what a client names again and again is one question, and there is an end to what it may name.
func TestOneRequestAsksAFewQuestions(t *testing.T) {
	g := flowing(t, flowKept(t))
	asked := 0
	g.opts.Judged = func(*policy.Question, *policy.Ruling, *Snapshot) { asked++ }
	for _, c := range []struct{ names, asked int }{{1, 1}, {maxWatched, 1}, {maxWatched + 1, 0}, {250_000, 0}} {
		asked = 0
		h := fields{
			"authorization", "Bearer bob", "content-type", "application/json", "accept", "application/json, text/event-stream",
			"mcp-protocol-version", "2026-07-28", "mcp-method", mcp.MethodListen,
		}
		uris := strings.TrimSuffix(strings.Repeat(`"file:///vault",`, c.names), ",")
		body := `{"jsonrpc":"2.0","id":7,"method":"` + mcp.MethodListen + `","params":{"notifications":{"resourceSubscriptions":[` + uris + `]},` +
			`"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`
		_, v := g.Authorize(context.Background(), &Head{
			Listener: "main", Method: "POST", Path: "/mcp", Authority: "localhost", Address: "127.0.0.1", Header: h,
		}, []byte(body), "s")
		if _, ok := v.(*Pass); ok != (c.asked > 0) || asked != c.asked {
			t.Errorf("%d names: %d questions, %T", c.names, asked, v)
		}
	}
}
