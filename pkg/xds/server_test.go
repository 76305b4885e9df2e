package xds

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Whatever Envoy takes or refuses, wholly or in part, in the end it has the wanted world and nothing else.
func TestConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wildcard := rapid.Bool().Draw(t, "wildcard")
		names := []string{"a", "b", "c", "d"}
		sub := &subscription{wildcard: wildcard, names: map[string]bool{}, has: map[string]string{}}
		if !wildcard {
			for _, n := range names {
				sub.names[n] = true
			}
		}
		have := map[string]string{}
		apply := func(f *flight, only func() bool) {
			for n, v := range f.sent {
				if only() {
					have[n] = v
				}
			}
			for _, n := range f.removed {
				if only() {
					delete(have, n)
				}
			}
		}
		all := func() bool { return true }
		want := resourceSet{}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			want = resourceSet{}
			for _, n := range names {
				if v := rapid.IntRange(0, 2).Draw(t, n); v > 0 {
					want[n] = &discoveryv3.Resource{Name: n, Version: fmt.Sprint(v)}
				}
			}
			_, f := sub.difference(want)
			if f == nil {
				continue
			}
			sub.flight, sub.answered = f, true
			taken := rapid.Bool().Draw(t, "taken")
			if taken {
				apply(f, all)
			} else {
				apply(f, func() bool { return rapid.Bool().Draw(t, "part") })
			}
			sub.settle(taken)
		}
		if _, f := sub.difference(want); f != nil {
			sub.flight, sub.answered = f, true
			apply(f, all)
			sub.settle(true)
		}
		if _, f := sub.difference(want); f != nil {
			t.Fatalf("still something to send: %+v", f)
		}
		wanted := map[string]string{}
		for n, r := range want {
			wanted[n] = r.Version
		}
		if !wildcard { // what is gone from a named type Envoy drops by itself
			maps.DeleteFunc(have, func(n, _ string) bool { return want[n] == nil })
		}
		if !maps.Equal(have, wanted) {
			t.Fatalf("envoy has %v, wanted %v", have, wanted)
		}
	})
}

// An Envoy that hangs is waited for only so long; it catches up later.
func TestHungEnvoy(t *testing.T) {
	dir := short(t)
	w := plain(dir, upstream(t, "a", ok))
	h := newHouse(t, w)
	publish(t, h.pub, w)
	p := boot(t, h, w)
	h.pub.patience = 200 * time.Millisecond
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	w.Servers = append(w.Servers, upstream(t, "b", ok))
	r := render(t, w)

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := h.pub.Publish(ctx, r, func() { t.Error("swapped") }); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	swapped := false
	rep, err := h.pub.Publish(t.Context(), r, func() { swapped = true })
	if err != nil || rep.Acknowledged || !swapped || rep.Envoys != 1 {
		t.Errorf("%+v, swapped %v, %v", rep, swapped, err)
	}
	if st := h.pub.Stats(); st.Applied != 0 || st.Connected != 1 || st.Version != r.Version() {
		t.Errorf("%+v", st)
	}
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	synced(t, h.pub)
	if st := h.pub.Stats(); st.Applied != 1 || st.Rejected != 0 {
		t.Errorf("%+v", st)
	}
}

// An Envoy that was killed and started again gets the present world.
func TestEnvoyRestarts(t *testing.T) {
	dir := short(t)
	w := plain(dir, upstream(t, "a", ok))
	h := newHouse(t, w)
	publish(t, h.pub, w)
	p := boot(t, h, w)
	_ = p.cmd.Process.Kill()
	<-p.gone
	eventually(t, "the loss is seen", func() bool { return h.pub.Stats().Connected == 0 })
	w.Servers = append(w.Servers, upstream(t, "b", ok))
	publish(t, h.pub, w) // with none connected, at once
	p = boot(t, h, w)
	c := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer c.CloseIdleConnections()
	post1(t, c, p.at("main")+"/direct/b")
}

// The wire tells an old Envoy, and one that asks for the other variant, what to do.
func TestTurnedAway(t *testing.T) {
	dir := short(t)
	w := plain(dir)
	h := newHouse(t, w)
	conn, err := grpc.NewClient("unix:"+w.Sockets.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := discoveryv3.NewAggregatedDiscoveryServiceClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	old, err := client.DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_ = old.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeCluster, Node: &corev3.Node{Id: "old", UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{
		UserAgentBuildVersion: &corev3.BuildVersion{Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 39}},
	}}})
	if _, err := old.Recv(); grpcstatus.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "1.39.0") {
		t.Error(err)
	}
	if st := h.pub.Stats(); st.Refused != 1 || st.Connected != 0 {
		t.Errorf("%+v", st)
	}
	sotw, err := client.StreamAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sotw.Recv(); grpcstatus.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "DELTA_GRPC") {
		t.Error(err)
	}
}
