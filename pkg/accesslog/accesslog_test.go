package accesslog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func metadata(t testing.TB, ours, theirs map[string]any) *corev3.Metadata {
	t.Helper()
	m := &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{}}
	for name, fields := range map[string]map[string]any{"mcpgw": ours, "mcpgw_resp": theirs} {
		if fields == nil {
			continue
		}
		s, err := structpb.NewStruct(fields)
		if err != nil {
			t.Fatal(err)
		}
		m.FilterMetadata[name] = s
	}
	return m
}

// entry is one as Envoy sends it for a call on the direct lane.
func entry(t testing.TB, ours, theirs map[string]any, edit func(*datav3.HTTPAccessLogEntry)) *datav3.HTTPAccessLogEntry {
	e := &datav3.HTTPAccessLogEntry{
		CommonProperties: &datav3.AccessLogCommon{
			AccessLogType: datav3.AccessLogType_DownstreamEnd,
			Metadata:      metadata(t, ours, theirs),
			StartTime:     timestamppb.New(time.Unix(1700000000, 5)),
			Duration:      durationpb.New(12 * time.Millisecond), TimeToLastDownstreamTxByte: durationpb.New(11 * time.Millisecond),
			UpstreamCluster: "s/git", UpstreamRequestAttemptCount: 1,
			CustomTags:              map[string]string{"trace_id": "0af7", "span_id": "b7ad"},
			DownstreamRemoteAddress: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: "192.0.2.1"}}},
		},
		Request:  &datav3.HTTPRequestProperties{RequestBodyBytes: 300, RequestId: "rid", UserAgent: "client/1"},
		Response: &datav3.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(200), ResponseCodeDetails: "via_upstream", ResponseBodyBytes: 500},
	}
	if edit != nil {
		edit(e)
	}
	return e
}

