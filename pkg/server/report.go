package server

import (
	"context"
	"time"

	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/telemetry"
)

// report hands what the walk found to log, metrics and span.
func (s *Server) report(ctx context.Context, x *gateway.Exchange) {
	r := &x.Record
	e := &telemetry.Exchange{
		DecisionID: r.DecisionID, Start: r.Start, Duration: time.Since(r.Start), Listener: r.Listener, Endpoint: r.Endpoint,
		HTTPMethod: r.HTTPMethod, ClientAddress: r.Address, Method: r.Method, RequestID: r.ID, Server: r.Server, Kind: r.Kind, Item: r.Item,
		Public: r.Public, Revision: string(r.Revision), Lane: r.Lane, Status: r.Status, BodyBytes: r.BodyBytes, ReplyBytes: r.ReplyBytes,
		Snapshot: r.Snapshot, Catalog: r.Catalog, Link: r.Trace,
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
	if f := r.Fault; f != nil {
		e.Refusal, e.Code, e.Message, e.Cause = f.Kind.String(), f.Kind.Code(), f.Message, f.Cause
	}
	s.telemetry.Observe(ctx, e)
}
