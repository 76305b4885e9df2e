// Package telemetry turns what an exchange's walk found into one span, one log line and a few counts. It knows OpenTelemetry and
// Prometheus so that nothing below has to. Audit never depends on it: a span may be sampled away, a scrape may fail.
package telemetry

import (
	"context"
	"log/slog"
)

// Telemetry reports exchanges.
type Telemetry struct {
	Tracing *Tracing // nil = no spans
	Metrics *Metrics
	Log     *slog.Logger // nil = no log lines
}

// New makes the tracing of o and fresh metrics; log gets a line for each exchange, nil means none. It does not wait for a collector.
// shutdown sends the spans that are still waiting, within its context, and is called once, last.
func New(ctx context.Context, o TracingOptions, log *slog.Logger) (t *Telemetry, shutdown func(context.Context) error, err error) {
	tr, err := NewTracing(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	return &Telemetry{Tracing: tr, Metrics: NewMetrics(), Log: log}, tr.Shutdown, nil
}

// Observe reports an exchange that is over. ctx is that of the call that Envoy made for it: the trace is in its gRPC metadata.
func (t *Telemetry) Observe(ctx context.Context, e *Exchange) {
	p := parent(ctx)
	if p.IsValid() {
		e.TraceID = p.TraceID().String()
	}
	t.Metrics.Observe(e)
	t.Tracing.decision(p, e)
	if t.Log != nil {
		e.Log(ctx, t.Log)
	}
}
