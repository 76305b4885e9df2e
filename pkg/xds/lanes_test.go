package xds

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
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
