package chaos

import (
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
