package xds

import (
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	bodysizev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/body_size_limit/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	headerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	healthv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/health_check/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	statefulv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	envelopev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/envelope/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	tagv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/mcpgw/mcpgw/envoy"
)

const (
	// unjudged is what one connection may make Envoy hold before a route raises the limit for a body.
	unjudged = 256 << 10

	filterOutcome  = "mcpgw_outcome"
	filterSessions = "envoy.filters.http.stateful_session"
)

// extProcName is the ECDS name of a listener's ext_proc settings.
func extProcName(l Listener) string { return "ext_proc/" + l.Name }

// ingress is one listener for clients.
func (b *builder) ingress(l Listener) *listenerv3.Listener {
	m := &hcmv3.HttpConnectionManager{
		StatPrefix:                    "ingress",
		ServerName:                    "mcpgw",
		UseRemoteAddress:              yes(),
		XffNumTrustedHops:             uint32(l.TrustedHops),
		SkipXffAppend:                 true, // a server need not learn its callers' addresses
		GenerateRequestId:             yes(),
		StreamIdleTimeout:             duration(5 * time.Minute),
		StreamFlushTimeout:            duration(5 * time.Minute), // also where a route has no idle timeout: for a client that does not read its answer
		RequestHeadersTimeout:         duration(10 * time.Second),
		RequestTimeout:                duration(b.Limits.Upload),
		NormalizePath:                 yes(), // policy and route see one spelling of a path
		MergeSlashes:                  true,
		PathWithEscapedSlashesAction:  hcmv3.HttpConnectionManager_REJECT_REQUEST,
		CommonHttpProtocolOptions:     &corev3.HttpProtocolOptions{HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_DROP_HEADER, MaxHeadersCount: u32(100)},
		Http2ProtocolOptions:          &corev3.Http2ProtocolOptions{MaxConcurrentStreams: u32(1000), InitialStreamWindowSize: u32(64 << 10), InitialConnectionWindowSize: u32(1 << 20)},
		EarlyHeaderMutationExtensions: []*corev3.TypedExtensionConfig{b.extension("strip", strip(l.ClientTrace))},
		Tracing:                       b.tracing(ingressTracing()),
		AccessLog:                     b.accessLog(LogIngress),
		LocalReplyConfig:              ingressReplies(),
	}
	b.routes(m, routesIngress)

	m.HttpFilters = []*hcmv3.HttpFilter{
		b.filter("envoy.filters.http.health_check", &healthv3.HealthCheck{
			PassThroughMode: no(),
			Headers:         []*routev3.HeaderMatcher{header(":path", HealthPath)},
		}),
		// Before ext_proc: one deterministic 413, whatever the framing of the body.
		b.filter("envoy.filters.http.body_size_limit", &bodysizev3.BodySizeLimit{MaxRequestBytes: wrapperspb.UInt64(uint64(b.Limits.Body))}),
		// Nobody judges trailers, so none passes, in either direction.
		b.filter("envoy.filters.http.header_mutation", &headerv3.HeaderMutation{Mutations: &headerv3.Mutations{
			RequestTrailersMutations:  []*mutationv3.HeaderMutation{removeRegex(".*")},
			ResponseTrailersMutations: []*mutationv3.HeaderMutation{removeRegex(".*")},
		}}),
	}
	if b.Telemetry.Guard {
		m.HttpFilters = append(m.HttpFilters, b.filter(filterOutcome, &luav3.Lua{
			DefaultSourceCode: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: envoy.Outcome()}},
		}))
	}
	m.HttpFilters = append(m.HttpFilters, b.extProc(l), b.router())

	return b.listener(ListenerName(l.Name), listenAddress(l.Address), m, b.serverTLS(l))
}

// egress is the broker's way out. The token in its routes keeps other processes of the same user off.
func (b *builder) egress() *listenerv3.Listener {
	m := &hcmv3.HttpConnectionManager{
		StatPrefix:        "egress",
		StreamIdleTimeout: duration(0), // the broker ends its own streams; a server's event stream may be silent for long
		// An answer that was cut is told by closing. Not at once: the broker may still be sending, and is to read an early answer first.
		DelayedCloseTimeout: duration(100 * time.Millisecond),
		NormalizePath:       yes(),
		Tracing: b.tracing(&hcmv3.HttpConnectionManager_Tracing{
			SpawnUpstreamSpan: yes(), Operation: "egress %REQ(:METHOD)%", UpstreamOperation: "egress upstream",
		}),
		AccessLog: b.accessLog(LogEgress),
		// The broker tells Envoy's 503 from a server's by the mark.
		LocalReplyConfig: &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{{
			Filter:       status(accesslogv3.ComparisonFilter_GE, 300),
			HeadersToAdd: []*corev3.HeaderValueOption{set(HeaderLocal, "1")},
		}}},
		HttpFilters: []*hcmv3.HttpFilter{b.sessions(), b.router()},
	}
	b.routes(m, routesEgress)
	l := b.listener("egress", pipe(b.Sockets.Egress, private), m, nil)
	l.IgnoreGlobalConnLimit = true // clients must not be able to lock the broker out
	return l
}

