package xds

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// raw answers with exactly these bytes and closes the connection.
func raw(t testing.TB, name, answer string) Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					_, _ = io.Copy(io.Discard, r.Body)
					_, _ = io.WriteString(c, answer)
				}
			}()
		}
	}()
	return Server{Name: name, URL: "http://" + l.Addr().String() + "/mcp"}
}

func reply(status, contentType, body string, more ...string) string {
	s := "HTTP/1.1 " + status + "\r\nconnection: close\r\n"
	if contentType != "" {
		s += "content-type: " + contentType + "\r\n"
	}
	for _, m := range more {
		s += m + "\r\n"
	}
	return s + fmt.Sprintf("content-length: %d\r\n\r\n%s", len(body), body)
}

// What a server says on the direct lane, and what the client sees of it: through the real Envoy, without xDS.
func TestGuard(t *testing.T) {
	const (
		js      = "application/json"
		good    = `{"jsonrpc":"2.0","id":` + bigID + `,"result":{"n":1.0,"big":9007199254740993}}`
		rpcErr  = `{"jsonrpc":"2.0","id":` + bigID + `,"error":{"code":-32602,"message":"no such tool"}}`
		toolErr = `{"jsonrpc":"2.0","id":` + bigID + `,"result":{"isError":true,"content":[]}}`
	)
	fixed := func(server, reason string) string {
		return `{"jsonrpc":"2.0","id":` + bigID + `,"error":{"code":-32603,"message":"the server did not answer this call","data":{"server":"` + server + `","reason":"` + reason + `"}}}`
	}
	cases := []struct {
		name, answer string
		status       int
		want         string // "" = the server's own bytes; else the reason of the fixed error
		outcome      string
		legacy       int // status towards a legacy client where it differs
	}{
		{"good", reply("200 OK", js, good), 200, "", "ok", 0},
		{"charset", reply("200 OK", js+"; charset=utf-8", good), 200, "", "ok", 0},
		{"tool-error", reply("200 OK", js, toolErr), 200, "", "tool_error", 0},
		{"rpc-error", reply("200 OK", js, rpcErr), 200, "", "rpc_error", 0},
		{"rpc-400", reply("400 Bad Request", js, rpcErr), 400, "", "rpc_error", 0},
		{"rpc-404", reply("404 Not Found", js, rpcErr), 404, "", "rpc_error", 200},
		{"rpc-500", reply("500 Internal Server Error", js, rpcErr), 500, "", "rpc_error", 0},
		{"html-502", reply("502 Bad Gateway", "text/html", "<html>down</html>"), 200, "unavailable", "unavailable", 0},
		{"rpc-503", reply("503 Service Unavailable", js, rpcErr), 200, "unavailable", "unavailable", 0},
		{"html-404", reply("404 Not Found", "text/html", "<html>no</html>"), 200, "not_mcp", "not_mcp", 0},
		{"html-200", reply("200 OK", "text/html", "<html>login</html>"), 200, "not_mcp", "not_mcp", 0},
		{"empty-500", reply("500 Internal Server Error", "", ""), 200, "not_mcp", "not_mcp", 0},
		{"secret-500", reply("500 Internal Server Error", js, `{"trace":"db password"}`), 200, "not_mcp", "not_mcp", 0},
		{"unauthorized", reply("401 Unauthorized", js, rpcErr, `www-authenticate: Bearer resource_metadata="https://evil"`), 200, "unauthorized", "unauthorized", 0},
		{"forbidden", reply("403 Forbidden", "text/plain", "no"), 200, "unauthorized", "unauthorized", 0},
		{"redirect", reply("307 Temporary Redirect", js, rpcErr, "location: http://10.0.0.1/"), 200, "not_mcp", "not_mcp", 0},
		{"not-modified", "HTTP/1.1 304 Not Modified\r\nconnection: close\r\n\r\n", 200, "not_mcp", "not_mcp", 0},
		{"no-type", reply("200 OK", "", good), 200, "not_mcp", "not_mcp", 0},
		{"no-answer", reply("200 OK", js, `{"jsonrpc":"2.0","id":1}`), 200, "not_mcp", "not_mcp", 0},
		{"cut-framed", reply("200 OK", js, good[:len(good)-2]), 200, "not_mcp", "not_mcp", 0},
		{"cut-length", strings.Replace(reply("200 OK", js, good), "content-length: ", "content-length: 1", 1), 200, "unavailable", "", 0},
		{"gzip", reply("200 OK", js, "\x1f\x8b\x08zzz", "content-encoding: gzip"), 200, "not_mcp", "not_mcp", 0},
		{"garbage", "220 smtp ready\r\n", 200, "unavailable", "", 0},
		{"reset", "", 200, "unavailable", "", 0},
		{"sse", reply("200 OK", "text/event-stream", "event: message\ndata: "+good+"\n\n"), 200, "", "ok", 0},
		{"sse-error", reply("200 OK", "text/event-stream", "data: "+toolErr+"\n\n"), 200, "", "tool_error", 0},
		{"accepted", reply("202 Accepted", "", ""), 202, "", "", 0},
	}
	dir := short(t)
	w := plain(dir)
	for _, tc := range cases {
		w.Servers = append(w.Servers, raw(t, tc.name, tc.answer))
	}
	w.Servers = append(w.Servers, Server{Name: "refused", URL: "http://127.0.0.1:1/"})
	hang := upstream(t, "hang", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does Go notice that the client went
		<-r.Context().Done()
	})
	hang.CallIdle = 300 * time.Millisecond
	total := upstream(t, "total", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	total.CallTotal = 300 * time.Millisecond
	w.Servers = append(w.Servers, hang, total, upstream(t, "plain", ok))
	config, err := Static(w)
	if err != nil {
		t.Fatal(err)
	}
	h := newHouse(t, w)
	p := startEnvoy(t, w, config).live()
	base := p.at("main")
	c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer c.CloseIdleConnections()
	post1(t, c, base+"/direct/plain") // the access log's stream connects
	eventually(t, "the first record", func() bool { return h.logs.entries.Load() == 1 })

	for _, tc := range cases {
		for _, era := range []string{"modern", "legacy"} {
			want := tc.status
			if era == "legacy" && tc.legacy != 0 {
				want = tc.legacy
			}
			seen := h.logs.entries.Load()
			status, body, header := post1(t, c, base+"/direct/"+tc.name+"/"+era)
			exp := tc.answer[strings.Index(tc.answer+"\r\n\r\n", "\r\n\r\n")+4*min(1, strings.Count(tc.answer, "\r\n\r\n")):]
			if tc.want != "" {
				exp = fixed(tc.name, tc.want)
				if ct := header.Get("content-type"); ct != js {
					t.Errorf("%s: content-type %q", tc.name, ct)
				}
			}
			if status != want || body != exp {
				t.Errorf("%s %s: got %d %s\nwant %d %s", tc.name, era, status, body, want, exp)
			}
			for _, n := range []string{"www-authenticate", "location", "mcp-session-id", "set-cookie", "x-envoy-upstream-service-time"} {
				if v := header.Get(n); v != "" {
					t.Errorf("%s: header %s: %s", tc.name, n, v)
				}
			}
			eventually(t, "access log of "+tc.name, func() bool { return h.logs.entries.Load() > seen })
			if l := h.logs.last.Load().(string); tc.outcome != "" && !strings.Contains(strings.ReplaceAll(l, " ", ""), `string_value:"`+tc.outcome+`"`) {
				t.Errorf("%s: outcome %q is not in the access log: %s", tc.name, tc.outcome, l)
			}
		}
	}
	for name, reason := range map[string]string{"refused": "unavailable", "hang": "timeout", "total": "timeout", "nowhere": "unavailable"} {
		if status, body, _ := post1(t, c, base+"/direct/"+name); status != 200 || body != fixed(name, reason) {
			t.Errorf("%s: got %d %s", name, status, body)
		}
	}

	// A refused connection is tried again, an answer that was cut is not: the tool may have run.
	for name, want := range map[string]int{"refused": 2, "reset": 0, "cut-length": 0, "html-502": 0} {
		if n := p.stat("cluster.s/" + name + ".upstream_rq_retry"); n != want {
			t.Errorf("%s: %d retries, want %d", name, n, want)
		}
	}

	t.Run("what Envoy answers itself", func(t *testing.T) {
		for _, tc := range []struct {
			what, method, path, body string
			header                   [2]string
			status                   int
			code                     string
		}{
			{"unrouted call", "POST", "/x", "{}", [2]string{}, 503, "-32603"},
			{"unrouted GET", "GET", "/x", "", [2]string{}, 503, "-32603"},
			{"too large", "POST", "/direct/plain", strings.Repeat("x", 4<<20+1), [2]string{}, 413, "-32600"},
			{"escaped slash", "POST", "/direct%2fplain", "{}", [2]string{}, 400, "-32600"},
			{"websocket", "GET", "/direct/plain", "", [2]string{"upgrade", "websocket"}, 403, "-32600"},
			{"GET on a direct route", "GET", "/direct/plain", "", [2]string{}, 200, "-32603"},
		} {
			req, err := http.NewRequest(tc.method, base+tc.path, strings.NewReader(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			if tc.header[0] != "" {
				req.Header.Set("connection", "upgrade")
				req.Header.Set(tc.header[0], tc.header[1])
			}
			r, err := c.Do(req)
			if err != nil {
				t.Errorf("%s: %v", tc.what, err)
				continue
			}
			b, _ := io.ReadAll(r.Body)
			r.Body.Close()
			if r.StatusCode != tc.status || !strings.Contains(string(b), `"id":null,"error":{"code":`+tc.code) {
				t.Errorf("%s: got %d %s", tc.what, r.StatusCode, b)
			}
		}
		if n := p.stat("cluster.refuse.upstream_cx_none_healthy"); n != 2 { // this one and "nowhere" above
			t.Errorf("unrouted calls counted: %d", n)
		}
	})

	t.Run("a body at the limit passes", func(t *testing.T) {
		body := `{"id":1,"x":"` + strings.Repeat("y", 4<<20-15) + `"}`
		r, err := c.Post(base+"/direct/plain", js, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if b, _ := io.ReadAll(r.Body); r.StatusCode != 200 || len(body) != 4<<20 || !strings.Contains(string(b), `"result"`) {
			t.Errorf("%d bytes: %d %s", len(body), r.StatusCode, b)
		}
	})

	t.Run("own reply of ext_proc", func(t *testing.T) {
		if status, body, _ := post1(t, c, base+"/own"); status != 429 || body != "own words" {
			t.Errorf("got %d %s", status, body)
		}
	})

	t.Run("what ext_proc and the server see", func(t *testing.T) {
		post1(t, c, base+"/direct/plain", "X-Mcpgw-Backend", "s/refused", "x-mcpgw-egress-token", token(), "x-envoy-max-retries", "9")
		for _, n := range []string{HeaderBackend, HeaderEgressToken, "x-envoy-max-retries"} {
			if v, ok := h.judge.head.Load(n); ok {
				t.Errorf("ext_proc saw %s: %v", n, v)
			}
		}
		if l := h.judge.listener.Load(); l != "main" {
			t.Errorf("listener %v", l)
		}
	})

	t.Run("egress", func(t *testing.T) {
		e := &http.Client{Transport: unixTransport(w.Sockets.Egress), Timeout: 5 * time.Second}
		defer e.CloseIdleConnections()
		for _, tc := range []struct {
			header []string
			status int
		}{
			{nil, 403},
			{[]string{HeaderEgressToken, "wrong", HeaderBackend, "s/plain"}, 403},
			{[]string{HeaderEgressToken, token()}, 503},
			{[]string{HeaderEgressToken, token(), HeaderBackend, "s/none"}, 503},
			{[]string{HeaderEgressToken, token(), HeaderBackend, "s/plain"}, 200},
			{[]string{HeaderEgressToken, token(), HeaderBackend, "s/html-502"}, 502},
		} {
			status, body, header := post1(t, e, "http://x/", tc.header...)
			if status != tc.status || (status/100 == 2 || status == 502) != (header.Get(HeaderLocal) == "") {
				t.Errorf("%v: got %d %s %v", tc.header, status, body, header)
			}
		}
	})

	t.Run("health", func(t *testing.T) {
		for _, want := range []int{200, 503} {
			r, err := c.Get(base + HealthPath)
			if err != nil {
				t.Fatal(err)
			}
			r.Body.Close()
			if r.StatusCode != want {
				t.Errorf("got %d, want %d", r.StatusCode, want)
			}
			if want == 200 {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				req, _ := http.NewRequestWithContext(ctx, "POST", "http://admin/healthcheck/fail", nil)
				if r, err := p.admin.Do(req); err != nil {
					t.Fatal(err)
				} else {
					r.Body.Close()
				}
				cancel()
			}
		}
	})
}
