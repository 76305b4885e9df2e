package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mcpgw/mcpgw/pkg/opa"
	rulings "github.com/mcpgw/mcpgw/pkg/policy"
	reports "github.com/mcpgw/mcpgw/pkg/server"
	"github.com/mcpgw/mcpgw/test/harness"
)

// Keys of the operators.
const (
	approver = "key-of-who-may-approve"
)

// explaining is how many rulings the gateway of TestExplain keeps.
const explaining = 12

func startExplained(t *testing.T) (g *harness.Gateway, admin string) {
	t.Helper()
	backend := harness.StartBackend(t, harness.Dual, more)
	config := fmt.Sprintf(`
listeners: [{ address: 127.0.0.1:0 }]
servers: [{ name: dual, trust_annotations: true, http: { url: %q } }]
endpoints:
  - { name: mcp, path: /mcp, per_server: true, prefixes: { dual: d_ } }
  - { name: told, path: /told, denials: result, servers: [{ server: dual }] }
policy: { directory: policy, explain: { keep: %d, keep_for: 10m } }
authentication:
  api_keys:
    - { id: reader, digest: %q, roles: [reader] }
    - { id: writer, digest: %q, roles: [writer] }
admin:
  address: 127.0.0.1:0
  operators:
    - { id: eve, digest: %q, may: [explain] }
    - { id: adam, digest: %q, may: [approve] }
envoy: { run_dir: %q }
`, backend.URL, explaining, digest(reader), digest(writer), digest(explainer), digest(approver), filepath.Join(t.TempDir(), "run"))
	g = harness.StartGateway(t, config, map[string]string{"policy.rego": policy})
	url := strings.TrimSuffix(g.URLs[0], "/mcp") + "/mcp"
	harness.AwaitItems(t, url, writer)
	return g, g.Listening(t)
}

