package xds

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// deterministic bytes: an equal message must not look changed to Envoy, or it drains for nothing.
var deterministic = proto.MarshalOptions{Deterministic: true}

// builder renders one world. static says that nothing may refer to xDS.
type builder struct {
	World
	static bool
	errs   []error
}

// any packs a message, checked against the rules of Envoy's API; the outer message's own check does not look inside.
func (b *builder) any(m proto.Message) *anypb.Any {
	b.valid(m)
	raw, err := deterministic.Marshal(m)
	if err != nil {
		b.errs = append(b.errs, err)
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: raw}
}

func (b *builder) valid(m proto.Message) {
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			b.errs = append(b.errs, fmt.Errorf("%s: %w", m.ProtoReflect().Descriptor().Name(), err))
		}
	}
}

func (b *builder) err() error { return errors.Join(b.errs...) }

func (b *builder) extension(name string, m proto.Message) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{Name: name, TypedConfig: b.any(m)}
}

// ads says that a resource comes over the aggregated stream.
func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}

func envoyGRPC(cluster string) *corev3.GrpcService {
	return &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: cluster}}}
}

func pipe(path string, mode uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path, Mode: mode}}}
}

func socketAddress(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

// private: only the owner may connect.
const private = 0o600

func listenAddress(s string) *corev3.Address {
	if filepath.IsAbs(s) {
		return pipe(s, private)
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil // check() has refused it
	}
	return socketAddress(ap.Addr().String(), uint32(ap.Port()))
}

func file(path string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path}}
}

func exact(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

// set overwrites a header, whatever was there.
func set(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

func duration(d time.Duration) *durationpb.Duration { return durationpb.New(d) }
func u32(n uint32) *wrapperspb.UInt32Value          { return wrapperspb.UInt32(n) }
func yes() *wrapperspb.BoolValue                    { return wrapperspb.Bool(true) }
func no() *wrapperspb.BoolValue                     { return wrapperspb.Bool(false) }
