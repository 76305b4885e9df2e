package server

import (
	"context"
	"net/http"
	"time"

	"github.com/mcpgw/mcpgw/pkg/accesslog"
	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/telemetry"
	"github.com/mcpgw/mcpgw/pkg/xds"
)

// report hands what the walk found to log, metrics and span.
func (s *Server) report(ctx context.Context, x *gateway.Exchange) {
	r := &x.Record
	e := &telemetry.Exchange{
		DecisionID: r.DecisionID, Start: r.Start, Duration: time.Since(r.Start), Listener: r.Listener, Endpoint: r.Endpoint,
		HTTPMethod: r.HTTPMethod, ClientAddress: r.Address, Method: r.Method, RequestID: r.ID, Server: r.Server, Kind: r.Kind, Item: r.Item,
		Public: r.Public, Revision: string(r.Revision), Lane: r.Lane, Status: r.Status, BodyBytes: r.BodyBytes, ReplyBytes: r.ReplyBytes,
		Snapshot: r.Snapshot, Catalog: r.Catalog, Link: r.Trace, Approval: r.Approval, ApprovalID: r.ApprovalID, ApprovedBy: r.ApprovedBy,
	}
	if r.Revision != "" {
		e.Era = r.Revision.Era()
	}
	if p := r.Principal; p != nil {
		e.PrincipalType, e.PrincipalID, e.Tenant = p.Type, p.ID, p.Tenant
	}
	if d := r.Ruling; d != nil {
		e.Effect, e.PolicyRevision, e.PolicyDuration, e.Cached = string(d.Effect), d.Revision, d.Duration, d.Cached
		for _, why := range d.Reasons {
			e.Rules = append(e.Rules, why.Rule+": "+why.Message)
		}
	}
	e.Rewritten, e.Redactions = r.Rewritten, r.Redactions
	if f := r.Fault; f != nil {
		e.Refusal, e.Code, e.Message, e.Cause = f.Kind.String(), f.Kind.Code(), f.Message, f.Cause
	}
	s.telemetry.Observe(ctx, e)
	if r.Lane == gateway.LaneAuthorize {
		return // another's Envoy serves it, and logs elsewhere
	}
	if standing := x.Class() == mcp.Listen || r.HTTPMethod == http.MethodGet; !standing { // streams end when their clients like
		s.accesslog.Decided(accesslog.Decision{ID: r.DecisionID, Method: r.Method, Server: r.Server, Kind: r.Kind, Item: r.Item, Lane: r.Lane})
	}
}

// outcome hands on how an exchange ended, as Envoy saw it.
func (s *Server) outcome(o *accesslog.Outcome) {
	if o.Egress || o.Log == xds.LogEgress {
		return // part of an exchange whose own end is told, too
	}
	if !o.Decided && o.Outcome != accesslog.Unknown {
		s.telemetry.Metrics.Unjoined("no_decision")
		return
	}
	s.telemetry.Metrics.Outcome(telemetry.Outcome{Method: o.Method, Server: o.Server, Kind: o.Kind, Item: o.Item, Outcome: o.Outcome, Code: o.ErrorCode, Duration: o.Duration})
	switch o.Outcome {
	case accesslog.OK, accesslog.Answered, accesslog.Accepted:
		return
	}
	s.log.Info("outcome", "decision_id", o.ID, "trace_id", o.TraceID, "method", o.Method, "server", o.Server, "item", o.Item, "outcome", o.Outcome,
		"code", o.ErrorCode, "status", o.Code, "upstream_status", o.Upstream, "details", o.Details, "attempts", o.Attempts, "duration_us", o.Duration.Microseconds())
}

// stdioRestarts counts the restarts of all children that are configured now.
func (s *Server) stdioRestarts() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.stdio {
		n += c.State().Restarts
	}
	return uint64(n)
}

func (s *Server) envoyRestarts() uint64 {
	select {
	case <-s.started:
		return uint64(s.envoy.Restarts())
	default:
		return 0
	}
}

// countCatalog shows the catalog in force. s.mu is held.
func (s *Server) countCatalog() {
	items, degraded := map[string]int{}, 0
	for _, src := range s.sources {
		for _, k := range catalog.Kinds {
			items[k.String()] += len(src.Items[k])
		}
		if src.Degraded != "" {
			degraded++
		}
	}
	s.telemetry.Metrics.Catalog(items, degraded, time.Now())
}
