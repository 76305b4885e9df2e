// Package collector is a small OpenTelemetry collector: it takes spans over OTLP/gRPC and keeps the last
// of them, so that a test can ask which spans made a trace and a person can read it.
package collector

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// Span is one span, its identifiers in hex as traceparent writes them.
type Span struct {
	TraceID, SpanID, ParentID string // ParentID is "" for a root
	Service                   string // resource attribute service.name
	Name                      string
	Kind                      string // server, client, internal, ...
	Failed                    bool   // status is error
	Start, End                time.Time
	Attributes                map[string]string
	Links                     []string // "trace/span" of each
}

// limit bounds the spans that are kept: the oldest go first.
const limit = 100_000

// Collector keeps spans. It may be used from any goroutine.
type Collector struct {
	collectorv1.UnimplementedTraceServiceServer

	mu      sync.Mutex
	spans   []Span
	changed chan struct{} // closed and replaced when spans come
}

// New returns an empty collector.
func New() *Collector { return &Collector{changed: make(chan struct{})} }

// Register makes the collector answer on a gRPC server.
func (c *Collector) Register(s *grpc.Server) { collectorv1.RegisterTraceServiceServer(s, c) }

// Export takes spans; it is the method that OTLP calls.
func (c *Collector) Export(_ context.Context, r *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range r.GetResourceSpans() {
		service := attributes(resource.GetResource().GetAttributes())["service.name"]
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				c.spans = append(c.spans, span(service, s))
			}
		}
	}
	if over := len(c.spans) - limit; over > 0 {
		c.spans = slices.Delete(c.spans, 0, over)
	}
	close(c.changed)
	c.changed = make(chan struct{})
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func span(service string, s *tracev1.Span) Span {
	out := Span{
		TraceID:    hex.EncodeToString(s.GetTraceId()),
		SpanID:     hex.EncodeToString(s.GetSpanId()),
		ParentID:   hex.EncodeToString(s.GetParentSpanId()),
		Service:    service,
		Name:       s.GetName(),
		Kind:       strings.ToLower(strings.TrimPrefix(s.GetKind().String(), "SPAN_KIND_")),
		Failed:     s.GetStatus().GetCode() == tracev1.Status_STATUS_CODE_ERROR,
		Start:      time.Unix(0, int64(s.GetStartTimeUnixNano())),
		End:        time.Unix(0, int64(s.GetEndTimeUnixNano())),
		Attributes: attributes(s.GetAttributes()),
	}
	if strings.Trim(out.ParentID, "0") == "" { // some senders write a root's parent as zeros
		out.ParentID = ""
	}
	for _, l := range s.GetLinks() {
		out.Links = append(out.Links, hex.EncodeToString(l.GetTraceId())+"/"+hex.EncodeToString(l.GetSpanId()))
	}
	return out
}

func attributes(list []*commonv1.KeyValue) map[string]string {
	out := map[string]string{}
	for _, a := range list {
		out[a.GetKey()] = value(a.GetValue())
	}
	return out
}

func value(v *commonv1.AnyValue) string {
	switch v := v.GetValue().(type) {
	case *commonv1.AnyValue_StringValue:
		return v.StringValue
	case *commonv1.AnyValue_BoolValue:
		return fmt.Sprint(v.BoolValue)
	case *commonv1.AnyValue_IntValue:
		return fmt.Sprint(v.IntValue)
	case *commonv1.AnyValue_DoubleValue:
		return fmt.Sprint(v.DoubleValue)
	case *commonv1.AnyValue_ArrayValue:
		var parts []string
		for _, e := range v.ArrayValue.GetValues() {
			parts = append(parts, value(e))
		}
		return strings.Join(parts, ",")
	}
	return ""
}

// Spans returns all spans so far, in the order of their start.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	out := slices.Clone(c.spans)
	c.mu.Unlock()
	slices.SortStableFunc(out, func(a, b Span) int { return a.Start.Compare(b.Start) })
	return out
}

// Trace returns the spans of one trace.
func (c *Collector) Trace(id string) []Span {
	return slices.DeleteFunc(c.Spans(), func(s Span) bool { return s.TraceID != id })
}

// Changed returns a channel that is closed when more spans come.
func (c *Collector) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Tree writes spans as trees, one line a span, children indented below their parents. A span whose
// parent is not among them stands as a root.
func Tree(spans []Span) string {
	known := map[string]bool{}
	for _, s := range spans {
		known[s.SpanID] = true
	}
	children := map[string][]Span{}
	for _, s := range spans {
		parent := s.ParentID
		if !known[parent] {
			parent = ""
		}
		children[parent] = append(children[parent], s)
	}
	var b strings.Builder
	var write func(parent string, depth int)
	write = func(parent string, depth int) {
		below := children[parent]
		delete(children, parent) // a span that names itself or a descendant as its parent is written once
		for _, s := range below {
			status := ""
			if s.Failed {
				status = " ERROR"
			}
			fmt.Fprintf(&b, "%s%s  %s %s  %v%s\n", strings.Repeat("  ", depth), s.Name, s.Service, s.Kind, s.End.Sub(s.Start).Round(time.Microsecond), status)
			for _, key := range slices.Sorted(maps.Keys(s.Attributes)) {
				if strings.HasPrefix(key, "mcp") || strings.HasPrefix(key, "gen_ai") || key == "error.type" {
					fmt.Fprintf(&b, "%s  %s=%s\n", strings.Repeat("  ", depth+1), key, s.Attributes[key])
				}
			}
			write(s.SpanID, depth+1)
		}
	}
	write("", 0)
	return b.String()
}
