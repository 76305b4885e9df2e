package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// collector is a real OTLP receiver on loopback.
type collector struct {
	coltracepb.UnimplementedTraceServiceServer
	addr string

	mu    sync.Mutex
	spans []*tracepb.Span
	res   []*tracepb.ResourceSpans
}

func (c *collector) Export(_ context.Context, r *coltracepb.ExportTraceServiceRequest) (*coltracepb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.res = append(c.res, r.ResourceSpans...)
	for _, rs := range r.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			c.spans = append(c.spans, ss.Spans...)
		}
	}
	return &coltracepb.ExportTraceServiceResponse{}, nil
}

func startCollector(t testing.TB) *collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, s := &collector{addr: l.Addr().String()}, grpc.NewServer()
	coltracepb.RegisterTraceServiceServer(s, c)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return c
}

func event() *Exchange {
	return &Exchange{
		DecisionID: "D1", Start: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC), Duration: 150 * time.Microsecond,
		Listener: "main", Endpoint: "dev", HTTPMethod: "POST", ClientAddress: "192.0.2.1",
		PrincipalType: "user", PrincipalID: "alice", Tenant: "acme",
		Method: "tools/call", RequestID: `"7"`, Server: "git", Kind: "tool", Item: "git_log", Public: "git_git_log",
		Era: "modern", Revision: "2026-07-28", Lane: "direct",
		Effect: "allow", Rules: []string{"readers"}, PolicyRevision: "r1", PolicyDuration: 12 * time.Microsecond,
		BodyBytes: 300, Snapshot: "s1", Catalog: "c1",
	}
}

func denied() *Exchange {
	e := event()
	e.Effect, e.Refusal, e.Code, e.Message, e.Lane, e.Status, e.ReplyBytes = "deny", "denied", 403, "readers may not", "answer", 200, 120
	return e
}

func confirmed() *Exchange {
	e := event()
	e.Effect, e.Approval, e.ApprovalID, e.ApprovedBy = "ask", "approved", "Q1", "operator:olga"
	return e
}

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	spanID  = "b7ad6b7169203331"
)

func call(traceparent string) context.Context {
	if traceparent == "" {
		return context.Background()
	}
	return metadata.NewIncomingContext(context.Background(), metadata.Pairs("traceparent", traceparent, "tracestate", "vendor=1"))
}

func value(v *commonpb.AnyValue) any {
	switch v := v.Value.(type) {
	case *commonpb.AnyValue_StringValue:
		return v.StringValue
	case *commonpb.AnyValue_BoolValue:
		return v.BoolValue
	case *commonpb.AnyValue_IntValue:
		return v.IntValue
	case *commonpb.AnyValue_ArrayValue:
		var out []string
		for _, e := range v.ArrayValue.Values {
			out = append(out, e.GetStringValue())
		}
		return strings.Join(out, ",")
	}
	return fmt.Sprint(v)
}

