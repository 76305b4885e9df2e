package chaos

import (
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/test/harness"
)

// TestMcpgwKilledBesideEnvoy: while mcpgw is away everything is refused and nothing passes; when it is back traffic goes on over the
// same connections.
func TestMcpgwKilledBesideEnvoy(t *testing.T) {
	for _, f := range []front{ads, static} {
		t.Run(string(f), func(t *testing.T) {
			b := harness.StartBackend(t, harness.Modern, nil)
			s := start(t, f, mainListener+servers(map[string]string{"a": b.URL}))
			s.await(t, "a_echo")
			calm := s.undisturbed(t)
			l := startLoad(t, s.url, "a_echo")
			l.await(t, 50, "ok")
			s.mcpgw.Kill(t)
			l.await(t, 50, "refused")
			s.startMcpgw(t)
			l.await(t, 100, "ok")
			l.stop()
			l.only(t, "ok", "denied", "refused")
			l.agree(t, b)
			if n := l.dials.Load(); n != workers {
				t.Errorf("%d connections were made by %d workers", n, workers)
			}
			calm()
			s.clean(t)
			t.Logf("%v; the gap was %v", l.kinds(), l.gap().Round(time.Millisecond))
		})
	}
}

// TestMcpgwStopped: an mcpgw that does not answer for 5 s costs what was asked meanwhile, and nothing else.
func TestMcpgwStopped(t *testing.T) {
	for _, f := range fronts {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			b := harness.StartBackend(t, harness.Modern, nil)
			s := start(t, f, mainListener+servers(map[string]string{"a": b.URL}))
			s.await(t, "a_echo")
			calm := s.undisturbed(t)
			l := startLoad(t, s.url, "a_echo")
			l.await(t, 50, "ok")
			s.mcpgw.Signal(t, syscall.SIGSTOP)
			stopped := time.Now()
			l.await(t, workers, "refused") // each of them after 3 s
			<-time.After(time.Until(stopped.Add(5 * time.Second)))
			s.mcpgw.Signal(t, syscall.SIGCONT)
			l.await(t, 100, "ok")
			l.stop()
			l.only(t, "ok", "denied", "refused")
			l.agree(t, b)
			for _, a := range l.all() {
				if took := a.ended.Sub(a.began); a.kind == "refused" && (a.status != 504 || took > 4*time.Second) {
					t.Errorf("refused with %d after %v", a.status, took)
				}
			}
			if n := l.dials.Load(); n != workers {
				t.Errorf("%d connections were made by %d workers", n, workers)
			}
			calm()
			t.Logf("%v; the gap was %v, the slowest call took %v", l.kinds(), l.gap().Round(time.Millisecond), l.slowest().Round(time.Millisecond))
		})
	}
}

// TestMcpgwKilledWithItsEnvoy: under run nothing outlives mcpgw.
func TestMcpgwKilledWithItsEnvoy(t *testing.T) {
	b := harness.StartBackend(t, harness.Modern, nil)
	s := start(t, run, mainListener+servers(map[string]string{"a": b.URL})+stdioServer("child", ""))
	s.await(t, "a_echo")
	s.await(t, "child_echo")
	l := startLoad(t, s.url, "a_echo")
	l.await(t, 50, "ok")
	family := children(s.mcpgw.Pid())
	if len(family) != 2 {
		t.Fatalf("the children are %v, want Envoy and one server", family)
	}
	if err := syscall.Kill(s.mcpgw.Pid(), syscall.SIGKILL); err != nil { // mcpgw alone
		t.Fatal(err)
	}
	s.mcpgw.Wait(t, patience)
	died := time.Now()
	for pid, line := range family {
		harness.Eventually(t, patience, "gone: "+line, func() bool { return gone(pid) })
	}
	t.Logf("all gone %v after mcpgw", time.Since(died).Round(time.Millisecond))
	l.stop()
	l.agree(t, b)
	if _, err := os.Stat(s.run); err != nil {
		t.Error(err) // a configured directory stays
	}
}

// TestEnvoyKilled: under run Envoy is started again and sessions go on.
func TestEnvoyKilled(t *testing.T) {
	b := harness.StartBackend(t, harness.Dual, nil)
	s := start(t, run, fmt.Sprintf("\nlisteners: [{ name: main, address: %q }]\n", freePort(t))+servers(map[string]string{"a": b.URL})+stdioServer("child", ""))
	s.await(t, "a_echo")
	s.await(t, "child_echo")
	legacy := harness.OpenLegacy(t, s.url, key, harness.R20251125)
	if got := legacy.Tool(t, "a_echo", map[string]any{"text": "before"}).Text(t); got != "before" {
		t.Fatal(got)
	}
	pid := s.envoyChild()
	for range 2 { // the second time in a row it takes a little longer
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		harness.Eventually(t, patience, "another Envoy is started", func() bool { now := s.envoyChild(); return now != 0 && now != pid })
		pid = s.envoyChild()
		s.live(t)
		t.Logf("Envoy was live again after %v", time.Since(killed).Round(time.Millisecond))
		harness.Eventually(t, patience, "mcpgw is ready", func() bool {
			p, err := get(s.client, "http://mcpgw/readyz")
			return err == nil && p.status == 200
		})
		if got := legacy.Tool(t, "a_echo", map[string]any{"text": "after"}).Text(t); got != "after" {
			t.Error(got)
		}
		if got := harness.NewModern(s.url, key).Tool(t, "child_echo", map[string]any{"text": "child"}).Text(t); got != "child" {
			t.Error(got)
		}
	}
	s.clean(t)
	if s.mcpgw.Stop(t) != 0 {
		t.Error("mcpgw did not end well")
	}
	if !gone(pid) {
		t.Error("Envoy is still there")
	}
}

// freePort is an address that nobody listens on. Only a test that needs the same port twice takes one.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
