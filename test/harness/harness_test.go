package harness

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/mcpgw/mcpgw/test/collector"
)

func TestBackendSpeaksItsEras(t *testing.T) {
	for _, c := range []struct {
		era       Era
		name      string
		revisions []string
	}{
		{Modern, "modern", []string{R20260728}},
		{Legacy, "legacy", []string{R20251125, R20250618, R20250326}},
		{Dual, "dual", []string{R20260728, R20251125}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := StartBackend(t, c.era, nil)
			for _, revision := range c.revisions {
				t.Run(revision, func(t *testing.T) {
					client := NewModern(b.URL, "")
					if revision != R20260728 {
						client = OpenLegacy(t, b.URL, "", revision)
						if client.Session == "" {
							t.Error("no session id")
						}
					}
					want := []string{"add", "big", "echo", "echo_b", "fail", "slow"}
					if got := client.List(t, "tools/list"); !cmp.Equal(got, want) {
						t.Errorf("tools: %v", cmp.Diff(want, got))
					}
					b.Forget()
					if got := client.Tool(t, "echo", map[string]any{"text": "häh"}).Text(t); got != "häh" {
						t.Errorf("echo returned %q", got)
					}
					calls := b.Await(t, 1, "tools/call", time.Second)
					if calls[0].Name != "echo" || calls[0].Header.Get("MCP-Protocol-Version") != revision {
						t.Errorf("recorded %+v", calls[0])
					}
					if got := client.Call(t, "resources/read", map[string]any{"uri": "test://item/7"}).Result(t, nil); !strings.Contains(string(got), "text of test://item/7") {
						t.Errorf("read %s", got)
					}
					if e := client.Tool(t, "nothing", nil).Failure(t); e.Code != -32602 {
						t.Errorf("an unknown tool gets %+v", e)
					}
				})
			}
		})
	}
}

func TestBackendStreamsProgressAndSeesCancellation(t *testing.T) {
	b := StartBackend(t, Modern, nil)
	client := NewModern(b.URL, "")
	meta := map[string]any{metaVersion: R20260728, metaCapabilities: map[string]any{}, "progressToken": "p"}
	s := client.Stream(t, `"one"`, "tools/call", map[string]any{
		"name": "slow", "arguments": map[string]any{"id": "it", "millis": 60_000, "progress": true}, "_meta": meta,
	})
	s.Until(t, "notifications/progress", 5*time.Second)
	s.Close()
	select {
	case id := <-b.Cancelled():
		if id != "it" {
			t.Errorf("cancelled %q", id)
		}
	case <-time.After(5 * time.Second):
		t.Error("the call was not cancelled")
	}
}

func TestBackendMisbehaves(t *testing.T) {
	b := StartBackend(t, Modern, nil)
	client := NewModern(b.URL, "")
	params := map[string]any{"name": "echo", "arguments": map[string]any{"text": "x"}}
	try := func() (*Reply, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		return client.TryCall(ctx, "1", "tools/call", params)
	}
	for _, c := range []struct {
		name   string
		fault  Fault
		status int // 0: no answer at all
		cut    bool
	}{
		{"reset", Reset, 0, false},
		{"hang", Hang, 0, false},
		{"html", HTML, 200, false},
		{"redirect", Redirect, 302, false},
		{"unauthorized", Unauthorized, 401, false},
		{"forbidden", Forbidden, 403, false},
		{"failing", Failing, 500, false},
		{"unavailable", Unavailable, 503, false},
		{"cut JSON", CutJSON, 200, true},
		{"cut stream", CutSSE, 200, true},
		{"ended stream", EndSSE, 200, false},
		{"not JSON", NotJSON, 200, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.Fail(c.fault, "tools/call")
			defer b.Heal()
			reply, err := try()
			if (err != nil) != (c.status == 0) {
				t.Fatalf("got %+v, %v", reply, err)
			}
			if err == nil && (reply.Status != c.status || (reply.Cut != nil) != c.cut) {
				t.Errorf("got status %d, cut %v", reply.Status, reply.Cut)
			}
			if names := client.List(t, "tools/list"); len(names) == 0 {
				t.Error("another method failed too")
			}
		})
	}
	t.Run("down and up", func(t *testing.T) {
		b.Down()
		if reply, err := try(); err == nil {
			t.Fatalf("got %+v", reply)
		}
		b.Up(t)
		client.Call(t, "tools/call", params).Result(t, nil)
	})
}

func TestUntouchedSeesACall(t *testing.T) {
	b := StartBackend(t, Modern, nil)
	client := NewModern(b.URL, "")
	client.List(t, "tools/list")
	b.Untouched(t)
	client.Tool(t, "echo", map[string]any{"text": "x"})
	var fake failures
	b.Untouched(&fake)
	if fake.errors != 1 {
		t.Errorf("a call was not seen: %d failures", fake.errors)
	}
}

// failures is a test that may fail without failing the one it is used in.
type failures struct {
	testing.TB
	errors int
}

func (f *failures) Helper()               {}
func (f *failures) Errorf(string, ...any) { f.errors++ }

func TestEverythingServersAndEraProxy(t *testing.T) {
	url := StartDualEra(t)
	if got := NewModern(url, "").Tool(t, "test_simple_text", nil).Text(t); got == "" {
		t.Error("no text from the stateless server")
	}
	client := OpenLegacy(t, url, "", R20251125)
	if got := client.Tool(t, "test_simple_text", nil).Text(t); got == "" {
		t.Error("no text from the stateful server")
	}
	if reply := client.Close(t); reply.Status != http.StatusNoContent {
		t.Errorf("DELETE of a session: status %d", reply.Status)
	}
	if reply := client.Call(t, "tools/list", nil); reply.Status != http.StatusNotFound {
		t.Errorf("a deleted session: status %d", reply.Status)
	}
}

