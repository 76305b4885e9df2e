// Package telemetry proves what leaves the gateway about each call: one trace that Envoy, the gateway and the server share, one log
// line, metrics. All parts are real: mcpgw with its Envoy, an MCP server, a collector that takes OTLP.
package telemetry

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/test/collector"
	"github.com/mcpgw/mcpgw/test/harness"
)

const policy = `package mcpgw.policy

allow if "reader" in input.subject.roles

deny contains "add is for grown-ups" if {
	input.resource.name == "add"
	not small
}

small if {
	is_number(input.arguments.a)
	input.arguments.a < 10
}
`

const config = `
listeners:
  - {name: main, address: "127.0.0.1:0", anonymous: {roles: [reader]}}
  - {name: linked, address: "127.0.0.1:0", anonymous: {roles: [reader]}, client_trace: link}
servers:
  - {name: backend, http: {url: "BACKEND"}}
policy: {directory: policy}
telemetry:
  otlp: {endpoint: "COLLECTOR", sampling_percent: 100}
  log: {format: json}
admin: {address: "unix:ADMIN"}
envoy: {concurrency: 1}
`

func TestWhatLeavesTheGateway(t *testing.T) {
	backend := harness.StartBackend(t, harness.Modern, nil)
	spans, address := harness.StartCollector(t)
	admin := filepath.Join(t.TempDir(), "admin")
	g := harness.StartGateway(t, strings.NewReplacer("BACKEND", backend.URL, "COLLECTOR", address, "ADMIN", admin).Replace(config), map[string]string{"p.rego": policy})
	harness.AwaitItems(t, g.URLs[0], "")
	main, linked := harness.NewModern(g.URLs[0], ""), harness.NewModern(g.URLs[1], "")

	t.Run("an allowed call is one trace from the client to the server", func(t *testing.T) {
		const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
		main.Headers = []string{"traceparent: 00-" + trace + "-" + parent + "-01"}
		defer func() { main.Headers = nil }()
		if got := main.Tool(t, "backend_add", map[string]any{"a": 1, "b": 2}).Text(t); got != "3" {
			t.Fatalf("add: %q", got)
		}
		all := await(t, spans, trace, 3)
		server := one(t, all, func(s collector.Span) bool { return s.Kind == "server" })
		if server.ParentID != parent || server.Name != "tools/call backend_add" {
			t.Errorf("Envoy's server span: %+v", server)
		}
		decision := one(t, all, func(s collector.Span) bool { return s.Attributes["mcpgw.policy.decision"] == "allow" })
		if decision.Attributes["mcp.method.name"] != "tools/call" || decision.Attributes["gen_ai.tool.name"] != "backend_add" {
			t.Errorf("the decision span: %+v", decision)
		}
		asked := one(t, all, func(s collector.Span) bool { return s.SpanID == decision.ParentID })
		if asked.ParentID != server.SpanID {
			t.Errorf("the decision hangs below %+v, not below Envoy's server span", asked)
		}
		client := one(t, all, func(s collector.Span) bool { return s.Kind == "client" && s.SpanID != asked.SpanID })
		if client.ParentID != server.SpanID || !strings.Contains(client.Name, "@backend") {
			t.Errorf("Envoy's client span: %+v", client)
		}
		calls := backend.Requests("tools/call")
		if got := calls[len(calls)-1].Header.Get("Traceparent"); got != "00-"+trace+"-"+client.SpanID+"-01" {
			t.Errorf("the server got %q, want the client span %s", got, client.SpanID)
		}
	})

	t.Run("a refusal is exported though the client does not sample", func(t *testing.T) {
		const trace = "1af7651916cd43dd8448eb211c80319c"
		main.Headers = []string{"traceparent: 00-" + trace + "-b7ad6b7169203331-00"}
		defer func() { main.Headers = nil }()
		if f := main.Tool(t, "backend_add", map[string]any{"a": 11, "b": 2}).Failure(t); f.Code != 403 {
			t.Fatalf("%+v", f)
		}
		all := await(t, spans, trace, 1)
		decision := one(t, all, func(s collector.Span) bool { return s.Attributes["mcpgw.policy.decision"] == "deny" })
		if !strings.Contains(decision.Attributes["mcpgw.policy.rule_ids"], "add is for grown-ups") || decision.Attributes["error.type"] != "403" {
			t.Errorf("the decision span: %+v", decision)
		}
	})

	t.Run("a listener that links starts a trace of its own", func(t *testing.T) {
		const trace, parent = "2af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
		linked.Headers = []string{"traceparent: 00-" + trace + "-" + parent + "-00"}
		linked.Tool(t, "backend_add", map[string]any{"a": 11, "b": 2}).Failure(t)
		found := harness.AwaitSpans(t, spans, 10*time.Second, func(all []collector.Span) bool {
			for _, s := range all {
				for _, l := range s.Links {
					if l == trace+"/"+parent {
						return true
					}
				}
			}
			return false
		})
		for _, s := range found {
			if s.TraceID == trace {
				t.Errorf("a span joined the client's trace: %+v", s)
			}
		}
	})

	t.Run("one log line a call, with what it takes to find the trace", func(t *testing.T) {
		main.Tool(t, "backend_add", map[string]any{"a": 12, "b": 2}).Failure(t)
		line := g.Stderr.Await(t, `(?m)^.*"public_name":"backend_add".*"refusal":"denied".*$`, 5*time.Second)[0]
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		for _, field := range []string{"decision_id", "trace_id", "principal", "server", "item", "effect", "reasons", "policy_revision", "snapshot", "duration_us"} {
			if e[field] == nil {
				t.Errorf("%s is missing: %s", field, line)
			}
		}
		if strings.Contains(line, "arguments") {
			t.Errorf("arguments are in the log: %s", line)
		}
	})

	t.Run("metrics count decisions and outcomes", func(t *testing.T) {
		client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", admin)
		}}}
		wanted := regexp.MustCompile(`(?m)^mcpgw_decisions_total\{.*decision="deny".*\} [1-9]`)
		outcome := regexp.MustCompile(`(?m)^mcpgw_outcomes_total\{.*outcome="ok".*\} [1-9]`)
		harness.Eventually(t, 5*time.Second, "the metrics show a denial and an outcome", func() bool {
			resp, err := client.Get("http://mcpgw/metrics")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return wanted.Match(b) && outcome.Match(b)
		})
	})
}

// await returns the spans of a trace once there are as many.
func await(t *testing.T, c *collector.Collector, trace string, least int) []collector.Span {
	t.Helper()
	var mine []collector.Span
	harness.AwaitSpans(t, c, 10*time.Second, func(all []collector.Span) bool {
		mine = nil
		decided := false
		for _, s := range all {
			if s.TraceID == trace {
				mine = append(mine, s)
				decided = decided || s.Attributes["mcpgw.policy.decision"] != ""
			}
		}
		return decided && len(mine) >= least
	})
	return mine
}

func one(t *testing.T, spans []collector.Span, is func(collector.Span) bool) collector.Span {
	t.Helper()
	var found []collector.Span
	for _, s := range spans {
		if is(s) {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d spans are it, want 1:\n%s", len(found), collector.Tree(spans))
	}
	return found[0]
}
