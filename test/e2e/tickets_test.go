package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/test/harness"
)

// overSocket sends a request to a unix socket of the gateway's own, as another process of the same user could.
func overSocket(t *testing.T, socket, method, body string, headers ...string) (*harness.Reply, error) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, method, "http://gateway/mcp", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/json")
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		q.Header.Add(name, value)
	}
	r, err := transport.RoundTrip(q)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(r.Body)
	return &harness.Reply{Status: r.StatusCode, Header: r.Header, Body: b}, err
}

// TestSockets: what stands behind the gateway serves nobody but the gateway's own Envoy. (That a ticket works once and for a time is shown in
// package gateway, where tickets can be seen.)
func TestSockets(t *testing.T) {
	backend := harness.StartBackend(t, harness.Dual, nil)
	w := start(t, setting{servers: server("dual", backend.URL, "auto")})
	w.lists(t, "/mcp/dual", harness.R20260728, 6)
	c := w.client(t, "/mcp/dual", reader, harness.R20251125)
	c.Tool(t, "echo", map[string]any{"text": "x"}).Result(t, nil)
	backend.Forget()

	call := `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"text":"x"}}}`
	session := "Mcp-Session-Id: " + c.Session
	key := "Authorization: Bearer " + writer
	for name, headers := range map[string][]string{
		"no ticket":         {key, session},
		"an unknown ticket": {key, session, "X-Mcpgw-Exchange: ABCDEFGHIJKLMNOPQRSTUVWXYZ"},
		"an empty ticket":   {key, session, "X-Mcpgw-Exchange: "},
		"two tickets":       {key, session, "X-Mcpgw-Exchange: a", "X-Mcpgw-Exchange: b"},
	} {
		for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete} {
			t.Run("broker, "+name+", "+method, func(t *testing.T) {
				r, err := overSocket(t, filepath.Join(w.dir, "broker.sock"), method, call, headers...)
				if err != nil {
					return // a socket that closes on strangers refuses as well
				}
				if r.Status < 400 || bytes.Contains(r.Body, []byte("result")) {
					t.Errorf("got %d %s", r.Status, r.Body)
				}
			})
		}
	}
	for name, headers := range map[string][]string{
		"no token":                  {"X-Mcpgw-Backend: s/dual"},
		"an empty token":            {"X-Mcpgw-Backend: s/dual", "X-Mcpgw-Egress-Token: "},
		"a wrong token":             {"X-Mcpgw-Backend: s/dual", "X-Mcpgw-Egress-Token: " + strings.Repeat("0", 64)},
		"the token in another case": {"X-Mcpgw-Backend: s/dual", "X-Mcpgw-Egress-Token: " + strings.ToUpper(token(t, w))},
		"the token and no backend":  {"X-Mcpgw-Egress-Token: " + token(t, w)},
		"a backend that is none":    {"X-Mcpgw-Backend: broker", "X-Mcpgw-Egress-Token: " + token(t, w)},
	} {
		t.Run("egress, "+name, func(t *testing.T) {
			r, err := overSocket(t, filepath.Join(w.dir, "egress.sock"), http.MethodPost, call, headers...)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(name, "another case") && strings.ToUpper(token(t, w)) == token(t, w) {
				return // a token of digits alone
			}
			if r.Status < 400 {
				t.Errorf("got %d %s", r.Status, r.Body)
			}
		})
	}
	backend.Untouched(t)
	t.Run("the directory is ours alone", func(t *testing.T) {
		entries, err := os.ReadDir(w.dir)
		if err != nil {
			t.Fatal(err)
		}
		dir, err := os.Stat(w.dir)
		if err != nil || dir.Mode().Perm() != 0o700 {
			t.Errorf("mode %v (%v)", dir.Mode(), err)
		}
		for _, e := range entries {
			if info, err := e.Info(); err != nil || info.Mode().Perm()&0o077 != 0 && info.Mode()&os.ModeSocket == 0 {
				t.Errorf("%s has mode %v (%v)", e.Name(), info.Mode(), err)
			}
		}
	})
	t.Run("the gateway itself still serves", func(t *testing.T) {
		if got := c.Tool(t, "echo", map[string]any{"text": "x"}).Text(t); got != "x" {
			t.Errorf("got %q", got)
		}
	})
}

