package xds

import (
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	dnscommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	injectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/credential_injector/v3"
	codecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	genericv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/injected_credentials/generic/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// message is any protobuf message.
type message = proto.Message

func itoa(n int32) string { return strconv.Itoa(int(n)) }

// wide circuit breakers, for what mcpgw itself serves: one stream a call in flight, and the default of 1024 would answer 503.
func wide() *clusterv3.CircuitBreakers { return breakers(100_000, 100_000) }

func breakers(requests, pending uint32) *clusterv3.CircuitBreakers {
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections: u32(requests), MaxRequests: u32(requests), MaxPendingRequests: u32(pending),
	}}}
}

// house are the clusters that mcpgw itself stands behind. They live in the bootstrap, where no push can touch them.
func (b *builder) house() []*clusterv3.Cluster {
	grpc := func(name string, window, connection uint32, keepalive bool) *clusterv3.Cluster {
		h2 := &corev3.Http2ProtocolOptions{InitialStreamWindowSize: u32(window)}
		if connection > 0 {
			h2.InitialConnectionWindowSize = u32(connection)
		}
		if keepalive { // notices a stopped mcpgw, whose socket still accepts
			h2.ConnectionKeepalive = &corev3.KeepaliveSettings{Interval: duration(10 * time.Second), Timeout: duration(5 * time.Second)}
		}
		c := b.static1(name, pipe(b.Sockets.GRPC, 0), "")
		c.TypedExtensionProtocolOptions = b.protocol(&upstreamv3.HttpProtocolOptions{UpstreamProtocolOptions: http2(h2)})
		return c
	}
	clusters := []*clusterv3.Cluster{
		grpc(clusterExtProc, 1<<20, 16<<20, false),
		grpc(clusterALS, 1<<20, 0, false), // the window bounds what a stalled sink may pile up
		{Name: refuse, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}, LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: refuse}},
		b.static1(Broker, pipe(b.Sockets.Broker, 0), ""),
	}
	if !b.static {
		clusters = append(clusters, grpc(clusterXDS, 1<<20, 0, true))
	}
	for _, c := range clusters {
		b.valid(c)
	}
	return clusters
}

// collector is the cluster of the OTLP collector, nil without one.
func (b *builder) collector() *clusterv3.Cluster {
	t := b.Telemetry
	if t.OTLP == "" {
		return nil
	}
	var c *clusterv3.Cluster
	host := ""
	if filepath.IsAbs(t.OTLP) {
		c = b.static1(clusterOTLP, pipe(t.OTLP, 0), "")
	} else {
		hp, _ := hostPort(t.OTLP) // check() has read it
		host = hp.host
		c = b.tcp(clusterOTLP, hp.host, hp.port)
	}
	c.TypedExtensionProtocolOptions = b.protocol(&upstreamv3.HttpProtocolOptions{
		UpstreamProtocolOptions: http2(&corev3.Http2ProtocolOptions{InitialStreamWindowSize: u32(1 << 20)}),
	})
	if t.OTLPTLS {
		c.TransportSocket = b.clientTLS(ClientTLS{CAFile: t.OTLPCA}, host, nil, "h2")
	}
	b.valid(c)
	return c
}

// server is the cluster of one MCP server.
func (b *builder) server(s Server) *clusterv3.Cluster {
	t, _ := s.target() // check() has read it
	name := Backend(s.Name)
	var c *clusterv3.Cluster
	if s.Socket != "" {
		c = b.static1(name, pipe(s.Socket, 0), t.host)
	} else {
		c = b.tcp(name, t.host, t.port)
	}
	c.CircuitBreakers = breakers(8192, 1024)
	c.OutlierDetection = &clusterv3.OutlierDetection{
		// A host that takes requests and resets counts as a gateway failure only if the two kinds are not told apart.
		SplitExternalLocalOriginErrors:     false,
		ConsecutiveGatewayFailure:          u32(5),
		EnforcingConsecutiveGatewayFailure: u32(100),
		Consecutive_5Xx:                    u32(1000), // a 500 with a JSON-RPC error is an answer
		BaseEjectionTime:                   duration(30 * time.Second),
		MaxEjectionPercent:                 u32(50),
		AlwaysEjectOneHost:                 yes(),
	}
	if s.Sticky { // an ejected host must not get the sessions of others
		c.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: percent(0)}
	}
	if t.tls {
		alpn := "http/1.1"
		if s.HTTP2 {
			alpn = "h2"
		}
		c.TransportSocket = b.clientTLS(s.TLS, t.host, b.clientCert(s), alpn)
	}
	c.TypedExtensionProtocolOptions = b.protocol(b.upstream(s))
	b.valid(c)
	return c
}

