package xds

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

func render(t testing.TB, w World) *Resources {
	t.Helper()
	r, err := Render(w)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func publish(t testing.TB, p *Publisher, w World) Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	swapped := false
	rep, err := p.Publish(ctx, render(t, w), func() { swapped = true })
	if err != nil {
		t.Fatal(err)
	}
	if !swapped || !rep.Acknowledged {
		t.Fatalf("swapped %v, report %+v", swapped, rep)
	}
	return rep
}

// boot starts an Envoy that gets its world by xDS, and waits until it has acknowledged all of it.
func boot(t testing.TB, h *house, w World) *proxy {
	t.Helper()
	config, err := Bootstrap(w)
	if err != nil {
		t.Fatal(err)
	}
	p := startEnvoy(t, w, config)
	synced(t, h.pub)
	return p.live()
}

func synced(t testing.TB, pub *Publisher) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := pub.Synced(ctx); err != nil {
		t.Fatal(err)
	}
}

// load calls a URL from some connections until stopped, and counts what was not a 200 with a result.
type load1 struct {
	stop   context.CancelFunc
	wait   sync.WaitGroup
	calls  atomic.Int64
	failed atomic.Int64
	first  atomic.Value
}

func startLoad(t testing.TB, urls ...string) *load1 {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load1{stop: cancel}
	for _, u := range urls {
		for range 2 {
			l.wait.Go(func() {
				c := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
				defer c.CloseIdleConnections()
				for ctx.Err() == nil {
					status, body, _, err := try(c, u)
					l.calls.Add(1)
					if err != nil || status != 200 || !strings.Contains(body, `"result"`) {
						l.failed.Add(1)
						l.first.CompareAndSwap(nil, fmt.Sprint(u, " ", status, " ", body, " ", err))
					}
				}
			})
		}
	}
	t.Cleanup(func() { l.end() })
	eventually(t, "load", func() bool { return l.calls.Load() >= int64(2*len(urls)) })
	return l
}

func (l *load1) end() (calls, failed int64) {
	l.stop()
	l.wait.Wait()
	return l.calls.Load(), l.failed.Load()
}

// Servers come and go under load, over xDS, without a failed request, a new connection or a drained listener.
func TestServersComeAndGo(t *testing.T) {
	dir := short(t)
	w := plain(dir, upstream(t, "a", ok))
	h := newHouse(t, w)
	publish(t, h.pub, w)
	p := boot(t, h, w)
	base := p.at("main")
	cx := p.stat("http.ingress.downstream_cx_total")
	l := startLoad(t, base+"/direct/a")
	c := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer c.CloseIdleConnections()
	for i := range 12 {
		b := upstream(t, fmt.Sprintf("b%d", i), ok)
		b.Credentials = []Credential{{Header: "authorization", Prefix: "Bearer ", Value: fmt.Sprint("k", i)}}
		with := w
		with.Servers = append(with.Servers[:1:1], b)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		rep, err := h.pub.Publish(ctx, render(t, with), func() {
			// What the swap promises: from here on the new server is reachable.
			if status, body, _ := post1(t, c, base+"/direct/"+b.Name); status != 200 || !strings.Contains(body, "result") {
				t.Errorf("%s right after its push: %d %s", b.Name, status, body)
			}
		})
		cancel()
		if err != nil || !rep.Acknowledged {
			t.Fatal(rep, err)
		}
		seen := l.calls.Load()
		lb := startLoad(t, base+"/direct/"+b.Name)
		ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second)
		// Before the swap the old server is still reachable, so its callers stop within it.
		rep, err = h.pub.Publish(ctx, render(t, w), func() {
			if l.calls.Load() == seen {
				t.Error("no load meanwhile")
			}
			if calls, failed := lb.end(); failed > 0 || calls == 0 {
				t.Errorf("%s: %d of %d calls failed: %v", b.Name, failed, calls, lb.first.Load())
			}
		})
		cancel()
		if err != nil || !rep.Acknowledged || len(rep.Drained) > 0 {
			t.Fatal(rep, err)
		}
	}
	calls, failed := l.end()
	t.Logf("%d calls beside 24 pushes", calls)
	if failed > 0 || calls == 0 {
		t.Errorf("%d of %d calls failed: %v", failed, calls, l.first.Load())
	}
	if n := p.stat("listener_manager.listener_modified") + p.stat("listener_manager.listener_in_place_updated"); n != 0 {
		t.Errorf("%d listeners were modified", n)
	}
	if n := p.stat("http.ingress.downstream_cx_total") - cx; n > 2+1+2*12 {
		t.Errorf("%d new connections", n)
	}
	for _, s := range []string{"cluster_manager.cds.update_rejected", "listener_manager.lds.update_rejected", "http.ingress.rds.ingress.update_rejected"} {
		if n := p.stat(s); n != 0 {
			t.Errorf("%s: %d", s, n)
		}
	}
	if n := p.stat("cluster_manager.active_clusters"); n != 6 { // a, xds, extproc, als, refuse, broker
		t.Errorf("%d clusters are left", n)
	}
}