// token is the egress token, from its file in the gateway's directory.
func token(t *testing.T, w *world) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(w.dir, "egress-token"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestLimits: what ends by the clock or by a count. Every limit is as low as the configuration lets it be.
func TestLimits(t *testing.T) {
	backend := harness.StartBackend(t, harness.Dual, nil)
	w := start(t, setting{
		servers: server("dual", backend.URL, "auto"),
		rest:    "limits: { upload: 1s, session_idle: 2s, session_lifetime: 60s, sessions_per_principal: 3, body_bytes: 4096, bodies_in_flight_bytes: 4096, failed_credentials_per_minute: 5, depth: 8 }",
	})
	w.lists(t, "/mcp/dual", harness.R20260728, 6)
	backend.Forget()

	t.Run("slow upload", func(t *testing.T) {
		for name, rest := range map[string]string{"of a body": "", "that stops in its body": `{"jsonrpc":"2.0",`} {
			t.Run(name, func(t *testing.T) {
				conn, err := net.Dial("tcp", strings.TrimPrefix(w.Base, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close() }()
				_ = conn.SetDeadline(time.Now().Add(soon))
				_, err = fmt.Fprintf(conn, "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nContent-Length: 500\r\n\r\n%s", reader, rest)
				if err != nil {
					t.Fatal(err)
				}
				r, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = r.Body.Close() }()
				body, _ := io.ReadAll(r.Body)
				refused(t, &harness.Reply{Status: r.StatusCode, Header: r.Header, Body: body}, refusal{408, -32600, "null", ""})
			})
		}
	})
	t.Run("too large", func(t *testing.T) {
		body := `{"jsonrpc":"2.0","id":7,"method":"ping"` + strings.Repeat(" ", 5000) + `}`
		refused(t, harness.Post(t, w.Base+"/mcp", reader, body), refusal{413, -32600, "null", ""})
		refused(t, harness.Post(t, w.Base+"/mcp", "", body), refusal{413, -32600, "null", ""}) // before anybody asks who calls
	})
	t.Run("too deep", func(t *testing.T) {
		refused(t, harness.Post(t, w.Base+"/mcp", reader, `{"jsonrpc":"2.0","id":7,"method":"ping","params":{"a":[[[[[[[[]]]]]]]]}}`), refusal{400, -32600, "7", ""})
	})
	t.Run("too many sessions", func(t *testing.T) {
		mine := w.client(t, "/mcp", writer, harness.R20251125)
		first := w.client(t, "/mcp", another, harness.R20251125)
		for range 3 {
			w.client(t, "/mcp", another, harness.R20251125)
		}
		refused(t, first.CallID(t, "7", "ping", nil), refusal{404, -32001, "7", ""}) // a principal's longest unused one makes room
		mine.Call(t, "ping", nil).Result(t, nil)                                     // another principal is not concerned
	})
	t.Run("an expired session", func(t *testing.T) {
		clients := map[string]*harness.Client{}
		for _, revision := range legacies {
			clients[revision] = w.client(t, "/mcp/dual", reader, revision)
			clients[revision].Tool(t, "echo", map[string]any{"text": "x"}).Result(t, nil)
		}
		time.Sleep(2100 * time.Millisecond) // the time itself is what is tested: any look at a session would keep it alive
		each(t, legacies, func(t *testing.T, revision string) {
			c := clients[revision]
			refused(t, c.CallID(t, `"s"`, "tools/list", nil), refusal{404, -32001, `"s"`, ""})
			c.Initialize(t)
			c.Call(t, "tools/list", nil).Result(t, nil)
		})
	})
	t.Run("guessed credentials", func(t *testing.T) { // last: the address is shut out
		var last *harness.Reply
		for range 20 {
			if last = harness.Post(t, w.Base+"/mcp", "guess", "{}"); last.Status != 401 {
				break
			}
		}
		refused(t, last, refusal{429, 429, "null", ""})
		if last.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	})
	backend.Await(t, 3, "tools/call", soon)
}