// upstream holds the protocol of a server and injects its credentials.
func (b *builder) upstream(s Server) *upstreamv3.HttpProtocolOptions {
	o := &upstreamv3.HttpProtocolOptions{
		// Common servers close idle connections after 5 s; closing first avoids a call on a connection that is going away.
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: duration(4 * time.Second)},
		UpstreamProtocolOptions:   http1(),
	}
	if s.HTTP2 {
		o.CommonHttpProtocolOptions = nil
		o.UpstreamProtocolOptions = http2(&corev3.Http2ProtocolOptions{})
	}
	for i, c := range s.Credentials {
		o.HttpFilters = append(o.HttpFilters, b.filter("credential/"+itoa(int32(i)), &injectorv3.CredentialInjector{
			Overwrite: true,
			Credential: b.extension("envoy.http.injected_credentials.generic", &genericv3.Generic{
				Credential:        b.secret(credentialSecret(s, c)),
				Header:            strings.ToLower(c.Header),
				HeaderValuePrefix: c.Prefix,
			}),
		}))
	}
	if len(o.HttpFilters) > 0 {
		o.HttpFilters = append(o.HttpFilters, &hcmv3.HttpFilter{
			Name: "envoy.filters.http.upstream_codec", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: b.any(&codecv3.UpstreamCodec{})},
		})
	}
	return o
}

// clientTLS verifies the chain and the name; there is no way to leave either out.
func (b *builder) clientTLS(t ClientTLS, host string, cert *tlsv3.SdsSecretConfig, alpn string) *corev3.TransportSocket {
	or(&t.CAFile, SystemCA())
	or(&t.ServerName, host)
	name, sni := tlsv3.SubjectAltNameMatcher_DNS, t.ServerName
	if _, err := netip.ParseAddr(t.ServerName); err == nil {
		name, sni = tlsv3.SubjectAltNameMatcher_IP_ADDRESS, "" // SNI carries names only (RFC 6066, 3)
	}
	c := &tlsv3.UpstreamTlsContext{
		Sni: sni,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams:     &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2},
			AlpnProtocols: []string{alpn},
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa:                 file(t.CAFile),
				MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{SanType: name, Matcher: exact(t.ServerName)}},
			}},
		},
	}
	if cert != nil {
		c.CommonTlsContext.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{cert}
	}
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: b.any(c)}}
}

// static1 is a cluster of one fixed address.
func (b *builder) static1(name string, a *corev3.Address, hostname string) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:       duration(time.Second),
		CircuitBreakers:      wide(),
		LoadAssignment:       load(name, a, hostname),
	}
}

// tcp is a cluster of a host: fixed for an IP address, else every address that DNS gives is one host to balance over.
func (b *builder) tcp(name, host string, port uint32) *clusterv3.Cluster {
	c := b.static1(name, socketAddress(host, port), host)
	c.ConnectTimeout = duration(2 * time.Second)
	// A peer that vanished without a word would hold event streams open for ever.
	c.UpstreamConnectionOptions = &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{
		KeepaliveTime: u32(60), KeepaliveInterval: u32(15), KeepaliveProbes: u32(4),
	}}
	if _, err := netip.ParseAddr(host); err != nil {
		c.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
			Name: "envoy.clusters.dns",
			TypedConfig: b.any(&dnsv3.DnsCluster{
				RespectDnsTtl:   true,
				DnsRefreshRate:  duration(30 * time.Second),
				DnsLookupFamily: dnscommonv3.DnsLookupFamily_ALL,
			}),
		}}
	}
	return c
}

func load(cluster string, a *corev3.Address, hostname string) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{ClusterName: cluster, Endpoints: []*endpointv3.LocalityLbEndpoints{{
		LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
			Endpoint: &endpointv3.Endpoint{Address: a, Hostname: hostname},
		}}},
	}}}
}

func (b *builder) protocol(o *upstreamv3.HttpProtocolOptions) map[string]*anypb.Any {
	return map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": b.any(o)}
}

func http1() *upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_ {
	return &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig{
		ProtocolConfig: &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}},
	}}
}

func http2(o *corev3.Http2ProtocolOptions) *upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_ {
	return &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig{
		ProtocolConfig: &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: o},
	}}
}
