package xds

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// The resource types that travel, in the order in which a change is sent. Secrets go first, for a cluster is
// not ready without its own; routes go last, for they may point at what came before.
const (
	typePrefix   = "type.googleapis.com/"
	typeSecret   = typePrefix + "envoy.extensions.transport_sockets.tls.v3.Secret"
	typeCluster  = typePrefix + "envoy.config.cluster.v3.Cluster"
	typeListener = typePrefix + "envoy.config.listener.v3.Listener"
	typeExtProc  = typePrefix + "envoy.config.core.v3.TypedExtensionConfig"
	typeRoute    = typePrefix + "envoy.config.route.v3.RouteConfiguration"
)

var sendOrder = []string{typeSecret, typeCluster, typeListener, typeExtProc, typeRoute}

// Resources is one rendered and checked world. It is immutable.
type Resources struct {
	world  World
	byType map[string]resourceSet
	digest string
}

// resourceSet holds resources of one type by name. A resource's version is a digest of its bytes, so what
// did not change is not sent, not even by a process that was started anew.
type resourceSet map[string]*discoveryv3.Resource

// Render makes the resources of a world. Every fault of the world is in the error.
func Render(w World) (*Resources, error) {
	b, err := newBuilder(w, false)
	if err != nil {
		return nil, err
	}
	r := &Resources{world: b.World, byType: map[string]resourceSet{}}
	for _, t := range sendOrder {
		r.byType[t] = resourceSet{}
	}
	add := func(typeURL, name string, m message) {
		a := b.any(m)
		sum := sha256.Sum256(a.Value)
		r.byType[typeURL][name] = &discoveryv3.Resource{Name: name, Version: hex.EncodeToString(sum[:12]), Resource: a}
	}
	for _, s := range b.secrets() {
		add(typeSecret, s.Name, s)
	}
	if c := b.collector(); c != nil {
		add(typeCluster, c.Name, c)
	}
	for _, s := range b.Servers {
		add(typeCluster, Backend(s.Name), b.server(s))
	}
	for _, l := range b.Listeners {
		in := b.ingress(l)
		add(typeListener, in.Name, in)
		add(typeExtProc, extProcName(l), b.extension(extProcName(l), b.extProcSettings(l)))
	}
	out := b.egress()
	add(typeListener, out.Name, out)
	add(typeRoute, routesIngress, b.routeTable(routesIngress))
	add(typeRoute, routesEgress, b.routeTable(routesEgress))
	if err := b.err(); err != nil {
		return nil, fmt.Errorf("xds: %w", err)
	}
	r.digest = r.sum()
	return r, nil
}

// Version is a digest of everything in the world that Envoy is sent: equal worlds have equal versions.
func (r *Resources) Version() string { return r.digest }

// Drains names the listeners that differ between two worlds: going from r to next drains their connections.
func (r *Resources) Drains(next *Resources) []string {
	var names []string
	for name, old := range r.byType[typeListener] {
		if res, ok := next.byType[typeListener][name]; !ok || res.Version != old.Version {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (r *Resources) sum() string {
	h := sha256.New()
	for _, t := range sendOrder {
		names := make([]string, 0, len(r.byType[t]))
		for n := range r.byType[t] {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			fmt.Fprintf(h, "%s %q %s\n", t, n, r.byType[t][n].Version)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// union is the world on the way from old to next: all servers of both, the settings of next where both have
// one. In it every route that either world uses is there, so the swap in mcpgw itself needs no exact moment.
func union(old, next *Resources) (*Resources, error) {
	w := next.world
	has := map[string]bool{}
	for _, s := range w.Servers {
		has[s.Name] = true
	}
	w.Servers = slices.Clone(w.Servers)
	for _, s := range old.world.Servers {
		if !has[s.Name] {
			w.Servers = append(w.Servers, s)
		}
	}
	if len(w.Servers) == len(next.world.Servers) {
		return next, nil
	}
	return Render(w)
}

// with is r with the resources of some types taken from another world.
func (r *Resources) with(from *Resources, types ...string) *Resources {
	m := &Resources{world: r.world, byType: map[string]resourceSet{}}
	for _, t := range sendOrder {
		m.byType[t] = r.byType[t]
	}
	for _, t := range types {
		m.byType[t] = from.byType[t]
	}
	m.digest = m.sum()
	return m
}