func TestRead(t *testing.T) {
	ours := map[string]any{"decision_id": "D1", "method": "tools/call", "lane": "direct", "id_json": "7"}
	full := Outcome{
		Decision: Decision{ID: "D1"}, Log: "mcpgw_ingress", Outcome: OK, Code: 200, Details: "via_upstream", Cluster: "s/git", Attempts: 1,
		Start: time.Unix(1700000000, 5).UTC(), Duration: 12 * time.Millisecond, BytesIn: 300, BytesOut: 500, Messages: 1,
		TraceID: "0af7", SpanID: "b7ad", RequestID: "rid", UserAgent: "client/1", ClientAddr: "192.0.2.1",
	}
	with := func(edit func(*Outcome)) *Outcome { o := full; edit(&o); return &o }
	said := func(kv ...any) map[string]any {
		m := map[string]any{"outcome": "ok", "messages": 1.0}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i].(string)] = kv[i+1]
		}
		return m
	}
	for _, tc := range []struct {
		name   string
		ours   map[string]any
		theirs map[string]any
		edit   func(*datav3.HTTPAccessLogEntry)
		want   *Outcome
	}{
		{"ok", ours, said(), nil, &full},
		{"tool error", ours, said("outcome", "tool_error"), nil, with(func(o *Outcome) { o.Outcome = ToolError })},
		{"rpc error", ours, said("outcome", "rpc_error", "error_code", -32602.0), nil, with(func(o *Outcome) { o.Outcome, o.ErrorCode = RPCError, -32602 })},
		{"guarded", ours, said("outcome", "unauthorized", "upstream_status", 401.0), nil, with(func(o *Outcome) { o.Outcome, o.Upstream = Unauthorized, 401 })},
		{"inexact", ours, said("exact", false), nil, with(func(o *Outcome) { o.Inexact = true })},
		{"an outcome nobody knows", ours, said("outcome", "fine"), nil, with(func(o *Outcome) { o.Outcome = Accepted })},
		{
			"own reply",
			map[string]any{"decision_id": "D1", "own_reply": true},
			nil, func(e *datav3.HTTPAccessLogEntry) { e.Response.ResponseCodeDetails = "mcpgw_denied" },
			with(func(o *Outcome) { o.Outcome, o.Details, o.Messages = Answered, "mcpgw_denied", 0 }),
		},
		{
			"notification", ours, nil, func(e *datav3.HTTPAccessLogEntry) { e.Response.ResponseCode = wrapperspb.UInt32(202) },
			with(func(o *Outcome) { o.Outcome, o.Code, o.Messages = Accepted, 202, 0 }),
		},
		{"client gone", ours, nil, func(e *datav3.HTTPAccessLogEntry) {
			e.Response.ResponseCode, e.Response.ResponseCodeDetails = nil, "downstream_remote_disconnect"
			e.CommonProperties.ResponseFlags = &datav3.ResponseFlags{DownstreamConnectionTermination: true, UpstreamRetryLimitExceeded: true}
		}, with(func(o *Outcome) {
			o.Outcome, o.Code, o.Details, o.Messages = Aborted, 0, "downstream_remote_disconnect", 0
			o.Flags = []string{"downstream_connection_termination", "upstream_retry_limit_exceeded"}
		})},
		{"cut mid-stream under 200", ours, nil, func(e *datav3.HTTPAccessLogEntry) {
			e.Response.ResponseCodeDetails = "upstream_reset_after_response_started{protocol_error}"
		}, with(func(o *Outcome) {
			o.Outcome, o.Details, o.Messages = Aborted, "upstream_reset_after_response_started{protocol_error}", 0
		})},
		{"ext_proc timed out: no metadata", nil, nil, func(e *datav3.HTTPAccessLogEntry) {
			e.Response.ResponseCode, e.Response.ResponseCodeDetails = wrapperspb.UInt32(504), "ext_proc_error_per-message_timeout_exceeded"
		}, with(func(o *Outcome) {
			o.ID, o.Outcome, o.Code, o.Details, o.Messages = "", Aborted, 504, "ext_proc_error_per-message_timeout_exceeded", 0
		})},
		{"egress", nil, nil, func(e *datav3.HTTPAccessLogEntry) {
			e.Request.RequestHeaders = map[string]string{"x-mcpgw-decision-id": "D1"}
		}, with(func(o *Outcome) { o.Egress, o.Outcome, o.Messages = true, Accepted, 0 })},
		{"no duration", ours, said(), func(e *datav3.HTTPAccessLogEntry) { e.CommonProperties.Duration = nil }, with(func(o *Outcome) { o.Duration = 11 * time.Millisecond })},
		{"began", ours, nil, func(e *datav3.HTTPAccessLogEntry) {
			e.CommonProperties.AccessLogType = datav3.AccessLogType_DownstreamStart
		}, nil},
		{"goes on", ours, nil, func(e *datav3.HTTPAccessLogEntry) {
			e.CommonProperties.AccessLogType = datav3.AccessLogType_DownstreamPeriodic
		}, nil},
		{
			"wrong types",
			map[string]any{"decision_id": 7.0, "own_reply": "yes"},
			map[string]any{"outcome": true, "error_code": "x", "messages": math.Inf(1), "exact": 3.0, "upstream_status": 1.5},
			nil,
			with(func(o *Outcome) { o.ID, o.Outcome, o.Messages = "", Accepted, 0 }),
		},
		{"long texts", ours, said(), func(e *datav3.HTTPAccessLogEntry) {
			e.Request.UserAgent = strings.Repeat("é", 10_000)
			e.CommonProperties.Duration = &durationpb.Duration{Seconds: -5}
		}, with(func(o *Outcome) { o.UserAgent, o.Duration = strings.Repeat("é", maxText/2), 11*time.Millisecond })},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := read(entry(t, tc.ours, tc.theirs, tc.edit), "mcpgw_ingress")
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
	for _, e := range []*datav3.HTTPAccessLogEntry{nil, {}, {CommonProperties: &datav3.AccessLogCommon{Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"mcpgw": nil}}}}} {
		if o := read(e, ""); o == nil || o.Outcome != Aborted || o.ID != "" {
			t.Errorf("read(%v) = %+v", e, o)
		}
	}
}

// sink collects reports.
type sink struct {
	mu  sync.Mutex
	got []*Outcome
	ch  chan struct{}
}

func newSink() *sink { return &sink{ch: make(chan struct{}, 1<<16)} }

func (s *sink) report(o *Outcome) {
	s.mu.Lock()
	s.got = append(s.got, o)
	s.mu.Unlock()
	s.ch <- struct{}{}
}

func (s *sink) wait(t *testing.T, n int) []*Outcome {
	t.Helper()
	for range n {
		select {
		case <-s.ch:
		case <-time.After(10 * time.Second):
			t.Fatal("a report is missing")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got[len(s.got)-n:]
}

// start serves l on a unix socket and returns a client as Envoy is one.
func start(t *testing.T, l *Log) alsv3.AccessLogServiceClient {
	t.Helper()
	path := filepath.Join(t.TempDir(), "als")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s, done := grpc.NewServer(), make(chan struct{})
	l.Register(s)
	go func() { defer close(done); _ = s.Serve(ln) }()
	c, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); s.Stop(); <-done })
	return alsv3.NewAccessLogServiceClient(c)
}

