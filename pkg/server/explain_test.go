package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/decision"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

const explainedPolicy = `package mcpgw.policy

allow if {
	"reader" in input.subject.roles
	input.resource.annotations.readOnlyHint
}

allow if input.subject.claims.org == "acme"

allow if input.subject.type == "anonymous"

allow if "seen" in input.context.session.labels

allow if input.resource.tags[_] == "open"

allow if {
	input.resource.type == "template"
	input.resource.uri == "file:///srv/a"
}
`

// explained loads a configuration with three servers and the items of two.
func explainedConfig(t *testing.T) (*config.Config, []*catalog.Item) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"policy/policy.rego": explainedPolicy,
		"mcpgw.yaml": `
listeners: [{ address: 127.0.0.1:0, anonymous: { roles: [] } }]
servers:
  - { name: git, http: { url: http://127.0.0.1:1/mcp }, annotations: { git_log: { read_only_hint: true } } }
  - { name: files, http: { url: http://127.0.0.1:1/mcp }, tags: [open] }
endpoints:
  - { name: all, path: /mcp }
  - { name: one, path: /git, servers: [{ server: git, exclude: [git_hidden] }] }
policy: { directory: policy }
authentication: { api_keys: [{ id: reader, digest: "sha256:` + strings.Repeat("ab", 32) + `", roles: [reader], tenant: t1, client: c1 }] }
`,
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := config.Load(filepath.Join(dir, "mcpgw.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return c, []*catalog.Item{
		{Server: "git", Kind: catalog.Tool, Name: "git_log", Annotations: []byte(`{"readOnlyHint":true}`)},
		{Server: "git", Kind: catalog.Tool, Name: "git_push"},
		{Server: "git", Kind: catalog.Prompt, Name: "git_help"},
		{Server: "files", Kind: catalog.Resource, Name: "file:///etc/motd"},
		{Server: "files", Kind: catalog.Template, Name: "file:///srv/{name}"},
		{Server: "files", Kind: catalog.Tool, Name: "git_log"},
	}
}

func TestExplainOffline(t *testing.T) {
	c, items := explainedConfig(t)
	for _, tc := range []struct {
		name   string
		req    ExplainRequest
		effect policy.Effect
		call   ExplainedCall
	}{
		{"a public name", ExplainRequest{As: "reader", Method: "tools/call", Name: "git_git_log"}, policy.Allow, ExplainedCall{Endpoint: "all", Path: "/mcp", Server: "git", Item: "git_log"}},
		{"server and name", ExplainRequest{As: "reader", Method: "tools/call", Name: "files/git_log"}, policy.Deny, ExplainedCall{Endpoint: "all", Path: "/mcp", Server: "files", Item: "git_log"}},
		{"a name that the first endpoint has not", ExplainRequest{As: "reader", Method: "tools/call", Name: "git_log"}, policy.Allow, ExplainedCall{Endpoint: "one", Path: "/git", Server: "git", Item: "git_log"}},
		{"a name that one server has", ExplainRequest{As: "reader", Method: "tools/call", Name: "git_push", Endpoint: "/mcp"}, policy.Deny, ExplainedCall{Endpoint: "all", Path: "/mcp", Server: "git", Item: "git_push"}},
		{"an endpoint by name", ExplainRequest{As: "reader", Method: "prompts/get", Name: "git_help", Endpoint: "one", Era: "legacy"}, policy.Deny, ExplainedCall{Endpoint: "one", Path: "/git", Server: "git", Item: "git_help", Era: "legacy", Kind: catalog.Prompt}},
		{"a resource", ExplainRequest{As: "anonymous", Method: "resources/read", Name: "file:///etc/motd"}, policy.Allow, ExplainedCall{Endpoint: "all", Path: "/mcp", Server: "files", Item: "file:///etc/motd", Kind: catalog.Resource}},
		{"a template", ExplainRequest{As: "reader", Method: "resources/read", Name: "file:///srv/a"}, policy.Allow, ExplainedCall{Endpoint: "all", Path: "/mcp", Server: "files", Item: "file:///srv/{name}", Kind: catalog.Template}},
		{"a template with its server", ExplainRequest{As: "reader", Method: "resources/read", Name: "files/file:///srv/b"}, policy.Deny, ExplainedCall{Endpoint: "all", Path: "/mcp", Server: "files", Item: "file:///srv/{name}", Kind: catalog.Template}},
		{"a claim", ExplainRequest{As: "ann", Caller: &SupposedCaller{Claims: json.RawMessage(`{"org":"acme"}`)}, Method: "tools/call", Name: "git_git_push"}, policy.Allow, ExplainedCall{Endpoint: "all", Path: "/mcp", Server: "git", Item: "git_push"}},
		{"a label", ExplainRequest{As: "reader", Labels: []string{"seen"}, Method: "tools/call", Name: "git_git_push"}, policy.Allow, ExplainedCall{Endpoint: "all", Path: "/mcp", Server: "git", Item: "git_push"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := ExplainOffline(t.Context(), c, items, &tc.req)
			if err != nil {
				t.Fatal(err)
			}
			tc.call.Method = tc.req.Method
			if tc.call.Era == "" {
				tc.call.Era = "modern"
			}
			if r.Explanation.Effect != tc.effect || r.Call != tc.call || r.Before != "" || r.Ruled != nil || r.ID != "" {
				t.Errorf("got %+v, effect %s", r.Call, r.Explanation.Effect)
			}
		})
	}
	for want, req := range map[string]ExplainRequest{
		`no endpoint has a tool "gti_log"; near to it: git_git_log, files_git_log, git_log`: {As: "reader", Method: "tools/call", Name: "gti_log"},
		`no endpoint has a tool "elsewhere"; mcpgw catalog shows what is served`:            {As: "reader", Method: "tools/call", Name: "elsewhere"},
		`/git has no tool "files_git_log"; near to it: git_log`:                             {As: "reader", Method: "tools/call", Name: "files_git_log", Endpoint: "/git"},
		`there is no endpoint /x; there are: /mcp, /git`:                                    {As: "reader", Method: "tools/call", Name: "git_log", Endpoint: "/x"},
		`no API key has the id "bob"; there are: reader, anonymous. Describe`:               {As: "bob", Method: "tools/call", Name: "git_log"},
		`a caller needs a name`:            {Caller: &SupposedCaller{}, Method: "tools/call", Name: "git_log"},
		`a caller of type "anonymous"`:     {As: "x", Caller: &SupposedCaller{Type: "anonymous"}, Method: "tools/call", Name: "git_log"},
		`claims: `:                         {As: "x", Caller: &SupposedCaller{Claims: json.RawMessage(`[]`)}, Method: "tools/call", Name: "git_log"},
		`policy is not asked about "ping"`: {As: "reader", Method: "ping", Name: "git_log"},
		`there is no era "new"`:            {As: "reader", Method: "tools/call", Name: "git_log", Era: "new"},
		`arguments: `:                      {As: "reader", Method: "tools/call", Name: "git_log", Arguments: json.RawMessage(`{"a":1,"a":2}`)},
	} {
		if r, err := ExplainOffline(t.Context(), c, items, &req); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, %v\nwant %s", r, err, want)
		}
	}
}

