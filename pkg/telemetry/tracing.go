package telemetry

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
)

// TracingOptions say where spans go. The zero value means nowhere.
type TracingOptions struct {
	Collector string      // host:port of an OTLP collector that speaks gRPC; empty = no spans
	TLS       *tls.Config // nil = plain text
	Version   string      // of the gateway
	// Ratio of the traces that begin here which are kept, 0 to 1. A trace that Envoy began or continued keeps Envoy's decision.
	Ratio float64
	Log   *slog.Logger // hears when spans are lost; nil = nobody
}

// Tracing makes decision spans. A nil Tracing makes none.
type Tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	lost     *lossy
}

// NewTracing prepares the way to a collector; it does not wait for one to be there. Without a collector it returns nil. ctx bounds the
// preparation alone. The caller ends it with Shutdown.
func NewTracing(ctx context.Context, o TracingOptions) (*Tracing, error) {
	if o.Collector == "" {
		return nil, nil
	}
	if o.Ratio < 0 || o.Ratio > 1 {
		return nil, fmt.Errorf("sampling ratio %v is not between 0 and 1", o.Ratio)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	secure := otlptracegrpc.WithInsecure()
	if o.TLS != nil {
		secure = otlptracegrpc.WithTLSCredentials(credentials.NewTLS(o.TLS))
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(o.Collector), secure, otlptracegrpc.WithTimeout(5*time.Second),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: 20 * time.Second}))
	if err != nil {
		return nil, fmt.Errorf("collector %s: %w", o.Collector, err)
	}
	return newTracing(exporter, o, sdktrace.WithBatchTimeout(time.Second)), nil
}

func newTracing(exporter sdktrace.SpanExporter, o TracingOptions, batch ...sdktrace.BatchSpanProcessorOption) *Tracing {
	l := &lossy{SpanExporter: exporter, log: o.Log}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(l, batch...),
		sdktrace.WithSampler(sampler{sdktrace.ParentBased(sdktrace.TraceIDRatioBased(o.Ratio))}),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String(attrServiceName, "mcpgw"), attribute.String(attrServiceVersion, o.Version))),
	)
	return &Tracing{provider: provider, tracer: provider.Tracer(instrumentation, trace.WithInstrumentationVersion(o.Version), trace.WithSchemaURL(SchemaURL)), lost: l}
}

// Shutdown sends what is still waiting, until ctx ends, and stops.
func (t *Tracing) Shutdown(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

// Lost counts spans that no collector took.
func (t *Tracing) Lost() int64 {
	if t == nil {
		return 0
	}
	return t.lost.n.Load()
}

// lossy counts what an exporter could not deliver, and says so once in a while. The error ends here: the SDK would hand it to a
// process-wide handler.
type lossy struct {
	sdktrace.SpanExporter
	log  *slog.Logger
	n    atomic.Int64
	said atomic.Int64 // unix seconds
}

func (l *lossy) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := l.SpanExporter.ExportSpans(ctx, spans)
	if err == nil {
		return nil
	}
	n := l.n.Add(int64(len(spans)))
	now := time.Now().Unix()
	if last := l.said.Load(); l.log != nil && now-last >= 60 && l.said.CompareAndSwap(last, now) {
		l.log.WarnContext(ctx, "spans could not be delivered", "lost", n, "error", err)
	}
	return nil
}

// sampler keeps every refusal of an identified caller, whatever the trace's flag says: a client must not be able to hide what it was
// refused by sending flag 00. Refusals without a principal follow the flag, so that a flood of them does not reach the collector.
type sampler struct{ sdktrace.Sampler }

func (s sampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if _, ok := p.ParentContext.Value(keep{}).(bool); ok {
		return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample, Tracestate: trace.SpanContextFromContext(p.ParentContext).TraceState()}
	}
	return s.Sampler.ShouldSample(p)
}

// keep marks the context of a span that is sampled in any case.
type keep struct{}

// carrier holds the two W3C headers, from gRPC metadata or from params._meta.
type carrier struct{ parent, state string }

func (c carrier) Get(key string) string {
	switch key {
	case "traceparent":
		return c.parent
	case "tracestate":
		return c.state
	}
	return ""
}
func (carrier) Set(string, string) {}
func (carrier) Keys() []string     { return []string{"traceparent", "tracestate"} }