func run(t *testing.T, l *Log) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
}

func message(e ...*datav3.HTTPAccessLogEntry) *alsv3.StreamAccessLogsMessage {
	return &alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: e}}}
}

func TestEntriesJoinDecisions(t *testing.T) {
	s := newSink()
	l := New(Options{Report: s.report})
	run(t, l)
	stream, err := start(t, l).StreamAccessLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send := func(m *alsv3.StreamAccessLogsMessage) {
		t.Helper()
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	d := Decision{ID: "D1", Method: "tools/call", Server: "git", Kind: "tool", Item: "git_log", Lane: "direct"}
	l.Decided(d)
	l.Decided(d)          // twice is once
	l.Decided(Decision{}) // nothing to join
	if l.Pending() != 1 {
		t.Errorf("%d pending", l.Pending())
	}
	first := message(entry(t, map[string]any{"decision_id": "D1"}, map[string]any{"outcome": "ok"}, nil))
	first.Identifier = &alsv3.StreamAccessLogsMessage_Identifier{LogName: "mcpgw_ingress"}
	send(first)
	o := s.wait(t, 1)[0]
	if o.Decision != d || !o.Decided || o.Outcome != OK || o.Log != "mcpgw_ingress" || l.Pending() != 0 {
		t.Errorf("joined %+v, %d pending", o, l.Pending())
	}

	// The other way round; the log's name is remembered from the stream's first message.
	send(message(entry(t, map[string]any{"decision_id": "D2"}, map[string]any{"outcome": "tool_error"}, nil)))
	send(message(entry(t, nil, nil, func(e *datav3.HTTPAccessLogEntry) {
		e.Request.RequestHeaders = map[string]string{"x-mcpgw-decision-id": "D2"}
	})))
	if o := s.wait(t, 1)[0]; !o.Egress || o.ID != "D2" || o.Log != "mcpgw_ingress" {
		t.Errorf("egress %+v", o)
	}
	d.ID = "D2"
	l.Decided(d)
	if o := s.wait(t, 1)[0]; o.Decision != d || !o.Decided || o.Outcome != ToolError {
		t.Errorf("entry before its decision: %+v", o)
	}

	// Without any id there is nothing to wait for.
	send(message(entry(t, nil, nil, nil)))
	if o := s.wait(t, 1)[0]; o.Decided || o.ID != "" {
		t.Errorf("no id: %+v", o)
	}
	send(&alsv3.StreamAccessLogsMessage{})
	send(&alsv3.StreamAccessLogsMessage{LogEntries: &alsv3.StreamAccessLogsMessage_TcpLogs{}})
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Errorf("end of stream: %v", err)
	}
}

func TestWhatIsNeverHeardOfEndsAsUnknown(t *testing.T) {
	now := time.Unix(1700000000, 0)
	l := New(Options{Now: func() time.Time { return now }, MaxAge: time.Minute, Pending: 3, Queue: 4})
	take := func() (got []string) {
		for {
			select {
			case o := <-l.queue:
				got = append(got, fmt.Sprint(o.ID, " ", o.Outcome, " ", o.Decided))
			default:
				return got
			}
		}
	}
	expect := func(want ...string) {
		t.Helper()
		if d := cmp.Diff(want, take()); d != "" {
			t.Error(d)
		}
	}
	for i := range 4 {
		l.Decided(Decision{ID: fmt.Sprint("D", i), Server: "git"})
		now = now.Add(time.Second)
	}
	expect("D0 unknown true") // there was room for three
	now = now.Add(57 * time.Second)
	l.sweep()
	expect("D1 unknown true")
	l.seen(&Outcome{Decision: Decision{ID: "D1"}, Outcome: OK}) // too late
	l.seen(&Outcome{Decision: Decision{ID: "D3"}, Outcome: OK})
	l.seen(&Outcome{Decision: Decision{ID: "D3"}, Outcome: ToolError})
	expect("D3 ok true")
	now = now.Add(early)
	l.sweep()
	expect("D1 ok false", "D3 tool_error false", "D2 unknown true")
	if len(l.byID) != 0 || l.decisions.Len() != 0 || l.entries.Len() != 0 {
		t.Errorf("left behind: %d, %d, %d", len(l.byID), l.decisions.Len(), l.entries.Len())
	}
	// Entries without decisions are bounded, too.
	for i := range 10 {
		l.seen(&Outcome{Decision: Decision{ID: fmt.Sprint("E", i)}, Outcome: OK})
	}
	if l.entries.Len() != 4 || l.Lost() != 2 {
		t.Errorf("%d entries wait, %d lost", l.entries.Len(), l.Lost())
	}
}