func TestDecisionSpan(t *testing.T) {
	internal := event()
	internal.Refusal, internal.Code, internal.Message, internal.Cause, internal.Effect = "internal", -32603, "policy could not rule", errors.New("eval_timeout"), ""
	nobody := &Exchange{DecisionID: "D2", Start: time.Now(), Refusal: "unauthenticated", Code: 401, Lane: "answer"}
	prompt := event()
	prompt.Method, prompt.Kind, prompt.Public, prompt.RequestID = "prompts/get", "prompt", "p", "null"
	linked := event()
	linked.Link = "00-11111111111111111111111111111111-2222222222222222-01"
	changed := event()
	changed.Rewritten, changed.Redactions = 2, 3
	badLink := event()
	badLink.Link = "00-zz-1-01"

	const sampled, dropped = "00-" + traceID + "-" + spanID + "-01", "00-" + traceID + "-" + spanID + "-00"
	for _, tc := range []struct {
		name   string
		ratio  float64
		parent string
		e      *Exchange
		want   bool
		child  bool
		status tracepb.Status_StatusCode
		attrs  map[string]any
		absent []string
		links  int
	}{
		{name: "allowed, sampled by Envoy", parent: sampled, e: event(), want: true, child: true, attrs: map[string]any{
			"mcp.method.name": "tools/call", "gen_ai.tool.name": "git_git_log", "gen_ai.operation.name": "execute_tool", "jsonrpc.request.id": `"7"`,
			"mcp.protocol.version": "2026-07-28", "mcpgw.policy.decision": "allow", "mcpgw.policy.rule_ids": "readers", "mcpgw.policy.bundle.revision": "r1",
			"mcpgw.policy.cached": false, "mcpgw.policy.duration_us": int64(12), "mcpgw.decision_id": "D1", "mcpgw.server": "git", "mcpgw.item": "git_log",
			"mcpgw.endpoint": "dev", "mcpgw.listener": "main", "mcpgw.lane": "direct", "mcpgw.snapshot.version": "s1", "mcpgw.catalog.version": "c1",
		}, absent: []string{"error.type", "gen_ai.prompt.name", "mcpgw.refusal", "mcpgw.policy.rewritten", "mcpgw.policy.redactions"}},
		{name: "rewritten and redacted", parent: sampled, e: changed, want: true, child: true, attrs: map[string]any{
			"mcpgw.policy.rewritten": int64(2), "mcpgw.policy.redactions": int64(3),
		}},
		{name: "asked, and confirmed", parent: sampled, e: confirmed(), want: true, child: true, attrs: map[string]any{
			"mcpgw.policy.decision": "ask", "mcpgw.approval": "approved", "mcpgw.approval.id": "Q1", "mcpgw.approval.by": "operator:olga",
		}},
		{name: "allowed, not sampled", ratio: 1, parent: dropped, e: event()},
		{name: "refused, not sampled: exported all the same", parent: dropped, e: denied(), want: true, child: true, attrs: map[string]any{
			"error.type": "403", "rpc.response.status_code": "403", "mcpgw.policy.decision": "deny", "mcpgw.refusal": "denied",
		}},
		{name: "refused, no parent, ratio 0: exported all the same", e: denied(), want: true},
		{name: "refused without a principal follows the flag", parent: dropped, e: nobody},
		{name: "refused without a principal, sampled", parent: sampled, e: nobody, want: true, child: true, attrs: map[string]any{"error.type": "401"}, absent: []string{"mcp.method.name", "mcpgw.policy.cached"}},
		{name: "no parent, ratio 0", e: event()},
		{name: "no parent, ratio 1", ratio: 1, e: event(), want: true},
		{name: "internal fault", parent: sampled, e: internal, want: true, child: true, status: tracepb.Status_STATUS_CODE_ERROR, attrs: map[string]any{"error.type": "-32603", "mcpgw.refusal.cause": "eval_timeout"}},
		{name: "prompt", parent: sampled, e: prompt, want: true, child: true, attrs: map[string]any{"gen_ai.prompt.name": "p"}, absent: []string{"gen_ai.tool.name", "gen_ai.operation.name", "jsonrpc.request.id"}},
		{name: "linked", parent: sampled, e: linked, want: true, child: true, links: 1},
		{name: "bad link", parent: sampled, e: badLink, want: true, child: true},
		{name: "unreadable parent", ratio: 1, parent: "00-garbage", e: event(), want: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := startCollector(t)
			tel, shutdown, err := New(t.Context(), TracingOptions{Collector: c.addr, Version: "1.2.3", Ratio: tc.ratio}, nil)
			if err != nil {
				t.Fatal(err)
			}
			tel.Observe(call(tc.parent), tc.e)
			if err := shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := len(c.spans); (got == 1) != tc.want || got > 1 {
				t.Fatalf("%d spans, want %v", got, tc.want)
			}
			if !tc.want {
				return
			}
			s := c.spans[0]
			if s.Name != "policy request" || s.Kind != tracepb.Span_SPAN_KIND_INTERNAL || s.EndTimeUnixNano-s.StartTimeUnixNano != uint64(tc.e.Duration) {
				t.Errorf("span %q, kind %v, %d ns", s.Name, s.Kind, s.EndTimeUnixNano-s.StartTimeUnixNano)
			}
			if child := fmt.Sprintf("%x", s.TraceId) == traceID && fmt.Sprintf("%x", s.ParentSpanId) == spanID; child != tc.child {
				t.Errorf("trace %x, parent %x", s.TraceId, s.ParentSpanId)
			}
			if tc.child && s.TraceState != "vendor=1" {
				t.Errorf("trace state %q", s.TraceState)
			}
			if s.Status.GetCode() != tc.status || tc.status != 0 && s.Status.Message != tc.e.Message {
				t.Errorf("status %v", s.Status)
			}
			if fmt.Sprintf("%x", s.TraceId) != tc.e.TraceID {
				t.Errorf("event says trace %q", tc.e.TraceID)
			}
			if len(s.Links) != tc.links {
				t.Errorf("links %v", s.Links)
			}
			got := map[string]any{}
			for _, a := range s.Attributes {
				got[a.Key] = value(a.Value)
			}
			for k, v := range tc.attrs {
				if got[k] != v {
					t.Errorf("%s = %v, want %v", k, got[k], v)
				}
			}
			for _, k := range tc.absent {
				if v, ok := got[k]; ok {
					t.Errorf("%s = %v, want none", k, v)
				}
			}
			r := c.res[0]
			if got := r.ScopeSpans[0].SchemaUrl; got != SchemaURL {
				t.Errorf("schema %q", got)
			}
			res := map[string]any{}
			for _, a := range r.Resource.Attributes {
				res[a.Key] = value(a.Value)
			}
			if res["service.name"] != "mcpgw" || res["service.version"] != "1.2.3" {
				t.Errorf("resource %v", res)
			}
		})
	}
}

