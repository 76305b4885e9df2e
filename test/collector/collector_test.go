package collector

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	resourcev1 "go.opentelemetry.io/proto/otlp/resource/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
)

func text(key, value string) *commonv1.KeyValue {
	return &commonv1.KeyValue{Key: key, Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: value}}}
}

func TestTree(t *testing.T) {
	at := func(ms uint64) uint64 { return uint64(time.Unix(1000, 0).UnixNano()) + ms*1e6 }
	c := New()
	changed := c.Changed()
	for service, spans := range map[string][]*tracev1.Span{
		"envoy": {
			{TraceId: []byte{1}, SpanId: []byte{3}, ParentSpanId: []byte{2}, Name: "call", Kind: tracev1.Span_SPAN_KIND_CLIENT, StartTimeUnixNano: at(2), EndTimeUnixNano: at(4)},
			{TraceId: []byte{1}, SpanId: []byte{2}, ParentSpanId: make([]byte, 8), Name: "ingress", Kind: tracev1.Span_SPAN_KIND_SERVER, StartTimeUnixNano: at(0), EndTimeUnixNano: at(5)},
		},
		"mcpgw": {{
			TraceId: []byte{1}, SpanId: []byte{4}, ParentSpanId: []byte{2}, Name: "decide", StartTimeUnixNano: at(1), EndTimeUnixNano: at(2),
			Attributes: []*commonv1.KeyValue{text("mcp.method.name", "tools/call"), text("other", "x")},
			Status:     &tracev1.Status{Code: tracev1.Status_STATUS_CODE_ERROR},
		}},
	} {
		_, err := c.Export(context.Background(), &collectorv1.ExportTraceServiceRequest{ResourceSpans: []*tracev1.ResourceSpans{{
			Resource:   &resourcev1.Resource{Attributes: []*commonv1.KeyValue{text("service.name", service)}},
			ScopeSpans: []*tracev1.ScopeSpans{{Spans: spans}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	<-changed
	want := "ingress  envoy server  5ms\n" +
		"  decide  mcpgw unspecified  1ms ERROR\n" +
		"      mcp.method.name=tools/call\n" +
		"  call  envoy client  2ms\n"
	if diff := cmp.Diff(want, Tree(c.Trace("01"))); diff != "" {
		t.Error(diff)
	}
	if got := c.Trace("02"); len(got) != 0 {
		t.Errorf("another trace: %v", got)
	}
}