// TestEnvoyIsNeverKeptWaiting: while Report hangs, everything that Envoy sends is read; what does not fit is lost and counted.
func TestEnvoyIsNeverKeptWaiting(t *testing.T) {
	hang := make(chan struct{})
	s := newSink()
	l := New(Options{Queue: 16, Report: func(o *Outcome) { <-hang; s.report(o) }})
	run(t, l)
	stream, err := start(t, l).StreamAccessLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const n = 20_000
	e := message(entry(t, nil, nil, func(e *datav3.HTTPAccessLogEntry) { e.Request.UserAgent = strings.Repeat("x", 1000) }))
	for range n { // 30 MB: far more than any window holds
		if err := stream.Send(e); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
	if lost := l.Lost(); lost < n-17 || lost > n-16 {
		t.Errorf("%d lost of %d", lost, n)
	}
	close(hang)
	s.wait(t, int(n-l.Lost()))
}

// TestJoinKeepsCount: in whatever order halves come, each end is reported once, and every announced decision ends.
func TestJoinKeepsCount(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1700000000, 0)
		l := New(Options{Now: func() time.Time { return now }, MaxAge: time.Minute, Pending: 5, Queue: 1000})
		announced, ended := map[string]bool{}, map[string]int{}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			id := fmt.Sprint(rapid.IntRange(0, 12).Draw(t, "id"))
			switch rapid.IntRange(0, 3).Draw(t, "op") {
			case 0:
				if !announced[id] { // an id is random: it is announced once in its life
					announced[id] = true
					l.Decided(Decision{ID: id})
				}
			case 1:
				l.seen(&Outcome{Decision: Decision{ID: id}, Outcome: OK})
			case 2:
				now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "s")) * time.Second)
				l.sweep()
			case 3:
				l.seen(&Outcome{Decision: Decision{ID: id}, Egress: true, Outcome: OK})
			}
			if l.decisions.Len() > 5 || len(l.byID) != l.decisions.Len()+l.entries.Len() {
				t.Fatalf("%d decisions, %d entries, %d ids", l.decisions.Len(), l.entries.Len(), len(l.byID))
			}
		}
		now = now.Add(time.Hour)
		l.sweep()
		for len(l.queue) > 0 {
			if o := <-l.queue; o.Decided {
				ended[o.ID]++
			}
		}
		for id := range announced {
			if ended[id] != 1 {
				t.Fatalf("decision %s ended %d times", id, ended[id])
			}
		}
		if len(ended) != len(announced) || l.Lost() != 0 {
			t.Fatalf("%d announced, %d ended, %d lost", len(announced), len(ended), l.Lost())
		}
	})
}

func FuzzRead(f *testing.F) {
	for _, e := range []*datav3.HTTPAccessLogEntry{{}, entry(f, map[string]any{"decision_id": "D", "own_reply": true}, map[string]any{"outcome": "ok", "error_code": -1.0}, nil)} {
		b, err := proto.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	l := New(Options{Pending: 4, Queue: 4, Report: func(*Outcome) {}})
	f.Fuzz(func(t *testing.T, b []byte) {
		e := &datav3.HTTPAccessLogEntry{}
		if proto.Unmarshal(b, e) != nil {
			return
		}
		o := read(e, "log")
		if o == nil {
			return
		}
		if o.Outcome == "" || o.Duration < 0 || o.Code < 0 || o.Code > 999 || len(o.ID) > 2*maxText || len(o.Details) > 2*maxText {
			t.Fatalf("%+v", o)
		}
		l.seen(o)
		l.Decided(o.Decision)
	})
}

func BenchmarkJoin(b *testing.B) {
	l := New(Options{})
	go func() {
		for range l.queue {
		}
	}()
	defer close(l.queue)
	e := entry(b, map[string]any{"decision_id": "D"}, map[string]any{"outcome": "ok", "messages": 1.0}, nil)
	b.ReportAllocs()
	for b.Loop() {
		l.Decided(Decision{ID: "D", Server: "git"})
		l.seen(read(e, "log"))
	}
}

func BenchmarkDecided(b *testing.B) {
	l := New(Options{})
	ids := make([]string, 10_000)
	for i := range ids {
		ids[i] = fmt.Sprint("DECISION-0123456789-", i)
	}
	o := &Outcome{}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		d := Decision{ID: ids[i%len(ids)], Server: "git"}
		l.Decided(d)
		o.Decision = d
		l.seen(o)
		<-l.queue
	}
}