// What Envoy refuses is told in Envoy's words, the old world stays, and the next good push arrives whole.
func TestRejected(t *testing.T) {
	dir := short(t)
	w := plain(dir, upstream(t, "a", ok))
	h := newHouse(t, w)
	publish(t, h.pub, w)
	p := boot(t, h, w)
	base := p.at("main")
	c := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer c.CloseIdleConnections()
	b := upstream(t, "b", ok)
	with := w
	with.Servers = append(with.Servers[:1:1], b)
	l := startLoad(t, base+"/direct/a")

	for name, spoil := range map[string]func(*Resources){
		"one of two clusters": func(r *Resources) { // Envoy takes the good one and refuses the other
			spoilt(r, &clusterv3.Cluster{Name: "s/bad", ClusterDiscoveryType: &clusterv3.Cluster_ClusterType{
				ClusterType: &clusterv3.Cluster_CustomClusterType{Name: "no.such.type"},
			}})
		},
		"the whole response": func(r *Resources) {
			spoilt(r, &clusterv3.Cluster{Name: "s/bad", ConnectTimeout: durationpb.New(-time.Second)})
		},
	} {
		r := render(t, with)
		spoil(r)
		r.digest = r.sum()
		// union() renders anew when servers were removed; here none is, so the spoilt world is what is sent.
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		_, err := h.pub.Publish(ctx, r, func() { t.Errorf("%s: swapped", name) })
		cancel()
		var rejected *Rejected
		if !errors.As(err, &rejected) {
			t.Fatalf("%s: %v", name, err)
		}
		t.Log(err)
		synced(t, h.pub) // back in the old world, known for certain
		if n := p.stat("cluster_manager.active_clusters"); n != 6 {
			t.Errorf("%s: %d clusters", name, n)
		}
		publish(t, h.pub, with)
		if status, body, _ := post1(t, c, base+"/direct/b"); status != 200 || !strings.Contains(body, "result") {
			t.Errorf("%s: after the next good push: %d %s", name, status, body)
		}
		publish(t, h.pub, w)
	}
	if calls, failed := l.end(); failed > 0 || calls == 0 {
		t.Errorf("%d of %d calls failed: %v", failed, calls, l.first.Load())
	}
	if n := p.stat("listener_manager.listener_modified"); n != 0 {
		t.Errorf("%d listeners were modified", n)
	}
}

// spoilt adds a cluster that Render would never make.
func spoilt(r *Resources, c *clusterv3.Cluster) {
	a, _ := anypb.New(c)
	r.byType[typeCluster][c.Name] = &discoveryv3.Resource{Name: c.Name, Version: "bad", Resource: a}
}

// A port that is taken is Envoy's refusal of the listener, and mended without a push once the port is free.
func TestPortTaken(t *testing.T) {
	dir := short(t)
	w := plain(dir, upstream(t, "a", ok))
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := sync.OnceFunc(func() { busy.Close() })
	defer free()
	w.Listeners[0].Address = busy.Addr().String()
	h := newHouse(t, w)
	publish(t, h.pub, w)
	config, err := Bootstrap(w)
	if err != nil {
		t.Fatal(err)
	}
	p := startEnvoy(t, w, config)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var rejected *Rejected
	if err := h.pub.Synced(ctx); !errors.As(err, &rejected) || !strings.Contains(err.Error(), "in use") {
		t.Fatal(err)
	}
	t.Log(rejected)
	free()
	eventually(t, "the listener is offered again", func() bool { return h.pub.Synced(ctx) == nil })
	c := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer c.CloseIdleConnections()
	post1(t, c, p.live().at("main")+"/direct/a")
}