func (b *builder) listener(name string, a *corev3.Address, m *hcmv3.HttpConnectionManager, tls *corev3.TransportSocket) *listenerv3.Listener {
	l := &listenerv3.Listener{
		Name:                          name,
		Address:                       a,
		PerConnectionBufferLimitBytes: u32(unjudged),
		FilterChains: []*listenerv3.FilterChain{{
			Filters: []*listenerv3.Filter{{
				Name:       "envoy.filters.network.http_connection_manager",
				ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: b.any(m)},
			}},
			TransportSocket: tls,
		}},
	}
	b.valid(l)
	return l
}

// routes points a connection manager at a route table: inline in a static file, else by RDS.
func (b *builder) routes(m *hcmv3.HttpConnectionManager, name string) {
	if b.static {
		table := b.routeTable(name)
		m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: table}
		return
	}
	m.RouteSpecifier = &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: ads(), RouteConfigName: name}}
}

func (b *builder) filter(name string, m message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: b.any(m)}}
}

func (b *builder) router() *hcmv3.HttpFilter {
	return b.filter("envoy.filters.http.router", &routerv3.Router{SuppressEnvoyHeaders: true})
}

// extProc is the filter that asks mcpgw; over xDS its settings come by ECDS, so that they can change without a drain.
func (b *builder) extProc(l Listener) *hcmv3.HttpFilter {
	if b.static {
		return b.filter(extProcName(l), b.extProcSettings(l))
	}
	return &hcmv3.HttpFilter{Name: extProcName(l), ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{
		ConfigSource: ads(),
		TypeUrls:     []string{"type.googleapis.com/" + string((&extprocv3.ExternalProcessor{}).ProtoReflect().Descriptor().FullName())},
	}}}
}

// extProcSettings: every body is read whole and nothing, neither a route nor a reply, may say otherwise.
func (b *builder) extProcSettings(l Listener) *extprocv3.ExternalProcessor {
	g := envoyGRPC(clusterExtProc)
	// As metadata of the stream the address costs a fraction of what it does as an attribute, which is a map of structs.
	g.InitialMetadata = []*corev3.HeaderValue{
		{Key: MetadataListener, Value: l.Name},
		{Key: MetadataAddress, Value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"},
	}
	return &extprocv3.ExternalProcessor{
		GrpcService:      g,
		FailureModeAllow: false,
		StatusOnError:    &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		MessageTimeout:   duration(b.Limits.Decision),
		ProcessingMode: &extprocv3.ProcessingMode{
			RequestHeaderMode:   extprocv3.ProcessingMode_SEND,
			RequestBodyMode:     extprocv3.ProcessingMode_BUFFERED,
			RequestTrailerMode:  extprocv3.ProcessingMode_SKIP,
			ResponseHeaderMode:  extprocv3.ProcessingMode_SKIP,
			ResponseBodyMode:    extprocv3.ProcessingMode_NONE,
			ResponseTrailerMode: extprocv3.ProcessingMode_SKIP,
		},
		AllowModeOverride: false,
		MetadataOptions: &extprocv3.MetadataOptions{
			ReceivingNamespaces: &extprocv3.MetadataOptions_MetadataNamespaces{Untyped: []string{Metadata}},
		},
	}
}

// sessions keeps a session on its host. It sleeps unless a route wakes it (see sticky in route.go).
func (b *builder) sessions() *hcmv3.HttpFilter {
	f := b.filter(filterSessions, b.statefulSession())
	f.Disabled = true
	return f
}

func (b *builder) statefulSession() *statefulv3.StatefulSession {
	return &statefulv3.StatefulSession{
		StatPrefix:                        "mcp",
		Strict:                            true,
		StatusOnStrictDestinationNotFound: 404,
		SessionState: b.extension("envoy.http.stateful_session.envelope", &envelopev3.EnvelopeSessionState{
			Header: &envelopev3.EnvelopeSessionState_Header{Name: "mcp-session-id"},
		}),
	}
}

// strip removes what only mcpgw and Envoy may say, before the first routing and before the tracing decision.
func strip(t ClientTrace) *earlyv3.HeaderMutation {
	m := []*mutationv3.HeaderMutation{
		removePrefix("x-mcpgw-"),
		removePrefix("x-envoy-"), // whatever Envoy takes for an internal address, a client does not set these
		remove("x-request-id"),
		remove("x-client-trace-id"),
	}
	if t == ClientTraceLink {
		m = append(m,
			&mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Append{Append: set(HeaderClientTrace, "%REQ(TRACEPARENT)%")}},
			remove("traceparent"), remove("tracestate"))
	}
	return &earlyv3.HeaderMutation{Mutations: m}
}

func remove(name string) *mutationv3.HeaderMutation {
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Remove{Remove: name}}
}

func removePrefix(p string) *mutationv3.HeaderMutation {
	return removeMatch(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: p}})
}

func removeRegex(re string) *mutationv3.HeaderMutation {
	return removeMatch(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: re}}})
}

