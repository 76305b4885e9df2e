package xds

import (
	"slices"
	"strings"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	matchv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	statefulv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	previousv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	routesIngress = "ingress"
	routesEgress  = "egress"
)

func (b *builder) routeTable(name string) *routev3.RouteConfiguration {
	t := &routev3.RouteConfiguration{Name: name}
	if name == routesIngress {
		t.VirtualHosts = []*routev3.VirtualHost{b.ingressHost()}
	} else {
		t.RequestHeadersToRemove = []string{HeaderEgressToken, HeaderBackend, HeaderDecision, HeaderExchange, "authorization", "cookie"}
		t.ResponseHeadersToRemove = []string{"set-cookie", HeaderLocal}
		t.VirtualHosts = []*routev3.VirtualHost{b.egressHost()}
	}
	b.valid(t)
	return t
}

// ingressHost routes by the header that only ext_proc can set. What holds for every server stands here and not on
// its route: no route can forget it, and a table of 1,000 routes stays small.
func (b *builder) ingressHost() *routev3.VirtualHost {
	actions := map[string]*matchv3.Matcher_OnMatch{
		Broker: b.action(&routev3.Route{
			Name:  Broker,
			Match: &routev3.RouteMatch{PathSpecifier: prefix("/")},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{
				ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: Broker},
				Timeout:          duration(0),
				// The broker knows how long each server may be silent, and its JSON answer may be silent for a whole call.
				IdleTimeout: duration(0),
			}},
		}),
	}
	forwarded := b.forwarded()
	for _, s := range b.Servers {
		actions[Backend(s.Name)] = b.action(b.direct(s, forwarded))
	}
	return &routev3.VirtualHost{
		Name:    "all",
		Domains: []string{"*"},
		// Raises the listener's limit (nothing can lower it), for routes to a cluster only.
		RequestBodyBufferLimit: wrapperspb.UInt64(uint64(b.Limits.Body)),
		RequestHeadersToRemove: append(b.unforwarded(),
			HeaderBackend, "authorization", "proxy-authorization", "cookie", "accept-encoding", "x-envoy-external-address", "x-envoy-internal", "trailer"),
		// The guard lets an allow-list through; this is what holds if it fails.
		ResponseHeadersToRemove: []string{
			HeaderLocal, "set-cookie", "www-authenticate", "proxy-authenticate", "location",
			"x-envoy-upstream-service-time", "x-envoy-attempt-count", "x-powered-by", "via", "alt-svc",
		},
		RetryPolicy: b.retry(),
		Matcher:     b.byHeader(HeaderBackend, actions, b.unrouted()),
	}
}

// unrouted is where every request stands until ext_proc has spoken, and stays if it does not.
func (b *builder) unrouted() *matchv3.Matcher_OnMatch {
	return b.onMatch("refuse", &routev3.RouteList{Routes: []*routev3.Route{
		{
			// A cluster without endpoints: only a route to a cluster raises the body limit.
			Name:  "refuse-call",
			Match: post(),
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{
				ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: refuse},
			}},
		},
		answer("refuse", 503),
	}})
}

// direct is the route of one server on the direct lane: calls only. forwarded is what the virtual host lets
// through because some server wants it.
func (b *builder) direct(s Server, forwarded []string) *routev3.Route {
	others := slices.DeleteFunc(slices.Clone(forwarded), s.forwards)
	return &routev3.Route{
		Name:                    "direct/" + s.Name,
		Match:                   post(), // a GET or HEAD sent here by mistake ends in 404
		RequestHeadersToRemove:  append(others, HeaderDecision, HeaderExchange, HeaderClientTrace),
		ResponseHeadersToRemove: []string{"mcp-session-id", "access-control-allow-origin"}, // the broker's own are not a server's
		Action: &routev3.Route_Route{Route: b.towards(s, func(a *routev3.RouteAction) {
			a.IdleTimeout = duration(s.CallIdle)
			a.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: duration(s.CallTotal)}
		})},
	}
}

// byClient are headers that say something about the client or its way here. No server reads them unless its
// ForwardHeaders say so.
func byClient() []string {
	return []string{"origin", "referer", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "baggage"}
}

func (s Server) forwards(header string) bool {
	return slices.ContainsFunc(s.ForwardHeaders, func(h string) bool { return strings.EqualFold(h, header) })
}

// forwarded are the headers of byClient that some server wants.
func (b *builder) forwarded() []string {
	return slices.DeleteFunc(byClient(), func(h string) bool {
		return !slices.ContainsFunc(b.Servers, func(s Server) bool { return s.forwards(h) })
	})
}

// added is what the egress connection manager writes of its own accord and no server on the direct lane gets to see.
func added(s Server) []string {
	if s.forwards("x-forwarded-proto") {
		return nil
	}
	return []string{"x-forwarded-proto"}
}

