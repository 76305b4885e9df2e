package chaos

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/test/harness"
)

// TestShutdown: SIGTERM lets a call that streams finish, on either lane, ends the streams that have no end, refuses what comes later,
// and leaves nothing behind.
func TestShutdown(t *testing.T) {
	for _, lane := range []string{"direct", "broker"} {
		t.Run(lane, func(t *testing.T) {
			t.Parallel()
			b := harness.StartBackend(t, harness.Dual, nil)
			s := start(t, run, mainListener+servers(map[string]string{"a": b.URL})+stdioServer("child", ""))
			s.await(t, "a_slow")
			s.await(t, "child_echo")
			client, legacy := harness.NewModern(s.url, key), harness.OpenLegacy(t, s.url, key, harness.R20251125)
			listens := []*harness.Stream{
				legacy.Listen(t),
				client.Stream(t, "1", "subscriptions/listen", map[string]any{"notifications": map[string]any{"toolsListChanged": true}}),
			}
			params := map[string]any{"name": "a_slow", "arguments": map[string]any{"id": "long", "millis": 4500, "progress": true}, "_meta": progress()}
			caller := client
			if lane == "broker" {
				caller, params["_meta"] = legacy, map[string]any{"progressToken": "p"}
			}
			call := caller.Stream(t, "2", "tools/call", params)
			call.Until(t, "notifications/progress", patience)
			family := children(s.mcpgw.Pid())
			if len(family) != 2 {
				t.Fatalf("the children are %v", family)
			}

			s.mcpgw.Signal(t, syscall.SIGTERM)
			began := time.Now()
			for i, l := range listens {
				if err := l.End(t, patience); err != nil {
					t.Errorf("stream %d was cut: %v", i, err)
				}
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("the streams without end ended after %v", took)
			}
			fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			health := strings.TrimSuffix(s.url, "/mcp") + "/healthz"
			harness.Eventually(t, patience, "the health check fails", func() bool {
				p, err := get(fresh, health)
				return err == nil && p.status == 503
			})
			harness.Eventually(t, patience, "new connections are refused", func() bool {
				_, err := get(fresh, health)
				return err != nil
			})
			refused := time.Since(began)
			if got := string(call.Until(t, "", patience)); !strings.Contains(got, "long") {
				t.Errorf("the call ended with %s", got)
			}
			if err := call.End(t, patience); err != nil {
				t.Errorf("the call was cut: %v", err)
			}
			finished := time.Since(began)
			if status := s.mcpgw.Wait(t, patience); status != 0 {
				t.Errorf("exit status %d", status)
			}
			took := time.Since(began)
			if took > 10*time.Second {
				t.Errorf("it took %v, the drain time is 10 s", took)
			}
			for pid, line := range family {
				if !gone(pid) {
					t.Errorf("left behind: %s", line)
				}
			}
			for _, name := range []string{"mcpgw.sock", "broker.sock", "egress.sock", "s-child"} {
				if c, err := net.Dial("unix", filepath.Join(s.run, name)); err == nil {
					c.Close()
					t.Errorf("%s is still served", name)
				}
			}
			t.Logf("new connections refused after %v, the call done after %v, all gone after %v", refused.Round(time.Millisecond), finished.Round(time.Millisecond), took.Round(time.Millisecond))
		})
	}
}

// TestShutdownDeadline: a call that outlives the drain time is cut, and all the rest ends well.
func TestShutdownDeadline(t *testing.T) {
	b := harness.StartBackend(t, harness.Modern, nil)
	s := newSite(t, run)
	s.write(t, strings.Replace(s.settings(mainListener+servers(map[string]string{"a": b.URL})), "drain_time: 10s", "drain_time: 1s", 1))
	s.startAll(t)
	s.await(t, "a_slow")
	call := harness.NewModern(s.url, key).Stream(t, "1", "tools/call", map[string]any{
		"name": "a_slow", "arguments": map[string]any{"id": "long", "millis": 60000, "progress": true}, "_meta": progress(),
	})
	call.Until(t, "notifications/progress", patience)
	envoy := s.envoyChild()
	s.mcpgw.Signal(t, syscall.SIGINT)
	began := time.Now()
	if status := s.mcpgw.Wait(t, patience); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if !gone(envoy) {
		t.Error("Envoy is left behind")
	}
	if !strings.Contains(s.mcpgw.Stderr.String(), "1 requests had not ended") {
		t.Error("the log does not say that a call was cut")
	}
	harness.Eventually(t, patience, "the server hears that nobody waits", func() bool { return len(b.Cancelled()) == 1 })
}