func TestLostSpansAreCounted(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	l, err := net.Listen("tcp", "127.0.0.1:0") // nobody speaks OTLP here
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	tr, err := NewTracing(t.Context(), TracingOptions{Collector: l.Addr().String(), Ratio: 1, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	tr.Decision(t.Context(), event())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_ = tr.Shutdown(ctx)
	for end := time.Now().Add(10 * time.Second); tr.Lost() != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("lost %d spans", tr.Lost())
		}
	}
	for _, o := range []TracingOptions{{Collector: "x:1", Ratio: 1.5}, {Collector: "x:1", Ratio: -1}} {
		if _, err := NewTracing(t.Context(), o); err == nil {
			t.Errorf("ratio %v is no fault", o.Ratio)
		}
	}
}

func TestNothingConfigured(t *testing.T) {
	tr, err := NewTracing(t.Context(), TracingOptions{})
	if tr != nil || err != nil {
		t.Fatalf("NewTracing = %v, %v", tr, err)
	}
	e, ctx := event(), context.Background()
	if n := testing.AllocsPerRun(100, func() { tr.Decision(ctx, e) }); n != 0 {
		t.Errorf("%v allocations without a collector", n)
	}
	if tr.Lost() != 0 || tr.Shutdown(ctx) != nil {
		t.Error("no tracing is not at rest")
	}
}

func TestLogLine(t *testing.T) {
	for _, tc := range []struct {
		name  string
		e     *Exchange
		level string
		want  map[string]any
		keys  int
	}{
		{"denied", denied(), "INFO", map[string]any{
			"decision_id": "D1", "principal": "alice", "principal_type": "user", "tenant": "acme", "method": "tools/call", "server": "git", "item": "git_log",
			"public_name": "git_git_log", "effect": "deny", "refusal": "denied", "code": 403.0, "status": 200.0, "policy_us": 12.0, "duration_us": 150.0, "cached": false,
			"lane": "answer", "era": "modern", "revision": "2026-07-28", "policy_revision": "r1", "catalog_version": "c1", "body_bytes": 300.0, "reply_bytes": 120.0,
			"endpoint": "dev", "listener": "main", "snapshot": "s1",
		}, 0},
		{"confirmed", confirmed(), "INFO", map[string]any{"effect": "ask", "approval": "approved", "approval_id": "Q1", "approved_by": "operator:olga"}, 0},
		{"barely anything", &Exchange{DecisionID: "x", Lane: "answer"}, "INFO", map[string]any{"decision_id": "x"}, 6},
		{"internal", &Exchange{Code: -32603, Refusal: "internal", Cause: errors.New(strings.Repeat("é", 1000))}, "ERROR", map[string]any{"refusal": "internal"}, 0},
		{"long id", &Exchange{RequestID: `"` + strings.Repeat("x", 4<<20) + `"`}, "INFO", nil, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			tc.e.Log(t.Context(), slog.New(slog.NewJSONHandler(&out, nil)))
			if out.Len() > 4096 {
				t.Errorf("a line of %d bytes", out.Len())
			}
			got := map[string]any{}
			if err := json.Unmarshal(out.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if got["level"] != tc.level || got["msg"] != "exchange" {
				t.Errorf("level %v, msg %v", got["level"], got["msg"])
			}
			for k, v := range tc.want {
				if got[k] != v {
					t.Errorf("%s = %v, want %v", k, got[k], v)
				}
			}
			if tc.keys != 0 && len(got) != tc.keys {
				t.Errorf("%d members, want %d: %v", len(got), tc.keys, got)
			}
		})
	}
	var out bytes.Buffer
	event().Log(t.Context(), slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelError})))
	if out.Len() != 0 {
		t.Error("logged below the level")
	}
}

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	b, err := io.ReadAll(w.Body)
	if err != nil || w.Code != 200 {
		t.Fatalf("status %d, %v", w.Code, err)
	}
	return string(b)
}

