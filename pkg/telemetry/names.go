package telemetry

// SchemaURL names the semantic conventions that the attributes below follow: open-telemetry/semantic-conventions-genai, docs/gen-ai/mcp.md,
// development status, as of November 2026. They still change: every name stands in this file and nowhere else.
const SchemaURL = "https://opentelemetry.io/schemas/gen-ai/1.42.0"

// Attributes of the conventions.
const (
	attrServiceName     = "service.name"
	attrServiceVersion  = "service.version"
	attrMethod          = "mcp.method.name"
	attrProtocolVersion = "mcp.protocol.version"
	attrTool            = "gen_ai.tool.name"
	attrPrompt          = "gen_ai.prompt.name"
	attrOperation       = "gen_ai.operation.name"
	attrRequestID       = "jsonrpc.request.id"
	attrErrorType       = "error.type"
	attrStatusCode      = "rpc.response.status_code"

	operationTool = "execute_tool" // attrOperation of a tools/call
)

// Attributes of our own. For a policy decision no convention is merged yet.
const (
	attrDecisionID  = "mcpgw.decision_id"
	attrDecision    = "mcpgw.policy.decision" // allow, deny or ask
	attrRules       = "mcpgw.policy.rule_ids"
	attrRevision    = "mcpgw.policy.bundle.revision"
	attrCached      = "mcpgw.policy.cached"
	attrDuration    = "mcpgw.policy.duration_us"
	attrRewritten   = "mcpgw.policy.rewritten"  // how many values and matches of the arguments; never which
	attrRedactions  = "mcpgw.policy.redactions" // how many changes of the result
	attrApproval    = "mcpgw.approval"          // pending, approved or denied
	attrApprovalID  = "mcpgw.approval.id"       // of the question to an operator
	attrApprovedBy  = "mcpgw.approval.by"       // user, or operator:ID
	attrListener    = "mcpgw.listener"
	attrEndpoint    = "mcpgw.endpoint"
	attrServer      = "mcpgw.server"
	attrItem        = "mcpgw.item" // the origin's own name
	attrLane        = "mcpgw.lane"
	attrRefusal     = "mcpgw.refusal" // the kind of fault
	attrCause       = "mcpgw.refusal.cause"
	attrSnapshot    = "mcpgw.snapshot.version"
	attrCatalog     = "mcpgw.catalog.version"
	attrLinkedFrom  = "mcpgw.link" // on a link: where the other trace was named
	linkedFromMeta  = "params._meta"
	spanName        = "policy request"
	instrumentation = "github.com/mcpgw/mcpgw"
)

// Metrics. The two histograms of the conventions keep their names, written as Prometheus writes them.
const (
	metricDecisions     = "mcpgw_decisions_total"
	metricRefusals      = "mcpgw_refusals_total"
	metricExchange      = "mcpgw_exchange_duration_seconds"
	metricPolicy        = "mcpgw_policy_duration_seconds"
	metricBody          = "mcpgw_request_body_bytes_total"
	metricInFlight      = "mcpgw_ext_proc_in_flight"
	metricBroken        = "mcpgw_ext_proc_broken_total"
	metricBodyInFlight  = "mcpgw_body_bytes_in_flight"
	metricSessions      = "mcpgw_sessions"
	metricStreams       = "mcpgw_streams"
	metricParked        = "mcpgw_parked_exchanges"
	metricItems         = "mcpgw_catalog_items"
	metricDegraded      = "mcpgw_catalog_degraded_servers"
	metricCatalogBuilt  = "mcpgw_catalog_built_timestamp_seconds"
	metricReload        = "mcpgw_config_last_reload_successful"
	metricReloadTime    = "mcpgw_config_last_reload_success_timestamp_seconds"
	metricStdioRestarts = "mcpgw_stdio_restarts_total"
	metricEnvoyRestarts = "mcpgw_envoy_restarts_total"
	metricEnvoys        = "mcpgw_envoys_connected"
	metricRejected      = "mcpgw_xds_rejected_total"
	metricOutcomes      = "mcpgw_outcomes_total"
	metricLogLost       = "mcpgw_access_log_lost_total"
	metricLogOverflow   = "mcpgw_access_log_overflow_total"
	metricBundleSuccess = "mcpgw_bundle_last_success_timestamp_seconds"
	metricBundleActive  = "mcpgw_bundle_activated_timestamp_seconds"
	metricBundleFailed  = "mcpgw_bundle_failures_total"
	metricDecisionLost  = "mcpgw_decision_log_lost_total"
	metricShadow        = "mcpgw_shadow_disagreements_total"
	metricShadowAsked   = "mcpgw_shadow_compared_total"
	metricShadowFailed  = "mcpgw_shadow_errors_total"
	metricShadowSkipped = "mcpgw_shadow_skipped_total"
	metricShadowLoaded  = "mcpgw_shadow_loaded"
	metricSpansLost     = "mcpgw_spans_lost_total"
	metricOperation     = "mcp_server_operation_duration_seconds"
	labelOther          = "_other" // what no catalog knows
	maxLabelledItems    = 5000     // (server, item) pairs that get series of their own
	maxLabelledServers  = 2000
	unknownOutcome      = "unknown"
)