func TestSupposedItem(t *testing.T) {
	c, _ := explainedConfig(t)
	for _, tc := range []struct {
		server, name string
		annotations  map[string]json.RawMessage
		tags         []string
		want         string
	}{
		{"git", "git_log", nil, nil, `{"readOnlyHint":true} []`}, // as configured
		{"git", "git_log", map[string]json.RawMessage{"x": json.RawMessage(`1`)}, []string{"a"}, `{"x":1} [a]`},
		{"files", "read", nil, nil, ` [open]`},
	} {
		i, err := SupposedItem(c, tc.server, catalog.Tool, tc.name, tc.annotations, tc.tags)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s %v", i.Annotations, i.Tags); got != tc.want {
			t.Errorf("got %s, want %s", got, tc.want)
		}
	}
	if _, err := SupposedItem(c, "gti", catalog.Tool, "x", nil, nil); err == nil || !strings.Contains(err.Error(), "there are: git, files") {
		t.Errorf("got %v", err)
	}
}

// served is a server that explains, without anything that runs.
func served(t *testing.T) *Server {
	t.Helper()
	c, items := explainedConfig(t)
	e, err := LoadPolicy(c.Proto.Policy)
	if err != nil {
		t.Fatal(err)
	}
	src := &catalog.Source{Server: "git", Modern: true, Legacy: true}
	for _, i := range items[:1] {
		i.Definition = definition(i)
		src.Items[i.Kind] = append(src.Items[i.Kind], i)
	}
	s := &Server{log: slog.New(slog.DiscardHandler), kept: newKept(), world: &built{config: c, engine: e}}
	if s.gateway, err = gateway.New(gateway.Options{Judged: s.judged}); err != nil {
		t.Fatal(err)
	}
	s.gateway.Swap(func(now gateway.Snapshot) gateway.Snapshot {
		return gateway.Snapshot{Settings: &gateway.Settings{Version: "12345678"}, Policy: e, Catalog: catalog.Build(endpoints(c.Proto), []*catalog.Source{src}, now.Catalog)}
	})
	return s
}

func ask(t *testing.T, s *Server, method, path, body string) (int, string) {
	t.Helper()
	mux := http.NewServeMux()
	for _, r := range s.explainRoutes() {
		if r.May != "explain" {
			t.Errorf("%s is for who may %s", r.Pattern, r.May)
		}
		mux.HandleFunc(r.Pattern, func(w http.ResponseWriter, req *http.Request) { r.Serve(w, req, "eve") })
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body)))
	answer, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(answer)
}

