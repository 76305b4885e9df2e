package config

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// setDefaults writes into c what it leaves open. Every default of the proto's
// comments stands here and nowhere else, and a test compares the two. It runs
// before the checks, so it takes whatever was decoded.
func setDefaults(c *configv1.Config) {
	if len(c.Listeners) == 1 {
		or(&c.Listeners[0].Name, "default")
	}
	for _, l := range c.Listeners {
		setListener(l)
	}

	if c.Limits == nil {
		c.Limits = &configv1.Limits{}
	}
	setLimits(c.Limits)

	for _, s := range c.Servers {
		setServer(s, c.Limits)
	}

	if len(c.Endpoints) == 0 {
		c.Endpoints = []*configv1.Endpoint{{Name: "mcp", Path: "/mcp"}}
	}
	for _, e := range c.Endpoints {
		if len(e.Servers) == 0 {
			e.Servers = []*configv1.Selection{{Server: "*"}}
		}
		or(&e.Denials, "error")
		orNew(&e.PageSize, 1000)
	}

	if c.Policy != nil {
		setPolicy(c.Policy)
	}
	if len(c.Listeners) > 0 {
		for _, e := range c.ExtAuthz {
			or(&e.Listener, c.Listeners[0].Name)
		}
	}

	if c.Authentication == nil {
		c.Authentication = &configv1.Authentication{}
	}
	for _, k := range c.Authentication.ApiKeys {
		or(&k.Type, "user")
	}
	for _, j := range c.Authentication.Jwt {
		if len(j.Algorithms) == 0 {
			j.Algorithms = []string{"RS256", "ES256", "EdDSA"}
		}
		if j.Claims == nil {
			j.Claims = &configv1.Claims{}
		}
		or(&j.Claims.Subject, "sub")
		or(&j.Claims.Roles, "roles")
		or(&j.Claims.Tenant, "tenant")
		orDuration(&j.Leeway, 30*time.Second)
	}

	if c.Telemetry == nil {
		c.Telemetry = &configv1.Telemetry{}
	}
	if c.Telemetry.Otlp != nil {
		orNew(&c.Telemetry.Otlp.SamplingPercent, 1)
	}
	if c.Telemetry.Log == nil {
		c.Telemetry.Log = &configv1.Log{}
	}
	or(&c.Telemetry.Log.Level, "info")
	or(&c.Telemetry.Log.Format, "text")

	if c.Admin == nil {
		c.Admin = &configv1.Admin{}
	}
	or(&c.Admin.Address, defaultAdmin)

	if c.Envoy == nil {
		c.Envoy = &configv1.Envoy{}
	}
	orDuration(&c.Envoy.DrainTime, 30*time.Second)
	or(&c.Envoy.NodeId, "mcpgw")
}

const defaultAdmin = "127.0.0.1:9900"

func setPolicy(p *configv1.Policy) {
	orDuration(&p.Timeout, time.Second)
	orNew(&p.RedactBytes, 4<<20)
	setBundle(p.Bundle)
	if p.Shadow != nil {
		orNew(&p.Shadow.Samples, 100)
		setBundle(p.Shadow.Bundle)
	}
	if p.DecisionLog != nil {
		orNew(&p.DecisionLog.FileBytes, 100<<20)
		orNew(&p.DecisionLog.Files, 5)
	}
	if p.Explain == nil {
		p.Explain = &configv1.Explain{}
	}
	orNew(&p.Explain.Keep, 10000)
	orDuration(&p.Explain.KeepFor, 15*time.Minute)
	if p.Approvals == nil {
		p.Approvals = &configv1.Approvals{}
	}
	orDuration(&p.Approvals.Expiry, 5*time.Minute)
	orNew(&p.Approvals.Pending, 1000)
	orNew(&p.Approvals.PendingPerPrincipal, 20)
	or(&p.Approvals.By, "both")
	if p.Labels == nil {
		p.Labels = &configv1.Labels{}
	}
	orDuration(&p.Labels.Expiry, 24*time.Hour)
	orNew(&p.Labels.Callers, 100000)
}

func setBundle(b *configv1.Bundle) {
	if b == nil {
		return
	}
	orDuration(&b.Poll, time.Minute)
	orNew(&b.MaxBytes, 64<<20)
	if v := b.Verification; v != nil {
		or(&v.KeyId, "default")
		or(&v.Algorithm, "RS256")
	}
}

func setListener(l *configv1.Listener) {
	or(&l.ClientTrace, "continue")
	public := ""
	if u, err := url.Parse(l.PublicUrl); err == nil {
		public = strings.ToLower(u.Hostname())
	}
	if len(l.AllowedHosts) == 0 {
		if a, err := ParseAddress(l.Address); err == nil && a.Network == "tcp" && a.Local() {
			l.AllowedHosts = []string{"localhost", "127.0.0.1", "::1"}
		} else if public != "" {
			l.AllowedHosts = []string{public}
		}
	}
	if len(l.AllowedHosts) > 0 && public != "" && !slices.Contains(l.AllowedHosts, public) {
		l.AllowedHosts = append(l.AllowedHosts, public)
	}
}

func setLimits(l *configv1.Limits) {
	orNew(&l.BodyBytes, 4<<20)
	orNew(&l.BodiesInFlightBytes, 256<<20)
	orNew(&l.Depth, 64)
	orDuration(&l.Upload, 30*time.Second)
	orDuration(&l.CallIdle, 5*time.Minute)
	orDuration(&l.CallTotal, 30*time.Minute)
	orNew(&l.Sessions, 50000)
	orNew(&l.SessionsPerPrincipal, 10000)
	orNew(&l.StreamsPerPrincipal, 1000)
	orDuration(&l.SessionLifetime, 24*time.Hour)
	orDuration(&l.SessionIdle, time.Hour)
	orDuration(&l.Park, 30*time.Second)
	orDuration(&l.StreamKeepalive, 25*time.Second)
	orNew(&l.ServerMessageBytes, 16<<20)
	orNew(&l.FailedCredentialsPerMinute, 60)
	orNew(&l.Connections, 10000)
	orNew(&l.EnvoyHeapBytes, 2<<30)
}

func setServer(s *configv1.Server, limits *configv1.Limits) {
	or(&s.Era, "auto")
	orDuration(&s.Refresh, 5*time.Minute)
	if s.Timeouts == nil {
		s.Timeouts = &configv1.ServerTimeouts{}
	}
	if s.Timeouts.CallIdle == nil {
		s.Timeouts.CallIdle = proto.CloneOf(limits.CallIdle)
	}
	if s.Timeouts.CallTotal == nil {
		s.Timeouts.CallTotal = proto.CloneOf(limits.CallTotal)
	}
	if k := s.GetHttp().GetCredential(); k != nil {
		or(&k.Header, "authorization")
		prefix := ""
		if strings.EqualFold(k.Header, "authorization") {
			prefix = "Bearer "
		}
		orNew(&k.Prefix, prefix)
	}
	if p := s.GetStdio(); p != nil {
		or(&p.Share, "all")
		orNew(&p.MaxProcesses, 16)
	}
}

func or(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

func orNew[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

func orDuration(field **durationpb.Duration, value time.Duration) {
	if *field == nil {
		*field = durationpb.New(value)
	}
}
