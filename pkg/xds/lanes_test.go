package xds

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/anypb"
)

// The broker's lane: it gets the ticket, a direct server does not, and its headers come back whole.
func TestBroker(t *testing.T) {
	dir := short(t)
	seen := make(chan http.Header, 2)
	echo := func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Clone()
		w.Header().Set("mcp-session-id", "abc")
		ok(w, r)
	}
	w := plain(dir, upstream(t, "a", echo))
	w.Listeners[0].ClientTrace = ClientTraceLink
	l, err := net.Listen("unix", w.Sockets.Broker)
	if err != nil {
		t.Fatal(err)
	}
	b := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(echo)}}
	b.Start()
	t.Cleanup(b.Close)
	h := newHouse(t, w)
	publish(t, h.pub, w)
	p := boot(t, h, w)
	c := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer c.CloseIdleConnections()
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	for _, tc := range []struct{ path, ticket, session, trace string }{
		{"/broker", "ticket", "abc", parent},
		{"/direct/a", "", "", ""},
	} {
		_, _, header := post1(t, c, p.at("main")+tc.path, "traceparent", parent, "authorization", "Bearer x", HeaderClientTrace, "forged")
		got := <-seen
		if got.Get(HeaderExchange) != tc.ticket || got.Get(HeaderClientTrace) != tc.trace || header.Get("mcp-session-id") != tc.session {
			t.Errorf("%s: the server saw %v, the client %v", tc.path, got, header)
		}
		for _, n := range []string{"authorization", "traceparent", HeaderBackend, "x-forwarded-for"} {
			if v := got.Get(n); v != "" {
				t.Errorf("%s: %s: %s", tc.path, n, v)
			}
		}
		if v, _ := h.judge.head.Load(HeaderClientTrace); v != parent {
			t.Errorf("ext_proc was told of the client's trace %v", v)
		}
	}
	h.judge.head.Clear()
	post1(t, c, p.at("main")+"/direct/a")
	<-seen
	if v, ok := h.judge.head.Load(HeaderClientTrace); ok {
		t.Errorf("without a client's trace ext_proc is told %q", v)
	}
}

// A session stays on the host that began it, and ends with it: never is it another host's.
func TestSticky(t *testing.T) {
	dir := short(t)
	var hosts []*httptest.Server
	for i := range 2 {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("mcp-session-id", fmt.Sprint("s", i))
			w.Header().Set("x-host", fmt.Sprint(i))
			w.Header().Set("x-got", r.Header.Get("mcp-session-id"))
			ok(w, r)
		}))
		t.Cleanup(s.Close)
		hosts = append(hosts, s)
	}
	w := plain(dir, Server{Name: "many", URL: hosts[0].URL + "/mcp", Sticky: true}, Server{Name: "loose", URL: hosts[0].URL + "/mcp"})
	r := render(t, w)
	for _, name := range []string{"s/many", "s/loose"} { // a second address, as DNS would give it
		var c clusterv3.Cluster
		if err := r.byType[typeCluster][name].Resource.UnmarshalTo(&c); err != nil {
			t.Fatal(err)
		}
		u, _ := url.Parse(hosts[1].URL)
		var port uint32
		_, _ = fmt.Sscan(u.Port(), &port)
		more := load(name, socketAddress(u.Hostname(), port), "")
		c.LoadAssignment.Endpoints[0].LbEndpoints = append(c.LoadAssignment.Endpoints[0].LbEndpoints, more.Endpoints[0].LbEndpoints...)
		a, _ := anypb.New(&c)
		r.byType[typeCluster][name] = &discoveryv3.Resource{Name: name, Version: "two", Resource: a}
	}
	r.digest = r.sum()
	h := newHouse(t, w)
	if _, err := h.pub.Publish(t.Context(), r, nil); err != nil {
		t.Fatal(err)
	}
	boot(t, h, w)
	e := &http.Client{Transport: unixTransport(w.Sockets.Egress), Timeout: 10 * time.Second}
	defer e.CloseIdleConnections()
	call := func(server, session string) (int, http.Header) {
		status, _, header := post1(t, e, "http://x/", HeaderEgressToken, token(), HeaderBackend, Backend(server), "mcp-session-id", session)
		return status, header
	}
	_, first := call("many", "")
	session, host := first.Get("mcp-session-id"), first.Get("x-host")
	for range 10 {
		if status, got := call("many", session); status != 200 || got.Get("x-host") != host || got.Get("x-got") != "s"+host {
			t.Errorf("%d on host %s with session %q, want host %s", status, got.Get("x-host"), got.Get("x-got"), host)
		}
	}
	seen := map[string]bool{}
	for range 10 {
		_, got := call("loose", "plain")
		seen[got.Get("x-host")] = true
		if got.Get("x-got") != "plain" || strings.Contains(got.Get("mcp-session-id"), "UV") {
			t.Errorf("a server without stickiness saw %v", got)
		}
	}
	if len(seen) != 2 {
		t.Errorf("calls went to %v", seen)
	}
	hosts[host[0]-'0'].Close()
	if status, got := call("many", session); status != 503 || got.Get(HeaderLocal) == "" {
		t.Errorf("with its host gone: %d %v", status, got)
	}
}

