package xds

import (
	"fmt"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	heapv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
	"gopkg.in/yaml.v3"
)

// Bootstrap is the file that Envoy starts with when everything else comes over xDS, as YAML: where mcpgw's
// socket is, and what no push may change. It reads the node, the sockets and the overload limits of the world.
func Bootstrap(w World) ([]byte, error) {
	b, err := newBuilder(w, false)
	if err != nil {
		return nil, err
	}
	m := b.bootstrap()
	m.StaticResources = &bootstrapv3.Bootstrap_StaticResources{Clusters: b.house()}
	stream := envoyGRPC(clusterXDS)
	stream.GetEnvoyGrpc().RetryPolicy = &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
		BaseInterval: duration(100 * time.Millisecond), MaxInterval: duration(time.Second),
	}}
	m.DynamicResources = &bootstrapv3.Bootstrap_DynamicResources{
		AdsConfig: &corev3.ApiConfigSource{
			ApiType:                   corev3.ApiConfigSource_DELTA_GRPC,
			TransportApiVersion:       corev3.ApiVersion_V3,
			GrpcServices:              []*corev3.GrpcService{stream},
			SetNodeOnFirstMessageOnly: true,
		},
		CdsConfig: ads(),
		LdsConfig: ads(),
	}
	return b.yaml(m)
}

// Static is the whole world in one YAML file that needs no xDS. Certificates are read once, at start; a
// Credential with a Value would stand in it in plain text, so name a File or an Env there.
func Static(w World) ([]byte, error) {
	b, err := newBuilder(w, true)
	if err != nil {
		return nil, err
	}
	m := b.bootstrap()
	m.StaticResources = &bootstrapv3.Bootstrap_StaticResources{Clusters: b.house(), Secrets: b.secrets()}
	if c := b.collector(); c != nil {
		m.StaticResources.Clusters = append(m.StaticResources.Clusters, c)
	}
	for _, s := range b.Servers {
		m.StaticResources.Clusters = append(m.StaticResources.Clusters, b.server(s))
	}
	for _, l := range b.Listeners {
		m.StaticResources.Listeners = append(m.StaticResources.Listeners, b.ingress(l))
	}
	m.StaticResources.Listeners = append(m.StaticResources.Listeners, b.egress())
	return b.yaml(m)
}

func newBuilder(w World, static bool) (*builder, error) {
	w = w.withDefaults()
	if err := w.check(); err != nil {
		return nil, fmt.Errorf("xds: %w", err)
	}
	return &builder{World: w, static: static}, nil
}

// bootstrap is what both files share.
func (b *builder) bootstrap() *bootstrapv3.Bootstrap {
	return &bootstrapv3.Bootstrap{
		Node:  &corev3.Node{Id: b.Node.ID, Cluster: b.Node.Cluster},
		Admin: &bootstrapv3.Admin{Address: pipe(b.Sockets.Admin, private)},
		LayeredRuntime: &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
			Name: "mcpgw",
			LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: &structpb.Struct{Fields: map[string]*structpb.Value{
				// Spans leave soon, and not one by one.
				"tracing.opentelemetry.flush_interval_ms": structpb.NewNumberValue(200),
				"tracing.opentelemetry.min_flush_spans":   structpb.NewNumberValue(50),
			}}},
		}}},
		OverloadManager: b.overload(),
	}
}

func (b *builder) overload() *overloadv3.OverloadManager {
	m := &overloadv3.OverloadManager{RefreshInterval: duration(250 * time.Millisecond)}
	if n := b.Overload.MaxHeap; n > 0 {
		const heap = "envoy.resource_monitors.fixed_heap"
		m.ResourceMonitors = append(m.ResourceMonitors, &overloadv3.ResourceMonitor{
			Name:       heap,
			ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: b.any(&heapv3.FixedHeapConfig{MaxHeapSizeBytes: n})},
		})
		for _, a := range []struct {
			name string
			at   float64
		}{{"shrink_heap", 0.90}, {"stop_accepting_requests", 0.95}, {"stop_accepting_connections", 0.98}} {
			m.Actions = append(m.Actions, &overloadv3.OverloadAction{
				Name: "envoy.overload_actions." + a.name,
				Triggers: []*overloadv3.Trigger{{
					Name:         heap,
					TriggerOneof: &overloadv3.Trigger_Threshold{Threshold: &overloadv3.ThresholdTrigger{Value: a.at}},
				}},
			})
		}
	}
	if n := b.Overload.MaxConnections; n > 0 {
		m.ResourceMonitors = append(m.ResourceMonitors, &overloadv3.ResourceMonitor{
			Name: "envoy.resource_monitors.global_downstream_max_connections",
			ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: b.any(&connectionsv3.DownstreamConnectionsConfig{
				MaxActiveDownstreamConnections: n,
			})},
		})
	}
	if m.ResourceMonitors == nil {
		return nil
	}
	return m
}

// yaml writes a message the way Envoy's documentation does. The detour over plain values sorts the keys:
// protojson changes its spacing from build to build on purpose.
func (b *builder) yaml(m message) ([]byte, error) {
	b.valid(m)
	if err := b.err(); err != nil {
		return nil, fmt.Errorf("xds: %w", err)
	}
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("xds: %w", err)
	}
	var plain any
	if err := yaml.Unmarshal(raw, &plain); err != nil {
		return nil, fmt.Errorf("xds: %w", err)
	}
	return yaml.Marshal(plain)
}

func percent(v float64) *typev3.Percent { return &typev3.Percent{Value: v} }