func TestServerEverything(t *testing.T) {
	client := OpenLegacy(t, StartServerEverything(t), "", R20251125)
	if names := client.List(t, "tools/list"); !slices.Contains(names, "echo") {
		t.Errorf("tools: %v", names)
	}
}

func TestProcess(t *testing.T) {
	sh := func(t *testing.T, script string) *Process {
		return Start(t, Command{Path: "/bin/sh", Args: []string{"-c", script}})
	}
	t.Run("status and output", func(t *testing.T) {
		p := sh(t, "echo out; echo err >&2; exit 3")
		if status := p.Wait(t, 5*time.Second); status != 3 {
			t.Errorf("status %d", status)
		}
		if got := p.Stdout.Lines(); !cmp.Equal(got, []string{"out"}) || p.Stderr.String() != "err\n" {
			t.Errorf("output %q, %q", p.Stdout, p.Stderr)
		}
	})
	t.Run("stopped in order", func(t *testing.T) {
		p := sh(t, "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done")
		p.Stdout.Await(t, "ready", 5*time.Second)
		if status := p.Stop(t); status != 0 {
			t.Errorf("status %d", status)
		}
	})
	t.Run("a grandchild left behind is found and killed", func(t *testing.T) {
		p := sh(t, "sleep 300 & echo $!; exit 0")
		p.Wait(t, 5*time.Second)
		var fake failures
		p.end(&fake)
		if fake.errors != 1 {
			t.Errorf("%d failures", fake.errors)
		}
		Eventually(t, 5*time.Second, "the group is gone", func() bool { return !populated(p.Pid()) })
	})
}

func TestRepositoryIsACopy(t *testing.T) {
	dir := Repository(t)
	if dir == Tools(t).Repository {
		t.Fatal("the shared repository itself")
	}
	if _, err := os.Stat(filepath.Join(dir, ".git", "HEAD")); err != nil {
		t.Error(err)
	}
}

func TestSecureBackend(t *testing.T) {
	authority, other := NewAuthority(t), NewAuthority(t)
	for _, c := range []struct {
		name  string
		shows Certificate
		fault string // in the client's error; "" for none
	}{
		{"good", authority.Issue(t, "127.0.0.1", time.Now().Add(time.Hour)), ""},
		{"expired", authority.Issue(t, "127.0.0.1", time.Now().Add(-time.Hour)), "expired"},
		{"misnamed", authority.Issue(t, "elsewhere.invalid", time.Now().Add(time.Hour)), "IP SANs"},
		{"untrusted", other.Issue(t, "127.0.0.1", time.Now().Add(time.Hour)), "unknown authority"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := StartSecureBackend(t, Modern, c.shows, authority)
			pool := x509.NewCertPool()
			pool.AddCert(authority.cert)
			mine := authority.Issue(t, "client.invalid", time.Now().Add(time.Hour))
			client := http.Client{Transport: &http.Transport{
				TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{mine.TLS}, MinVersion: tls.VersionTLS12},
			}}
			defer client.CloseIdleConnections()
			response, err := client.Get(b.URL)
			if err == nil {
				_ = response.Body.Close()
			}
			if (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
				t.Errorf("got %v, want %q", err, c.fault)
			}
		})
	}
}

func TestCollectorTakesSpans(t *testing.T) {
	c, address := StartCollector(t)
	exporter, err := otlptracegrpc.New(context.Background(), otlptracegrpc.WithEndpoint(address), otlptracegrpc.WithInsecure())
	if err != nil {
		t.Fatal(err)
	}
	provider := trace.NewTracerProvider(trace.WithSyncer(exporter))
	_, span := provider.Tracer("test").Start(context.Background(), "hello")
	span.End()
	if err := provider.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	spans := AwaitSpans(t, c, 5*time.Second, func(s []collector.Span) bool { return len(s) == 1 })
	if got := spans[0]; got.Name != "hello" || got.TraceID != span.SpanContext().TraceID().String() || got.ParentID != "" {
		t.Errorf("took %+v", got)
	}
}

func TestDoSendsExactlyWhatIsAsked(t *testing.T) {
	b := StartBackend(t, Modern, nil)
	b.Fail(Unavailable)
	Do(t, http.MethodPost, b.URL, "key", []byte("x"), "Mcp-Name: a", "Mcp-Name: b", "Accept:", "Host: elsewhere", "X-Empty:")
	got := b.Requests()[0]
	if got.Host != "elsewhere" || string(got.Body) != "x" {
		t.Errorf("recorded %+v", got)
	}
	for name, want := range map[string][]string{
		"Mcp-Name": {"a", "b"}, "Accept": nil, "Content-Type": {"application/json"}, "Authorization": {"Bearer key"},
		"Accept-Encoding": nil, "X-Empty": {""},
	} {
		if !cmp.Equal(got.Header[name], want) {
			t.Errorf("%s: %q, want %q", name, got.Header[name], want)
		}
	}
}

func TestEventReader(t *testing.T) {
	text := ": hello\r\n\r\nid: 1\nevent: message\ndata: a\ndata:b\n\n\n\nretry: 5\ndata\n\ndata: cut"
	var got []Event
	for r := newEvents(strings.NewReader(text)); ; {
		e, err := r.next()
		if err != nil {
			break
		}
		got = append(got, e)
	}
	want := []Event{{Comment: "hello"}, {ID: "1", Name: "message", Data: "a\nb"}, {Retry: "5"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