// TestStartFails: what keeps the gateway from starting is said, with the remedy, and nothing stays.
func TestStartFails(t *testing.T) {
	b := harness.StartBackend(t, harness.Modern, nil)
	taken := strings.TrimPrefix(strings.TrimSuffix(b.URL, "/mcp"), "http://")
	old := filepath.Join(t.TempDir(), "envoy-old")
	if err := os.WriteFile(old, []byte("#!/bin/sh\necho 'envoy  version: abc/1.39.0/Clean/RELEASE/BoringSSL'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	good := mainListener + servers(map[string]string{"a": b.URL}) + stdioServer("child", "")
	for _, c := range []struct {
		name, text string
		env        []string
		says       []string
	}{
		{"port taken", strings.Replace(good, "127.0.0.1:0", taken, 1), nil, []string{taken, "taken"}},
		{"admin taken", good, nil, []string{"admin.address", taken}},
		{"no Envoy", good, []string{"ENVOY=/nowhere/envoy"}, []string{"/nowhere/envoy", "ENVOY"}},
		{"old Envoy", good, []string{"ENVOY=" + old}, []string{"1.39.0", "1.40", "make tools"}},
		{"not Envoy", good, []string{"ENVOY=/bin/true"}, []string{"/bin/true", "Envoy"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, run)
			text := s.settings(c.text)
			if c.name == "admin taken" {
				text = strings.Replace(text, fmt.Sprintf("unix:%s/a.sock", filepath.Dir(s.run)), taken, 1)
			}
			s.write(t, text)
			env := c.env
			if env == nil {
				env = []string{"ENVOY=" + harness.Tools(t).Envoy}
			}
			r := commandWith(t, s.dir, env, "run", "--config", s.file)
			if r.status != 1 || r.stdout != "" {
				t.Errorf("exit status %d, stdout %q", r.status, r.stdout)
			}
			lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
			for _, want := range c.says {
				if !strings.Contains(lines[len(lines)-1], want) {
					t.Errorf("the last line does not say %q: %s", want, r.stderr)
				}
			}
			for pid, line := range processes() {
				if strings.Contains(line, s.run) {
					t.Errorf("left behind: %d %s", pid, line)
				}
			}
		})
	}
}

// TestServeStops: beside an Envoy of someone else's, SIGTERM lets the calls in flight finish on either lane and ends the streams
// without end; until mcpgw is back everything is refused, over the same connections.
func TestServeStops(t *testing.T) {
	for _, f := range []front{ads, static} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			b := harness.StartBackend(t, harness.Dual, nil)
			s := start(t, f, mainListener+servers(map[string]string{"a": b.URL}))
			s.await(t, "a_slow")
			modern, legacy := harness.NewModern(s.url, key), harness.OpenLegacy(t, s.url, key, harness.R20251125)
			listen := legacy.Listen(t)
			params := func(meta map[string]any) map[string]any {
				return map[string]any{"name": "a_slow", "arguments": map[string]any{"id": "long", "millis": 2000, "progress": true}, "_meta": meta}
			}
			calls := []*harness.Stream{
				modern.Stream(t, "1", "tools/call", params(progress())),
				legacy.Stream(t, "2", "tools/call", params(map[string]any{"progressToken": "p"})),
			}
			for _, c := range calls {
				c.Until(t, "notifications/progress", patience)
			}
			b.Forget()
			calm := s.undisturbed(t)
			l := startLoad(t, s.url, "a_echo")
			l.await(t, 20, "ok")
			s.mcpgw.Signal(t, syscall.SIGTERM)
			if err := listen.End(t, patience); err != nil {
				t.Errorf("the stream without end was cut: %v", err)
			}
			for i, c := range calls {
				if got := string(c.Until(t, "", patience)); !strings.Contains(got, "long") {
					t.Errorf("call %d ended with %s", i, got)
				}
			}
			if status := s.mcpgw.Wait(t, patience); status != 0 {
				t.Errorf("exit status %d", status)
			}
			l.await(t, 20, "refused")
			s.startMcpgw(t)
			l.await(t, 50, "ok")
			l.stop()
			l.only(t, "ok", "denied", "refused")
			l.agree(t, b)
			calm()
			t.Logf("%v; the gap was %v", l.kinds(), l.gap().Round(time.Millisecond))
		})
	}
}