// unforwarded are those that none wants.
func (b *builder) unforwarded() []string {
	wanted := b.forwarded()
	return slices.DeleteFunc(byClient(), func(h string) bool { return slices.Contains(wanted, h) })
}

// egressHost asks for the token first and routes then.
func (b *builder) egressHost() *routev3.VirtualHost {
	actions := map[string]*matchv3.Matcher_OnMatch{}
	for _, s := range b.Servers {
		r := &routev3.Route{
			Name:                   "egress/" + s.Name,
			Match:                  &routev3.RouteMatch{PathSpecifier: prefix("/")},
			RequestHeadersToRemove: added(s),
			Action: &routev3.Route_Route{Route: b.towards(s, func(a *routev3.RouteAction) {
				a.IdleTimeout = duration(0)
				if s.Sticky {
					a.RetryPolicy = &routev3.RetryPolicy{} // none: a retry would leave the host that holds the session
				}
			})},
		}
		if s.Sticky {
			r.TypedPerFilterConfig = map[string]*anypb.Any{filterSessions: b.any(&routev3.FilterConfig{
				Config: b.any(&statefulv3.StatefulSessionPerRoute{Override: &statefulv3.StatefulSessionPerRoute_StatefulSession{StatefulSession: b.statefulSession()}}),
			})}
		}
		actions[Backend(s.Name)] = b.action(r)
	}
	none := b.action(answer("egress/none", 503))
	inside := none
	if len(actions) > 0 {
		inside = &matchv3.Matcher_OnMatch{OnMatch: &matchv3.Matcher_OnMatch_Matcher{Matcher: b.byHeader(HeaderBackend, actions, none)}}
	}
	return &routev3.VirtualHost{
		Name:        "all",
		Domains:     []string{"*"},
		RetryPolicy: b.retry(),
		Matcher:     b.byHeader(HeaderEgressToken, map[string]*matchv3.Matcher_OnMatch{b.EgressToken: inside}, b.action(answer("egress/refuse", 403))),
	}
}

// towards is what both lanes share on the way to a server. No timeout for the whole answer: event streams live long.
func (b *builder) towards(s Server, more func(*routev3.RouteAction)) *routev3.RouteAction {
	t, _ := s.target() // check() has read it
	a := &routev3.RouteAction{
		ClusterSpecifier:     &routev3.RouteAction_Cluster{Cluster: Backend(s.Name)},
		HostRewriteSpecifier: &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: t.sees},
		PathRewrite:          strings.ReplaceAll(t.path, "%", "%%"), // a format string; keeps the client's query, which ext_proc refuses
		Timeout:              duration(0),
	}
	more(a)
	return a
}

// retry repeats a call only where the server cannot have begun to run it.
func (b *builder) retry() *routev3.RetryPolicy {
	return &routev3.RetryPolicy{
		RetryOn:                       "connect-failure,refused-stream,reset-before-request",
		NumRetries:                    u32(2),
		HostSelectionRetryMaxAttempts: 3,
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name:       "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: b.any(&previousv3.PreviousHostsPredicate{})},
		}},
	}
}

// byHeader is an exact map: its cost does not grow with the number of servers.
func (b *builder) byHeader(name string, actions map[string]*matchv3.Matcher_OnMatch, otherwise *matchv3.Matcher_OnMatch) *matchv3.Matcher {
	return &matchv3.Matcher{
		MatcherType: &matchv3.Matcher_MatcherTree_{MatcherTree: &matchv3.Matcher_MatcherTree{
			Input: &xdscorev3.TypedExtensionConfig{Name: "header", TypedConfig: b.any(&matcherv3.HttpRequestHeaderMatchInput{HeaderName: name})},
			TreeType: &matchv3.Matcher_MatcherTree_ExactMatchMap{ExactMatchMap: &matchv3.Matcher_MatcherTree_MatchMap{
				Map: actions,
			}},
		}},
		OnNoMatch: otherwise,
	}
}

func (b *builder) action(r *routev3.Route) *matchv3.Matcher_OnMatch { return b.onMatch("route", r) }

func (b *builder) onMatch(name string, m message) *matchv3.Matcher_OnMatch {
	return &matchv3.Matcher_OnMatch{OnMatch: &matchv3.Matcher_OnMatch_Action{
		Action: &xdscorev3.TypedExtensionConfig{Name: name, TypedConfig: b.any(m)},
	}}
}

// answer replies at once with a status.
func answer(name string, status uint32) *routev3.Route {
	return &routev3.Route{
		Name:   name,
		Match:  &routev3.RouteMatch{PathSpecifier: prefix("/")},
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: status}},
	}
}

func prefix(p string) *routev3.RouteMatch_Prefix { return &routev3.RouteMatch_Prefix{Prefix: p} }

func post() *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: prefix("/"), Headers: []*routev3.HeaderMatcher{header(":method", "POST")}}
}

func header(name, value string) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: exact(value)}}
}