// Telemetry is switched on and off by a push, in which the collector's cluster comes first and goes last.
func TestTelemetrySwitch(t *testing.T) {
	dir := short(t)
	w := plain(dir, upstream(t, "a", ok))
	w.Telemetry = Telemetry{}
	h := newHouse(t, w)
	publish(t, h.pub, w)
	p := boot(t, h, w)
	c := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer c.CloseIdleConnections()
	for _, tel := range []Telemetry{{Guard: true}, {OTLP: "127.0.0.1:9", Sampling: 100, AccessLog: true, Guard: true}, {}} {
		w.Telemetry = tel
		rep := publish(t, h.pub, w)
		if len(rep.Drained) == 0 {
			t.Error("a changed listener was not told")
		}
		if status, body, _ := post1(t, c, p.at("main")+"/direct/a"); status != 200 || !strings.Contains(body, "result") {
			t.Errorf("%+v: %d %s", tel, status, body)
		}
	}
}

// A body that does not arrive in time is refused as JSON-RPC, and so is one that grows beyond the limit without saying so.
func TestSlowAndEndlessUpload(t *testing.T) {
	dir := short(t)
	w := plain(dir, upstream(t, "a", ok))
	w.Limits = Limits{Upload: 300 * time.Millisecond, Body: 300_000}
	h := newHouse(t, w)
	publish(t, h.pub, w)
	p := boot(t, h, w)
	for _, tc := range []struct{ what, head, body, want string }{
		{"slow", "content-length: 100\r\n", "{", `408 Request Timeout`},
		{"endless", "transfer-encoding: chunked\r\n", "50000\r\n" + strings.Repeat("x", 0x50000) + "\r\n", "413 Payload Too Large"},
	} {
		c, err := net.Dial("tcp", strings.TrimPrefix(p.at("main"), "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(c, "POST /direct/a HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n%s\r\n%s", tc.head, tc.body)
		b, _ := io.ReadAll(c)
		c.Close()
		if !strings.HasPrefix(string(b), "HTTP/1.1 "+tc.want) || !strings.Contains(string(b), `"id":null,"error":{"code":-32600,`) {
			t.Errorf("%s: %s", tc.what, b)
		}
	}
}

// What a client says of itself reaches the servers that ask for it, and no other; credentials reach none.
func TestForwardHeaders(t *testing.T) {
	dir := short(t)
	seen := make(chan http.Header, 1)
	see := func(w http.ResponseWriter, r *http.Request) { seen <- r.Header.Clone(); ok(w, r) }
	asks := upstream(t, "asks", see)
	asks.ForwardHeaders = []string{"Baggage", "x-forwarded-for", "Cookie"}
	w := plain(dir, asks, upstream(t, "other", see))
	h := newHouse(t, w)
	publish(t, h.pub, w)
	p := boot(t, h, w)
	c := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer c.CloseIdleConnections()
	for server, want := range map[string]string{"asks": "a=1", "other": ""} {
		post1(t, c, p.at("main")+"/direct/"+server, "baggage", "a=1", "x-forwarded-for", "a=1", "origin", "http://x", "cookie", "a=1", "referer", "http://x")
		got := <-seen
		for n, want := range map[string]string{"baggage": want, "x-forwarded-for": want, "origin": "", "cookie": "", "referer": ""} {
			if got.Get(n) != want {
				t.Errorf("%s: %s is %q, want %q", server, n, got.Get(n), want)
			}
		}
	}
}

// The client's address reaches ext_proc: the peer's, or what as many proxies as are trusted say of it.
func TestClientAddress(t *testing.T) {
	dir := short(t)
	w := plain(dir, upstream(t, "a", ok))
	sock := filepath.Join(dir, "in")
	w.Listeners = append(w.Listeners, Listener{Name: "hop", Address: "127.0.0.1:0", TrustedHops: 1}, Listener{Name: "sock", Address: sock},
		Listener{Name: "sockhop", Address: sock + "hop", TrustedHops: 1})
	config, err := Static(w)
	if err != nil {
		t.Fatal(err)
	}
	h := newHouse(t, w)
	p := startEnvoy(t, w, config).live()
	tcp := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	defer tcp.CloseIdleConnections()
	for _, tc := range []struct {
		listener, forwarded, want string
	}{
		{"main", "", "127.0.0.1"},
		{"main", "203.0.113.9", "127.0.0.1"},
		{"hop", "203.0.113.9", "203.0.113.9"},
		{"hop", "198.51.100.1, 203.0.113.9", "203.0.113.9"},
		{"hop", "2001:db8::1", "2001:db8::1"},
		{"hop", "unknown", "127.0.0.1"},
		{"hop", "", "127.0.0.1"},
		{"sock", "", sock}, // a peer without an address: what Envoy says is the listener's own path
		{"sock", "203.0.113.9", sock},
		{"sockhop", "203.0.113.9", "203.0.113.9"},
		{"sockhop", "", sock + "hop"},
	} {
		c, url := tcp, ""
		if suffix, ok := strings.CutPrefix(tc.listener, "sock"); ok {
			c, url = &http.Client{Transport: unixTransport(sock + suffix), Timeout: 10 * time.Second}, "http://x"
			defer c.CloseIdleConnections()
		} else {
			url = p.at(tc.listener)
		}
		var header []string
		if tc.forwarded != "" {
			header = []string{"x-forwarded-for", tc.forwarded}
		}
		status, _, _ := post1(t, c, url+"/direct/a", header...)
		if got := h.judge.address.Load(); status != 200 || got != tc.want {
			t.Errorf("%s with X-Forwarded-For %q: %d, address %q, want %q", tc.listener, tc.forwarded, status, got, tc.want)
		}
	}
}

// A server cannot tell from a request's headers which lane it came by.
func TestLanesLookAlike(t *testing.T) {
	dir := short(t)
	seen := make(chan http.Header, 1)
	w := plain(dir, upstream(t, "a", func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Clone()
		ok(w, r)
	}))
	config, err := Static(w)
	if err != nil {
		t.Fatal(err)
	}
	newHouse(t, w)
	p := startEnvoy(t, w, config).live()
	c := &http.Client{Transport: &http.Transport{DisableCompression: true}, Timeout: 10 * time.Second}
	e := &http.Client{Transport: unixTransport(w.Sockets.Egress), Timeout: 10 * time.Second}
	e.Transport.(*http.Transport).DisableCompression = true
	defer c.CloseIdleConnections()
	defer e.CloseIdleConnections()
	post1(t, c, p.at("main")+"/direct/a", "mcp-method", "tools/call")
	direct := <-seen
	post1(t, e, "http://x/", HeaderEgressToken, token(), HeaderBackend, Backend("a"), HeaderDecision, "d", "mcp-method", "tools/call")
	broker := <-seen
	for _, h := range []http.Header{direct, broker} {
		if h.Get("x-request-id") == "" || h.Get("mcp-method") == "" {
			t.Errorf("headers are missing: %v", h)
		}
		h.Del("x-request-id")
	}
	if diff := cmp.Diff(direct, broker); diff != "" {
		t.Errorf("direct (-) and broker (+) differ:\n%s", diff)
	}
}

// The broker learns at once that an answer was cut, and mcpgw gets records of failures only.
func TestEgressFailures(t *testing.T) {
	dir := short(t)
	const head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
	w := plain(dir, upstream(t, "good", ok),
		raw(t, "cut", head+"transfer-encoding: chunked\r\n\r\n5\r\ndata:\r\n"),
		raw(t, "down", reply("502 Bad Gateway", "text/html", "down")))
	config, err := Static(w)
	if err != nil {
		t.Fatal(err)
	}
	h := newHouse(t, w)
	startEnvoy(t, w, config).live()
	e := &http.Client{Transport: unixTransport(w.Sockets.Egress), Timeout: 10 * time.Second}
	defer e.CloseIdleConnections()
	call := func(server string) (int, string, error) {
		status, body, _, err := try(e, "http://x/", HeaderEgressToken, token(), HeaderBackend, Backend(server))
		return status, body, err
	}
	for range 3 {
		if status, _, err := call("good"); status != 200 || err != nil {
			t.Errorf("good: %d %v", status, err)
		}
		begin := time.Now()
		status, body, err := call("cut")
		if took := time.Since(begin); status != 200 || body != "data:" || err == nil || took > 700*time.Millisecond {
			t.Errorf("cut: %d %q %v after %v", status, body, err, took)
		}
	}
	if status, _, err := call("down"); status != 502 || err != nil {
		t.Errorf("down: %d %v", status, err)
	}
	eventually(t, "the record of the failure", func() bool { return h.logs.entries.Load() > 0 })
	if l := h.logs.last.Load().(string); h.logs.entries.Load() != 1 || !strings.Contains(l, `"egress/down"`) {
		t.Errorf("%d records, the last is %s", h.logs.entries.Load(), l)
	}

	t.Run("an early answer to a long body", func(t *testing.T) {
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			req, err := http.NewRequestWithContext(ctx, "POST", "http://x/", strings.NewReader(strings.Repeat("x", 8<<20)))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set(HeaderEgressToken, token())
			r, err := e.Do(req)
			if err != nil {
				t.Error(err)
			} else if r.Body.Close(); r.StatusCode != 503 {
				t.Errorf("got %d", r.StatusCode)
			}
			cancel()
		}
	})
}

// Envoy puts no clock on the broker's answers, not even the listener's.
func TestBrokerRoute(t *testing.T) {
	b, err := newBuilder(plain(short(t)), false)
	if err != nil {
		t.Fatal(err)
	}
	var r routev3.Route
	m := b.ingressHost().GetMatcher().GetMatcherTree().GetExactMatchMap().GetMap()[Broker]
	if err := m.GetAction().GetTypedConfig().UnmarshalTo(&r); err != nil {
		t.Fatal(err)
	}
	a := r.GetRoute()
	if a.IdleTimeout == nil || a.IdleTimeout.AsDuration() != 0 || a.Timeout.AsDuration() != 0 || a.MaxStreamDuration != nil {
		t.Errorf("route %v", a)
	}
}