func removeMatch(m *matcherv3.StringMatcher) *mutationv3.HeaderMutation {
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_RemoveOnMatch_{
		RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{KeyMatcher: m},
	}}
}

// ingressTracing names the spans after what ext_proc found. A tag whose metadata is absent is left out.
func ingressTracing() *hcmv3.HttpConnectionManager_Tracing {
	t := &hcmv3.HttpConnectionManager_Tracing{
		SpawnUpstreamSpan: yes(),
		ClientSampling:    &typev3.Percent{Value: 0},
		Operation:         "%DYNAMIC_METADATA(mcpgw:span_name)%",
		UpstreamOperation: "%DYNAMIC_METADATA(mcpgw:upstream_span_name)%",
	}
	for _, tag := range [][2]string{
		{"mcp.method.name", "%DYNAMIC_METADATA(mcpgw:method)%"},
		{"gen_ai.tool.name", "%DYNAMIC_METADATA(mcpgw:tool)%"},
		{"jsonrpc.request.id", "%DYNAMIC_METADATA(mcpgw:id_json)%"},
		{"mcpgw.decision_id", "%DYNAMIC_METADATA(mcpgw:decision_id)%"},
		{"error.type", "%DYNAMIC_METADATA(mcpgw_resp:error_type)%"},
		{"rpc.response.status_code", "%DYNAMIC_METADATA(mcpgw_resp:error_code)%"},
		// The one tag that gives a span the status ERROR although the HTTP status is 200.
		{"grpc.status_code", "%CEL('mcpgw_resp' in metadata.filter_metadata && 'error_type' in metadata.filter_metadata['mcpgw_resp'] ? '2' : '')%"},
	} {
		t.CustomTags = append(t.CustomTags, textTag(tag[0], tag[1]))
	}
	return t
}

func textTag(name, value string) *tagv3.CustomTag {
	return &tagv3.CustomTag{Tag: name, Type: &tagv3.CustomTag_Value{Value: value}}
}

// tracing adds sampling and collector; without a collector there is no tracing at all, for it costs even at 0 %.
func (b *builder) tracing(t *hcmv3.HttpConnectionManager_Tracing) *hcmv3.HttpConnectionManager_Tracing {
	if b.Telemetry.OTLP == "" {
		return nil
	}
	t.RandomSampling = &typev3.Percent{Value: b.Telemetry.Sampling}
	g := envoyGRPC(clusterOTLP)
	g.Timeout = duration(time.Second)
	t.Provider = &tracev3.Tracing_Http{
		Name: "envoy.tracers.opentelemetry",
		ConfigType: &tracev3.Tracing_Http_TypedConfig{TypedConfig: b.any(&tracev3.OpenTelemetryConfig{
			ServiceName: "mcpgw-envoy", GrpcService: g,
		})},
	}
	return t
}

// accessLog sends one record a request, on egress one a failure, a few at a time: a message for each would cost more than what it
// says. What the buffer holds is bounded; 0 would not be.
func (b *builder) accessLog(name string) []*accesslogv3.AccessLog {
	if !b.Telemetry.AccessLog {
		return nil
	}
	c := &grpclogv3.HttpGrpcAccessLogConfig{CommonConfig: &grpclogv3.CommonGrpcAccessLogConfig{
		LogName:             name,
		TransportApiVersion: corev3.ApiVersion_V3,
		GrpcService:         envoyGRPC(clusterALS),
		BufferSizeBytes:     u32(16 << 10),
		BufferFlushInterval: duration(100 * time.Millisecond),
	}}
	if b.Telemetry.OTLP != "" {
		c.CommonConfig.CustomTags = []*tagv3.CustomTag{textTag("trace_id", "%TRACE_ID%"), textTag("span_id", "%SPAN_ID%")}
	}
	filter := &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_NotHealthCheckFilter{
		NotHealthCheckFilter: &accesslogv3.NotHealthCheckFilter{},
	}}
	if name == LogEgress { // how a call ended is told on ingress: here only what a server refused, or 0 where it did not answer
		c.AdditionalRequestHeadersToLog = []string{HeaderDecision}
		filter = anyOf(status(accesslogv3.ComparisonFilter_LE, 199), status(accesslogv3.ComparisonFilter_GE, 300))
	}
	return []*accesslogv3.AccessLog{{
		Name:       "envoy.access_loggers.http_grpc",
		Filter:     filter,
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: b.any(c)},
	}}
}

// serverTLS is a listener's transport socket, nil for plain text.
func (b *builder) serverTLS(l Listener) *corev3.TransportSocket {
	if l.TLS == nil {
		return nil
	}
	return &corev3.TransportSocket{
		Name: "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: b.any(&tlsv3.DownstreamTlsContext{
			CommonTlsContext: &tlsv3.CommonTlsContext{
				TlsParams:                      &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2},
				AlpnProtocols:                  []string{"h2", "http/1.1"},
				TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{b.secret(listenerSecret(l))},
			},
		})},
	}
}