// mcpgw goes away and another process takes its place: Envoy serves on and nothing is sent anew.
func TestControlPlaneRestarts(t *testing.T) {
	dir := short(t)
	w := plain(dir, upstream(t, "a", ok))
	h := newHouse(t, w)
	publish(t, h.pub, w)
	p := boot(t, h, w)
	base := p.at("main")
	h.stop()
	c := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer c.CloseIdleConnections()
	status, body, _ := post1(t, c, base+"/direct/a")
	if status != 503 || !strings.Contains(body, `"id":null`) {
		t.Errorf("with mcpgw gone: %d %s", status, body)
	}
	h2 := newHouse(t, w)
	publish(t, h2.pub, w)
	synced(t, h2.pub)
	if st := h2.pub.Stats(); st.Resources != 0 {
		t.Errorf("sent anew: %+v", st)
	}
	if status, body, _ := post1(t, c, base+"/direct/a"); status != 200 || !strings.Contains(body, "result") {
		t.Errorf("after the restart: %d %s", status, body)
	}
	if n := p.stat("listener_manager.listener_modified") + p.stat("listener_manager.total_listeners_draining"); n != 0 {
		t.Errorf("%d listeners changed", n)
	}
	if n := p.stat("cluster_manager.cluster_modified"); n != 0 {
		t.Errorf("%d clusters changed", n)
	}
	// And the new process can still change the world.
	w.Servers = append(w.Servers, upstream(t, "b", ok))
	publish(t, h2.pub, w)
	post1(t, c, base+"/direct/b")
}

// With 1,000 servers, a change that adds one sends the one cluster and the route tables.
func TestThousandServers(t *testing.T) {
	dir := short(t)
	w := plain(dir)
	for i := range 1000 {
		w.Servers = append(w.Servers, Server{Name: fmt.Sprintf("s%d", i), URL: "http://127.0.0.1:9/mcp"})
	}
	w.Servers = append(w.Servers, upstream(t, "a", ok))
	h := newHouse(t, w)
	publish(t, h.pub, w)
	p := boot(t, h, w)
	l := startLoad(t, p.at("main")+"/direct/a")
	first := h.pub.Stats()
	w.Servers = append(w.Servers, upstream(t, "one-more", ok))
	begin := time.Now()
	rep := publish(t, h.pub, w)
	if rep.Resources != 3 {
		t.Errorf("sent %d resources, want one cluster and two route tables", rep.Resources)
	}
	post1(t, http.DefaultClient, p.at("main")+"/direct/one-more")
	http.DefaultClient.CloseIdleConnections()
	r := render(t, w)
	t.Logf("whole world %d B; adding one of 1,000: %d B (cluster %d, ingress routes %d, egress routes %d) in %v",
		first.Bytes, rep.Bytes, proto.Size(r.byType[typeCluster]["s/one-more"]), proto.Size(r.byType[typeRoute][routesIngress]), proto.Size(r.byType[typeRoute][routesEgress]), time.Since(begin))
	if calls, failed := l.end(); failed > 0 || calls == 0 {
		t.Errorf("%d of %d calls failed: %v", failed, calls, l.first.Load())
	}
	if n := p.stat("listener_manager.listener_modified"); n != 0 {
		t.Errorf("%d listeners were modified", n)
	}
}

// Equal worlds give equal bytes, in whatever order they were put together.
func TestDeterministic(t *testing.T) {
	dir := short(t)
	w := full(t, dir)
	a := render(t, w)
	w.Servers[0], w.Servers[2] = w.Servers[2], w.Servers[0]
	w.Listeners[0], w.Listeners[1] = w.Listeners[1], w.Listeners[0]
	for range 20 {
		b := render(t, w)
		if a.Version() != b.Version() {
			t.Fatal("two versions of one world")
		}
		for typ, set := range a.byType {
			for n, r := range set {
				if !bytes.Equal(r.Resource.Value, b.byType[typ][n].Resource.Value) {
					t.Errorf("%s %s: bytes differ", typ, n)
				}
			}
		}
	}
}

// An Envoy that is too old is refused, with the remedy.
func TestVersion(t *testing.T) {
	for _, tc := range []struct {
		major, minor, patch uint32
		ok                  bool
	}{{1, 40, 0, true}, {1, 40, 3, true}, {1, 41, 0, true}, {2, 0, 0, true}, {1, 39, 9, false}, {0, 50, 0, false}, {0, 0, 0, false}} {
		n := &corev3.Node{UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corev3.BuildVersion{
			Version: &typev3.SemanticVersion{MajorNumber: tc.major, MinorNumber: tc.minor, Patch: tc.patch},
		}}}
		if err := checkVersion(n); (err == nil) != tc.ok {
			t.Errorf("%v: %v", tc, err)
		} else if err != nil && !strings.Contains(err.Error(), "make tools") {
			t.Errorf("no remedy in %q", err)
		}
	}
}