// parent is the span context that Envoy sent with a gRPC call; invalid when it sent none.
func parent(ctx context.Context) trace.SpanContext {
	var c carrier
	if v := metadata.ValueFromIncomingContext(ctx, "traceparent"); len(v) == 1 {
		c.parent = v[0]
	}
	if c.parent == "" {
		return trace.SpanContext{}
	}
	if v := metadata.ValueFromIncomingContext(ctx, "tracestate"); len(v) == 1 {
		c.state = v[0]
	}
	return extract(c)
}

func extract(c carrier) trace.SpanContext {
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), c))
}

// Decision makes the decision span of an exchange that is over: a child of the span whose context came with Envoy's call, from e.Start
// for e.Duration. It is made afterwards, since only then is it known whether it must be kept.
func (t *Tracing) Decision(ctx context.Context, e *Exchange) {
	if t != nil {
		t.decision(parent(ctx), e)
	}
}

func (t *Tracing) decision(p trace.SpanContext, e *Exchange) {
	if t == nil {
		return
	}
	refused := e.Refusal != "" && e.PrincipalType != ""
	if p.IsValid() && !p.IsSampled() && !refused {
		return
	}
	// The call's own context may be over already; the span needs nothing of it but the parent.
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), p)
	if refused {
		ctx = context.WithValue(ctx, keep{}, true)
	}
	opts := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindInternal), trace.WithTimestamp(e.Start)}
	if e.Link != "" {
		if l := extract(carrier{parent: e.Link}); l.IsValid() {
			opts = append(opts, trace.WithLinks(trace.Link{SpanContext: l, Attributes: []attribute.KeyValue{attribute.String(attrLinkedFrom, linkedFromMeta)}}))
		}
	}
	_, s := t.tracer.Start(ctx, spanName, opts...)
	if s.IsRecording() {
		e.TraceID = s.SpanContext().TraceID().String() // also where the trace begins here
		s.SetAttributes(attributes(e)...)
		if failed(e.Code) {
			s.SetStatus(codes.Error, e.Message)
		}
	}
	s.End(trace.WithTimestamp(e.Start.Add(e.Duration)))
}

func attributes(e *Exchange) []attribute.KeyValue {
	a := make([]attribute.KeyValue, 0, 24)
	str := func(key, value string) {
		if value != "" {
			a = append(a, attribute.String(key, value))
		}
	}
	str(attrMethod, e.Method)
	str(attrProtocolVersion, e.Revision)
	switch e.Kind {
	case "tool":
		str(attrTool, e.Public)
		if e.Method == "tools/call" {
			str(attrOperation, operationTool)
		}
	case "prompt":
		str(attrPrompt, e.Public)
	}
	if e.RequestID != "null" {
		str(attrRequestID, clip(e.RequestID, maxID))
	}
	if e.Code != 0 {
		code := strconv.Itoa(e.Code)
		str(attrErrorType, code)
		str(attrStatusCode, code)
	}
	str(attrDecisionID, e.DecisionID)
	if e.Effect != "" {
		str(attrDecision, e.Effect)
		str(attrRevision, e.PolicyRevision)
		a = append(a, attribute.Bool(attrCached, e.Cached), attribute.Int64(attrDuration, e.PolicyDuration.Microseconds()))
		if len(e.Rules) > 0 {
			a = append(a, attribute.StringSlice(attrRules, e.Rules))
		}
		if e.Rewritten > 0 {
			a = append(a, attribute.Int(attrRewritten, e.Rewritten))
		}
		if e.Redactions > 0 {
			a = append(a, attribute.Int(attrRedactions, e.Redactions))
		}
	}
	str(attrApproval, e.Approval)
	str(attrApprovalID, e.ApprovalID)
	str(attrApprovedBy, e.ApprovedBy)
	str(attrListener, e.Listener)
	str(attrEndpoint, e.Endpoint)
	str(attrServer, e.Server)
	str(attrItem, e.Item)
	str(attrLane, e.Lane)
	str(attrRefusal, e.Refusal)
	if e.Cause != nil {
		str(attrCause, clip(e.Cause.Error(), maxCause))
	}
	str(attrSnapshot, e.Snapshot)
	str(attrCatalog, e.Catalog)
	return a
}