func TestExplainRoutes(t *testing.T) {
	s := served(t)
	if code, text := ask(t, s, http.MethodGet, "/explain/x", ""); code != http.StatusNotFound || !strings.Contains(text, "set policy.explain.keep") {
		t.Errorf("got %d %s", code, text)
	}
	s.keepRulings(nil, s.world)
	s.keepRulings(&built{config: s.world.config}, s.world) // a world whose bundle was never had has no engine
	snap := s.gateway.Snapshot()
	judge := func(id string, arguments []byte) {
		q, _, err := snap.Suppose(gateway.Supposed{
			View: snap.Catalog.View("/mcp"), Caller: &identity.Principal{Type: identity.User, ID: "ann", Roles: []string{"reader"}}, Method: "tools/call", Name: "git_git_log", Arguments: arguments,
		})
		if err != nil {
			t.Fatal(err)
		}
		q.Context.RequestID = id
		r := snap.Policy.Decide(t.Context(), q)
		s.judged(q, &r, snap)
		for i := range q.Arguments { // whoever judged may use the bytes again
			q.Arguments[i] = 'x'
		}
	}
	judge("A", []byte(`{"password":"hunter2"}`))
	code, text := ask(t, s, http.MethodGet, "/explain/A", "")
	var r ExplainReport
	if err := json.Unmarshal([]byte(text), &r); code != http.StatusOK || err != nil || r.Ruled.Effect != policy.Allow || r.Snapshot != snap.Version() || r.Replaced || r.Explanation == nil || strings.Contains(text, "hunter2") {
		t.Errorf("got %d %s", code, text)
	}
	judge("B", []byte(`{"a":"`+strings.Repeat("x", decision.MaxArguments)+`"}`))
	if code, text := ask(t, s, http.MethodGet, "/explain/B", ""); code != http.StatusOK || !strings.Contains(text, "were not kept") || strings.Contains(text, `"explanation"`) {
		t.Errorf("got %d %s", code, text)
	}
	if code, text := ask(t, s, http.MethodGet, "/explain/"+strings.Repeat("C", 5000), ""); code != http.StatusNotFound || len(text) > 500 || !strings.Contains(text, "The last 10000 are, for 15m0s") {
		t.Errorf("got %d %s", code, text)
	}
	for body, want := range map[string]int{
		`{"as":"reader","method":"tools/call","name":"git_git_log"}`:       http.StatusOK,
		`{"as":"reader","method":"tools/call","name":"git_git_log","x":1}`: http.StatusBadRequest,
		`[]`: http.StatusBadRequest,
		`{"as":"reader","method":"tools/call","name":"nothing"}`: http.StatusUnprocessableEntity,
	} {
		if code, text := ask(t, s, http.MethodPost, "/explain", body); code != want {
			t.Errorf("%s: got %d %s", body, code, text)
		}
	}
	// A reload with another bound, and one that keeps nothing.
	now := *s.world
	now.engine, _ = LoadPolicy(now.config.Proto.Policy)
	now.config.Proto.Policy.Explain.Keep = new(uint32)
	s.keepRulings(s.world, &now)
	if code, _ := ask(t, s, http.MethodGet, "/explain/A", ""); code != http.StatusNotFound {
		t.Errorf("got %d", code)
	}
	s.world = nil
	if code, _ := ask(t, s, http.MethodPost, "/explain", `{"as":"reader","method":"tools/call","name":"git_git_log"}`); code != http.StatusServiceUnavailable {
		t.Errorf("got %d", code)
	}
}

// TestReportIsJSON: what an operator's tools read has the names that the command shows.
func TestReportIsJSON(t *testing.T) {
	var b bytes.Buffer
	r := ExplainReport{ID: "A", At: time.Unix(0, 0).UTC(), Caller: ExplainedCaller{Type: "user", ID: "ann", Roles: []string{}}, Ruled: &ExplainedRuling{Effect: policy.Deny, Reasons: []policy.Reason{}}}
	if err := json.NewEncoder(&b).Encode(r); err != nil {
		t.Fatal(err)
	}
	const want = `{"id":"A","at":"1970-01-01T00:00:00Z","caller":{"type":"user","id":"ann","roles":[]},"call":{"method":"","endpoint":"","era":"","kind":"tool","server":"","item":""},` +
		`"ruled":{"effect":"deny","reasons":[],"revision":"","cached":false}}`
	if got := strings.TrimSpace(b.String()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestExplainLongName: a name of megabytes is near to none, and nobody compares it with all letter by letter.
func TestExplainLongName(t *testing.T) {
	c, items := explainedConfig(t)
	for n := range 100 {
		items = append(items, &catalog.Item{Server: "git", Kind: catalog.Tool, Name: fmt.Sprintf("git_%d", n)})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := ExplainOffline(ctx, c, items, &ExplainRequest{As: "reader", Method: "tools/call", Name: strings.Repeat("git_log", 1<<20)})
	if err == nil || strings.Contains(err.Error(), "near to it") || ctx.Err() != nil {
		t.Errorf("%.100v, %v", err, ctx.Err())
	}
}