// TestExplain: a refused call, and an allowed one, are explained by their decision ids, through a reload and until they are forgotten.
func TestExplain(t *testing.T) {
	g, admin := startExplained(t)
	base := strings.TrimSuffix(g.URLs[0], "/mcp")
	const secret = "hunter2-planted"
	mcpgw := func(key string, args ...string) (string, error) {
		args = append([]string{"explain", "--admin", admin, "--config", g.Config, "--key", key}, args...)
		out, err := exec.Command(harness.Mcpgw(t), args...).CombinedOutput()
		if strings.Contains(string(out), secret) {
			t.Errorf("the secret is told:\n%s", out)
		}
		return string(out), err
	}
	explained := func(t *testing.T, args ...string) *reports.ExplainReport {
		t.Helper()
		out, err := mcpgw(explainer, append(args, "--output", "json")...)
		r := &reports.ExplainReport{}
		if err != nil || json.Unmarshal([]byte(out), r) != nil || r.Explanation == nil {
			t.Fatalf("%v: %s", err, out)
		}
		return r
	}
	call := func(c *harness.Client, tool string, arguments map[string]any) *harness.Reply {
		return c.Tool(t, tool, arguments)
	}
	refusedID := func(t *testing.T, reply *harness.Reply) string {
		t.Helper()
		e := reply.Failure(t)
		id, _ := object(t, e.Data)["decision_id"].(string)
		if e.Code != 403 || id == "" {
			t.Fatalf("got %d %s", e.Code, e.Data)
		}
		return id
	}
	line := func(part string) int {
		before, _, _ := strings.Cut(policy, part)
		return 1 + strings.Count(before, "\n")
	}

	var id string
	for _, revision := range []string{harness.R20251125, harness.R20260728} {
		c := harness.NewModern(base+"/mcp", reader)
		if revision != harness.R20260728 {
			c = harness.OpenLegacy(t, base+"/mcp", reader, revision)
		}
		id = refusedID(t, call(c, "d_big", map[string]any{"bytes": 51, "password": secret}))
		g.Stderr.Await(t, `decision_id"?[=:]"?`+id, soon) // the log line has the same
		r := explained(t, id)
		if r.ID != id || r.Ruled.Effect != rulings.Deny || r.Replaced || r.Caller.ID != "reader" || r.Call.Item != "big" || r.Explanation.Effect != rulings.Deny || !r.Explanation.Visible {
			t.Errorf("%s: got %+v", revision, r)
		}
		if len(r.Explanation.Fired) == 0 || r.Explanation.Fired[0].Line != line(`deny contains "readers get 1 to 10`) || r.Explanation.Fired[0].Message != "readers get 1 to 10 bytes" {
			t.Errorf("%s: fired %+v", revision, r.Explanation.Fired)
		}
		few := nearest(t, r.Explanation, "few")
		if few.Line != line("few if {") || few.Failed != (opa.Condition{Line: line("input.arguments.bytes <= 10"), Text: "input.arguments.bytes <= 10"}) ||
			few.Held != 2 || few.Of != 3 || len(few.Values) != 1 || few.Values[0] != (opa.ReadValue{Name: "input.arguments.bytes", Value: "51"}) {
			t.Errorf("%s: near %+v", revision, few)
		}
	}
	out, err := mcpgw(explainer, id)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"Refused: readers get 1 to 10 bytes", "policy.rego:", "input.arguments.bytes <= 10", "input.arguments.bytes = 51", "reader (user), roles reader", id} {
		if !strings.Contains(out, want) {
			t.Errorf("the text has no %q:\n%s", want, out)
		}
	}

	t.Run("who may ask", func(t *testing.T) {
		for key, want := range map[string]string{"": "needs an operator's key", "wrong": "no operator has this key", approver: "does not name explain"} {
			if out, err := mcpgw(key, id); err == nil || !strings.Contains(out, want) {
				t.Errorf("with key %q: %v\n%s", key, err, out)
			}
		}
		for key, want := range map[string]int{"": http.StatusUnauthorized, "wrong": http.StatusUnauthorized, approver: http.StatusForbidden, explainer: http.StatusOK} {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				path, body := "/explain/"+id, ""
				if method == http.MethodPost {
					path, body = "/explain", `{"as":"reader","method":"tools/call","name":"d_big","arguments":{"bytes":5}}`
				}
				req, err := http.NewRequestWithContext(t.Context(), method, "http://"+admin+path, strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				if key != "" {
					req.Header.Set("Authorization", "Bearer "+key)
				}
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if resp.StatusCode != want {
					t.Errorf("%s %s with %q: %d, want %d", method, path, key, resp.StatusCode, want)
				}
			}
		}
	})
	t.Run("a refusal as a result", func(t *testing.T) {
		result := object(t, harness.NewModern(base+"/told", reader).Tool(t, "big", map[string]any{"bytes": 11}).Result(t, nil))
		meta, _ := result["_meta"].(map[string]any)
		id, _ := meta["com.github.mcpgw/decision_id"].(string)
		if result["isError"] != true || explained(t, id).Call.Endpoint != "told" {
			t.Errorf("got %v", result)
		}
	})
	t.Run("a hidden item tells no id", func(t *testing.T) {
		c := harness.NewModern(base+"/mcp", reader)
		hidden := string(c.CallID(t, "7", "tools/call", map[string]any{"name": "d_add", "arguments": map[string]any{"a": 1, "b": 2}}).Body)
		unknown := string(c.CallID(t, "7", "tools/call", map[string]any{"name": "d_odd", "arguments": map[string]any{"a": 1, "b": 2}}).Body)
		if strings.Contains(hidden, "decision") || hidden != strings.Replace(unknown, "d_odd", "d_add", 1) {
			t.Errorf("hidden %s\nunknown %s", hidden, unknown)
		}
		id := g.Stderr.Await(t, `decision_id"?[=:]"?([A-Z2-7]+)[^\n]*\badd\b[^\n]*denied`, soon)[1]
		r := explained(t, id)
		if r.Explanation.Visible || !strings.Contains(r.Explanation.Hidden, "a deny rule refuses every call") {
			t.Errorf("got %+v", r.Explanation)
		}
	})
	t.Run("an allowed call, by its log line", func(t *testing.T) {
		harness.NewModern(base+"/mcp", reader).Tool(t, "d_echo", map[string]any{"text": "x"}).Text(t)
		id := g.Stderr.Await(t, `decision_id"?[=:]"?([A-Z2-7]+)[^\n]*\becho\b[^\n]*allow`, soon)[1]
		r := explained(t, id)
		if r.Ruled.Effect != rulings.Allow || len(r.Explanation.Fired) == 0 || r.Explanation.Fired[0].Name != "allow" {
			t.Errorf("got %+v", r.Explanation)
		}
		if out, err := mcpgw(explainer, id); err != nil || !strings.HasPrefix(out, "Allowed.") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("a call that nobody makes", func(t *testing.T) {
		r := explained(t, "--as", "reader", "tools/call", "d_big", `{"bytes": 15, "password": "`+secret+`"}`)
		if r.ID != "" || r.Explanation.Effect != rulings.Deny || nearest(t, r.Explanation, "few").Values[0].Value != "15" || r.Call.Path != "/mcp" {
			t.Errorf("got %+v", r)
		}
		for _, args := range [][]string{
			{"--as", "writer", "tools/call", "dual/big", `{"bytes": 15}`},
			{"--as", "ann", "--role", "writer", "--claim", "password=" + secret, "tools/call", "big", `{"bytes": 15}`},
			{"--as", "reader", "resources/read", "test://item/7"},
			{"--as", "reader", "--endpoint", "/mcp/dual", "tools/call", "big", `{"bytes": 5}`},
			{"--as", "reader", "--endpoint", "told", "--era", "legacy", "prompts/get", "greet"},
		} {
			if r := explained(t, args...); r.Explanation.Effect != rulings.Allow || r.Before != "" {
				t.Errorf("%q: got %+v", args, r)
			}
		}
		if r := explained(t, "--as", "reader", "tools/call", "d_big", `{"bytes": "5"}`); !strings.Contains(r.Before, "bytes") {
			t.Errorf("before policy: %+v", r)
		}
		for _, row := range []struct {
			want string
			args []string
		}{
			{"near to it: d_big", []string{"--as", "reader", "tools/call", "d_bog"}},
			{"/told has no tool", []string{"--as", "reader", "--endpoint", "/told", "tools/call", "d_big"}},
			{"there are: /mcp, /told, /mcp/dual", []string{"--as", "reader", "--endpoint", "/nowhere", "tools/call", "d_big"}},
			{"there are: reader, writer", []string{"--as", "nobody", "tools/call", "d_big"}},
			{"policy is not asked about", []string{"--as", "reader", "tools/list", "d_big"}},
			{"no JSON object", []string{"--as", "reader", "tools/call", "d_big", "5"}},
			{"arguments", []string{"--as", "reader", "tools/call", "d_big", `{"a":1,"a":2}`}},
			{"who calls?", []string{"tools/call", "d_big"}},
			{"--offline", []string{"--as", "reader", "--server", "dual", "tools/call", "d_big"}},
		} {
			if out, err := mcpgw(explainer, row.args...); err == nil || !strings.Contains(out, row.want) {
				t.Errorf("%q: %v, want %q:\n%s", row.args, err, row.want, out)
			}
		}
	})
	t.Run("offline", func(t *testing.T) {
		out, err := mcpgw("", "--offline", "--as", "reader", "--server", "dual", "tools/call", "big", `{"bytes": 15}`)
		if err != nil || !strings.Contains(out, "Refused: readers get 1 to 10 bytes") || !strings.Contains(out, "input.arguments.bytes = 15") {
			t.Errorf("%v: %s", err, out)
		}
		saved := filepath.Join(t.TempDir(), "catalog.json")
		if out, status := runMcpgw(t, "catalog", "--admin", admin, "--save", saved); status != 0 {
			t.Fatal(out)
		}
		out, err = mcpgw("", "--offline", "--catalog", saved, "--as", "reader", "tools/call", "d_big", `{"bytes": 15}`)
		if err != nil || !strings.Contains(out, "Refused: readers get 1 to 10 bytes") {
			t.Errorf("%v: %s", err, out)
		}
		out, err = mcpgw("", "--offline", "--catalog", saved, "--as", "reader", "resources/read", "test://item/1")
		if err != nil || !strings.HasPrefix(out, "Allowed.") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("the policy that ruled, after a reload", func(t *testing.T) {
		id := refusedID(t, harness.NewModern(base+"/mcp", reader).Tool(t, "d_big", map[string]any{"bytes": 15}))
		before := explained(t, id).Explanation.Revision
		harness.WriteFile(t, filepath.Join(filepath.Dir(g.Config), "policy", "policy.rego"), "# changed\n"+strings.Replace(policy, "bytes <= 10", "bytes <= 20", 1))
		harness.Eventually(t, soon, "the new policy is in force", func() bool {
			return explained(t, "--as", "reader", "tools/call", "d_big", `{"bytes": 15}`).Explanation.Effect == rulings.Allow
		})
		r := explained(t, id)
		few := nearest(t, r.Explanation, "few")
		if !r.Replaced || r.Explanation.Revision != before || r.Ruled.Revision != before || few.Failed.Text != "input.arguments.bytes <= 10" || few.Line != line("few if {") {
			t.Errorf("got %+v, %+v", r, few)
		}
		if out, err := mcpgw(explainer, id); err != nil || !strings.Contains(out, "which another has replaced since") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("forgotten", func(t *testing.T) {
		c := harness.NewModern(base+"/mcp", reader)
		id := refusedID(t, c.Tool(t, "d_big", map[string]any{"bytes": 99}))
		explained(t, id)
		for range explaining {
			c.Tool(t, "d_echo", map[string]any{"text": "x"}).Text(t)
		}
		out, err := mcpgw(explainer, id)
		if want := fmt.Sprintf("The last %d are, for 10m0s", explaining); err == nil || !strings.Contains(out, want) || !regexp.MustCompile(`no ruling with the id .*`+id).MatchString(out) {
			t.Errorf("%v, want %q: %s", err, want, out)
		}
	})
}

// nearest is a rule that came near, by name.
func nearest(t *testing.T, x *opa.Explanation, name string) opa.NearMiss {
	t.Helper()
	for _, r := range x.Near {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("no rule %s came near: %+v", name, x.Near)
	return opa.NearMiss{}
}
