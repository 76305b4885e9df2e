package xds

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// ingressReplies turns every reply that Envoy makes itself into JSON-RPC. The first mapper that fits is used.
//
// Once ext_proc has decided, the caller's id is known (id_json in the metadata) and a fault is one of the
// server: an error inside a 200, like any other fault of a server. Before that the HTTP status stays and the
// id is null. What ext_proc itself replies carries own_reply and is left alone.
func ingressReplies() *hcmv3.LocalReplyConfig {
	timeout := anyOf(status(accesslogv3.ComparisonFilter_EQ, 504), status(accesslogv3.ComparisonFilter_EQ, 408))
	return &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{
		decided("timeout", timeout),
		decided("not_mcp", status(accesslogv3.ComparisonFilter_EQ, 500)), // an answer too large for the guard to hold
		decided("unavailable"),                                           // 502, 503; a credential that is missing (401); a session's host that is gone (404)
		undecided(-32600, "the request body is too large", status(accesslogv3.ComparisonFilter_EQ, 413)),
		undecided(-32600, "the request did not arrive in time", status(accesslogv3.ComparisonFilter_EQ, 408)),
		undecided(-32603, "the gateway cannot serve this request now", status(accesslogv3.ComparisonFilter_GE, 500)),
		undecided(-32600, "the gateway does not accept this request", status(accesslogv3.ComparisonFilter_GE, 300)),
	}}
}

// decided answers for a server that failed after the call was let through.
func decided(reason string, when ...*accesslogv3.AccessLogFilter) *hcmv3.ResponseMapper {
	m := mapper(`{"jsonrpc":"2.0","id":%DYNAMIC_METADATA(mcpgw:id_json)%,"error":{"code":-32603,"message":"the server did not answer this call","data":{"server":"%DYNAMIC_METADATA(mcpgw:server)%","reason":"`+reason+`"}}}`,
		append([]*accesslogv3.AccessLogFilter{notOurs(), hasID()}, when...)...)
	m.StatusCode = u32(200)
	return m
}

// undecided answers for a request on which nobody has decided.
func undecided(code int32, message string, when *accesslogv3.AccessLogFilter) *hcmv3.ResponseMapper {
	return mapper(`{"jsonrpc":"2.0","id":null,"error":{"code":`+itoa(code)+`,"message":"`+message+`","data":{"status":%RESPONSE_CODE%}}}`, notOurs(), when)
}

func mapper(body string, when ...*accesslogv3.AccessLogFilter) *hcmv3.ResponseMapper {
	return &hcmv3.ResponseMapper{
		Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{
			AndFilter: &accesslogv3.AndFilter{Filters: when},
		}},
		// Tells the response script that this is no server's answer. Routes keep servers from sending it.
		HeadersToAdd: []*corev3.HeaderValueOption{set(HeaderLocal, "1")},
		BodyFormatOverride: &corev3.SubstitutionFormatString{
			ContentType: "application/json",
			Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
				Specifier: &corev3.DataSource_InlineString{InlineString: body},
			}},
		},
	}
}

// notOurs holds unless ext_proc marked the reply as its own; an absent mark counts as a match.
func notOurs() *accesslogv3.AccessLogFilter {
	return written("own_reply", &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_BoolMatch{BoolMatch: false}}, true)
}

func hasID() *accesslogv3.AccessLogFilter {
	return written("id_json", &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_PresentMatch{PresentMatch: true}}, false)
}

// written matches on what ext_proc put into the metadata; absent says what holds where it put nothing.
func written(key string, v *matcherv3.ValueMatcher, absent bool) *accesslogv3.AccessLogFilter {
	f := &accesslogv3.MetadataFilter{Matcher: &matcherv3.MetadataMatcher{
		Filter: Metadata,
		Path:   []*matcherv3.MetadataMatcher_PathSegment{{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: key}}},
		Value:  v,
	}}
	if !absent {
		f.MatchIfKeyNotFound = no()
	}
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_MetadataFilter{MetadataFilter: f}}
}

func anyOf(f ...*accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_OrFilter{OrFilter: &accesslogv3.OrFilter{Filters: f}}}
}

func status(op accesslogv3.ComparisonFilter_Op, code uint32) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{StatusCodeFilter: &accesslogv3.StatusCodeFilter{
		Comparison: &accesslogv3.ComparisonFilter{
			Op: op,
			// The API wants a runtime key beside the value; nothing sets this one.
			Value: &corev3.RuntimeUInt32{DefaultValue: code, RuntimeKey: "mcpgw.status_" + itoa(int32(code))},
		},
	}}}
}
