package telemetry

import (
	"context"
	"log/slog"
	"strings"
	"time"
)

// Exchange is one wide event: what is known of an exchange when its walk is over. Whoever fills it puts in no arguments, no claims, no
// credential and no session id. Method, Server, Kind, Item and Public hold names that the gateway knows (of a revision, of the catalog),
// never what a client merely wrote; they become metric labels. Empty members are left out everywhere.
type Exchange struct {
	DecisionID string
	TraceID    string // filled by Observe from the call's context
	Start      time.Time
	Duration   time.Duration // of the walk, from the head to the verdict

	Listener, Endpoint string // configured names
	HTTPMethod         string
	ClientAddress      string

	PrincipalType, PrincipalID, Tenant string // all empty when the caller was not identified

	Method    string // MCP method
	RequestID string // JSON text, as the client wrote it
	Server    string // configured name
	Kind      string // tool, resource, template or prompt
	Item      string // the origin's own name
	Public    string // the name the client used
	Era       string // modern or legacy
	Revision  string
	Lane      string // answer, direct, broker or ext_authz

	Effect         string // allow, deny or ask; empty when policy was not asked
	Rules          []string
	PolicyRevision string
	PolicyDuration time.Duration
	Cached         bool
	Rewritten      int // values and matches in the arguments that policy has changed
	Redactions     int // changes of the result that policy demands

	Approval   string // of a call that a human has to confirm: pending, approved, denied
	ApprovalID string // of the question to an operator
	ApprovedBy string // user or operator:ID

	Refusal string // kind of the fault; empty = none
	Code    int    // JSON-RPC error code of the refusal
	Message string // its public message
	Cause   error  // its hidden cause

	Status     int // HTTP status of a reply of our own
	BodyBytes  int
	ReplyBytes int

	Snapshot, Catalog string // versions
	Link              string // a traceparent that the client named in params._meta
}

// clip bounds a text of foreign origin.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

const (
	maxID    = 128 // of a request id in spans and logs, bytes
	maxCause = 512
)

// Log writes the event as one line. An internal fault is an error, everything else is information: refusing is this gateway's job.
func (e *Exchange) Log(ctx context.Context, log *slog.Logger) {
	level := slog.LevelInfo
	if failed(e.Code) {
		level = slog.LevelError
	}
	if !log.Enabled(ctx, level) {
		return
	}
	var buf [39]slog.Attr
	a := buf[:0]
	str := func(key, value string) {
		if value != "" {
			a = append(a, slog.String(key, value))
		}
	}
	num := func(key string, value int) {
		if value != 0 {
			a = append(a, slog.Int(key, value))
		}
	}
	str("decision_id", e.DecisionID)
	str("trace_id", e.TraceID)
	str("listener", e.Listener)
	str("endpoint", e.Endpoint)
	str("http_method", e.HTTPMethod)
	str("client", e.ClientAddress)
	str("principal_type", e.PrincipalType)
	str("principal", clip(e.PrincipalID, maxID))
	str("tenant", clip(e.Tenant, maxID))
	str("method", e.Method)
	str("request_id", clip(e.RequestID, maxID))
	str("server", e.Server)
	str("kind", e.Kind)
	str("item", e.Item)
	str("public_name", e.Public)
	str("era", e.Era)
	str("revision", e.Revision)
	str("lane", e.Lane)
	str("effect", e.Effect)
	if len(e.Rules) > 0 {
		a = append(a, slog.Any("reasons", e.Rules))
	}
	str("policy_revision", e.PolicyRevision)
	if e.Effect != "" {
		a = append(a, slog.Bool("cached", e.Cached), slog.Int64("policy_us", e.PolicyDuration.Microseconds()))
	}
	num("rewritten", e.Rewritten)
	num("redactions", e.Redactions)
	str("approval", e.Approval)
	str("approval_id", e.ApprovalID)
	str("approved_by", e.ApprovedBy)
	str("refusal", e.Refusal)
	num("code", e.Code)
	if e.Cause != nil {
		str("cause", clip(e.Cause.Error(), maxCause))
	}
	num("status", e.Status)
	num("body_bytes", e.BodyBytes)
	num("reply_bytes", e.ReplyBytes)
	a = append(a, slog.Int64("duration_us", e.Duration.Microseconds()))
	str("snapshot", e.Snapshot)
	str("catalog_version", e.Catalog)
	log.LogAttrs(ctx, level, "exchange", a...)
}

// failed says whether an error code is a fault of the gateway or a server. Everything else that ends an exchange early is the
// caller's own doing or what policy was asked to do, and leaves a span's status unset, as the conventions want on the server's side.
func failed(code int) bool { return code == -32603 }