func TestMetrics(t *testing.T) {
	m := NewMetrics()
	m.Watch(Sources{
		InFlight: func() int64 { return 3 }, Broken: func() uint64 { return 4 }, BodyBytes: func() int64 { return 5 }, Sessions: func() int { return 6 },
		Streams: func() int { return 7 }, Parked: func() int { return 8 }, SpansLost: func() int64 { return 9 },
		Restarts: func() uint64 { return 10 }, EnvoyRestarts: func() uint64 { return 11 }, Envoys: func() int { return 12 }, Rejected: func() uint64 { return 13 },
		Bundles: func() map[string]BundleCount {
			return map[string]BundleCount{"live": {Confirmed: time.Unix(1700000009, 5e8), Activated: time.Unix(1700000003, 0), Failures: 14}, "shadow": {Failures: 15}}
		},
	})
	tel := &Telemetry{Metrics: m}
	tel.Observe(call(""), event())
	d := denied()
	d.Cached = true
	tel.Observe(call(""), d)
	read := event()
	read.Method, read.Kind, read.Item = "resources/read", "resource", "file:///etc/hosts"
	tel.Observe(call(""), read)
	tel.Observe(call(""), &Exchange{Lane: "answer", Refusal: "unauthenticated", Code: 401})
	m.Outcome(Outcome{Method: "tools/call", Server: "git", Kind: "tool", Item: "git_log", Outcome: "ok", Duration: 30 * time.Millisecond})
	m.Outcome(Outcome{Method: "tools/call", Server: "git", Kind: "tool", Item: "git_log", Outcome: "rpc_error", Code: -32602, Duration: time.Second})
	m.Outcome(Outcome{Method: "tools/call", Server: "git", Kind: "tool", Item: "git_log", Outcome: "rpc_error", Code: 4711, Duration: time.Second})
	m.Outcome(Outcome{Method: "tools/call", Server: "git", Kind: "tool", Item: "git_log", Outcome: "unknown"})
	m.Unjoined("undecided")
	m.Catalog(map[string]int{"tool": 12, "prompt": 2}, 1, time.Unix(1700000000, 0))
	m.Reload(true, time.Unix(1700000001, 0))
	m.Reload(false, time.Unix(1700000002, 0))

	got := scrape(t, m)
	for _, want := range []string{
		`mcpgw_decisions_total{decision="allow",kind="tool",method="tools/call",server="git",tool="git_log"} 1`,
		`mcpgw_decisions_total{decision="deny",kind="tool",method="tools/call",server="git",tool="git_log"} 1`,
		`mcpgw_decisions_total{decision="allow",kind="resource",method="resources/read",server="git",tool=""} 1`,
		`mcpgw_refusals_total{reason="denied"} 1`, `mcpgw_refusals_total{reason="unauthenticated"} 1`,
		`mcpgw_exchange_duration_seconds_count{lane="direct",method="tools/call"} 1`, `mcpgw_exchange_duration_seconds_count{lane="answer",method="_other"} 1`,
		`mcpgw_policy_duration_seconds_count{cached="true"} 1`, `mcpgw_policy_duration_seconds_bucket{cached="false",le="2.5e-05"} 2`,
		`mcpgw_request_body_bytes_total 900`, `mcpgw_ext_proc_in_flight 3`, `mcpgw_ext_proc_broken_total 4`, `mcpgw_body_bytes_in_flight 5`, `mcpgw_sessions 6`,
		`mcpgw_streams 7`, `mcpgw_parked_exchanges 8`, `mcpgw_spans_lost_total 9`,
		`mcpgw_outcomes_total{method="tools/call",outcome="ok",server="git"} 1`, `mcpgw_outcomes_total{method="tools/call",outcome="unknown",server="git"} 1`,
		`mcpgw_access_log_lost_total{reason="no_outcome"} 1`, `mcpgw_access_log_lost_total{reason="undecided"} 1`,
		`mcp_server_operation_duration_seconds_bucket{error_type="",gen_ai_tool_name="git_log",mcp_method_name="tools/call",mcpgw_server="git",le="0.05"} 1`,
		`mcp_server_operation_duration_seconds_count{error_type="-32602",gen_ai_tool_name="git_log",mcp_method_name="tools/call",mcpgw_server="git"} 1`,
		`mcp_server_operation_duration_seconds_count{error_type="_other",gen_ai_tool_name="git_log",mcp_method_name="tools/call",mcpgw_server="git"} 1`,
		`mcpgw_catalog_items{kind="tool"} 12`, `mcpgw_catalog_degraded_servers 1`, `mcpgw_catalog_built_timestamp_seconds 1.7e+09`,
		`mcpgw_config_last_reload_successful 0`, `mcpgw_config_last_reload_success_timestamp_seconds 1.700000001e+09`,
		`mcpgw_stdio_restarts_total 10`, `mcpgw_envoy_restarts_total 11`, `mcpgw_envoys_connected 12`, `mcpgw_xds_rejected_total 13`,
		`mcpgw_bundle_last_success_timestamp_seconds{policy="live"} 1.7000000095e+09`, `mcpgw_bundle_activated_timestamp_seconds{policy="live"} 1.700000003e+09`,
		`mcpgw_bundle_failures_total{policy="live"} 14`, `mcpgw_bundle_failures_total{policy="shadow"} 15`,
		`go_goroutines `,
	} {
		if !strings.Contains(got, "\n"+want) {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(got, "access_log_overflow") {
		t.Error("a source that nobody gave is shown")
	}
	if strings.Contains(got, `timestamp_seconds{policy="shadow"}`) {
		t.Error("a time that has not come is shown")
	}
	if strings.Contains(got, "etc/hosts") {
		t.Error("a resource's URI became a label")
	}
}

// TestLabelsAreBounded: a server that renames its tools at each refresh costs a bounded number of series.
func TestLabelsAreBounded(t *testing.T) {
	m := NewMetrics()
	for i := range maxLabelledItems + 1000 {
		e := event()
		e.Item = fmt.Sprint("tool", i)
		m.Observe(e)
	}
	for i := range maxLabelledServers + 500 {
		m.Outcome(Outcome{Method: "tools/call", Server: fmt.Sprint("server", i), Outcome: "unknown"})
	}
	got := scrape(t, m)
	if n := strings.Count(got, "\nmcpgw_decisions_total{"); n != maxLabelledItems+1 {
		t.Errorf("%d series of decisions", n)
	}
	if !strings.Contains(got, `mcpgw_decisions_total{decision="allow",kind="tool",method="tools/call",server="git",tool="_other"} 1000`) {
		t.Error("the rest is not counted as _other")
	}
	if n := strings.Count(got, "\nmcpgw_outcomes_total{"); n != maxLabelledServers {
		t.Errorf("%d series of outcomes", n)
	}
}

func TestAttributeNamesAreUnique(t *testing.T) {
	e := denied()
	e.Cause = io.EOF
	var keys []string
	for _, a := range attributes(e) {
		keys = append(keys, string(a.Key))
	}
	slices.Sort(keys)
	if n := len(slices.Compact(slices.Clone(keys))); n != len(keys) {
		t.Errorf("an attribute is set twice: %v", keys)
	}
}

func BenchmarkDecision(b *testing.B) {
	var none *Tracing
	e, ctx, dropped := event(), context.Background(), call("00-"+traceID+"-"+spanID+"-00")
	b.Run("off", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			none.Decision(dropped, e)
		}
	})
	tr, err := NewTracing(ctx, TracingOptions{Collector: startCollector(b).addr, Ratio: 0})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = tr.Shutdown(ctx) }()
	b.Run("not-sampled", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			tr.Decision(dropped, e)
		}
	})
	sampled := call("00-" + traceID + "-" + spanID + "-01")
	b.Run("sampled", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			tr.Decision(sampled, e)
		}
	})
}

func BenchmarkObserve(b *testing.B) {
	e := event()
	for _, bc := range []struct {
		name string
		tel  *Telemetry
	}{
		{"metrics", &Telemetry{Metrics: NewMetrics()}},
		{"metrics+log", &Telemetry{Metrics: NewMetrics(), Log: slog.New(slog.NewJSONHandler(io.Discard, nil))}},
	} {
		b.Run(bc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bc.tel.Observe(context.Background(), e)
			}
		})
	}
}
