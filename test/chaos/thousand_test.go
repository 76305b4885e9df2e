package chaos

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/test/harness"
)

// crowd is many small MCP servers behind one port, told apart by path; each has one tool, echo.
type crowd struct {
	*httptest.Server
	mu   sync.Mutex
	seen map[string][]harness.Recorded // by path
}

func startCrowd(t testing.TB) *crowd {
	c := &crowd{seen: map[string][]harness.Recorded{}}
	c.Server = httptest.NewServer(c)
	t.Cleanup(func() { c.CloseClientConnections(); c.Close() })
	return c
}

func (c *crowd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var m struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
		Params struct {
			Arguments struct {
				Text string `json:"text"`
			} `json:"arguments"`
		} `json:"params"`
	}
	if err != nil || json.Unmarshal(body, &m) != nil {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	c.mu.Lock()
	c.seen[r.URL.Path] = append(c.seen[r.URL.Path], harness.Recorded{Path: r.URL.Path, RPC: m.Method, Body: body})
	c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	answer := func(result string) {
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete",%s}}`, m.ID, result)
	}
	switch m.Method {
	case "server/discover":
		answer(`"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"serverInfo":{"name":"crowd","version":"1"},"ttlMs":3600000,"cacheScope":"private"`)
	case "tools/list":
		answer(`"tools":[{"name":"echo","inputSchema":{"type":"object","properties":{"text":{"type":"string"}}}}],"ttlMs":3600000,"cacheScope":"private"`)
	case "tools/call":
		text, _ := json.Marshal(m.Params.Arguments.Text) // a string always can
		answer(`"content":[{"type":"text","text":` + string(text) + `}]`)
	default:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"method not found"}}`, m.ID)
	}
}

// received is what came to one server, of one method where one is named.
func (c *crowd) received(path, method string) (out []harness.Recorded) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.seen[path] {
		if method == "" || r.RPC == method {
			out = append(out, r)
		}
	}
	return out
}

func (c *crowd) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.seen)
}

// config is the configuration of n of them.
func (c *crowd) config(n int) string {
	var b strings.Builder
	b.WriteString("\nservers:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - { name: s%04d, http: { url: \"%s/s%04d\" } }\n", i, c.URL, i)
	}
	return b.String()
}

// TestThousandServers: one server more among a thousand sends Envoy that server and the route tables, and nobody notices.
func TestThousandServers(t *testing.T) {
	const n = 1000
	c := startCrowd(t)
	began := time.Now()
	s := start(t, run, mainListener+c.config(n))
	harness.Eventually(t, patience, "all servers are served", func() bool { return len(harness.NewModern(s.url, key).List(t, "tools/list")) == n })
	t.Logf("%d servers were served after %v", n, time.Since(began).Round(time.Millisecond))
	calm := s.undisturbed(t)
	c.forget()
	l := startLoad(t, s.url, "s0500_echo")
	l.await(t, 20, "ok")
	for _, step := range []int{n + 1, n} {
		s.change(t, func() { s.write(t, s.settings(mainListener+c.config(step))) })
		now := s.published(t)
		if now.drained != "[]" || !now.acknowledged {
			t.Errorf("%+v", now)
		}
		// A cluster, or the name of one that is gone, and the two route tables.
		if now.resources > 3 || now.bytes > n*1500 {
			t.Errorf("%d resources of %d bytes were sent", now.resources, now.bytes)
		}
		t.Logf("to %d servers: %d resources, %d bytes, in %s", step, now.resources, now.bytes, now.took)
		if step > n {
			client := harness.NewModern(s.url, key)
			harness.Eventually(t, patience, "the new server is served", func() bool {
				return client.Tool(t, "s1000_echo", map[string]any{"text": "new"}).Response(t).Error == nil
			})
			if n := len(client.List(t, "tools/list")); n != step {
				t.Errorf("%d tools are listed, want %d", n, step)
			}
		}
		l.await(t, 20, "ok")
	}
	l.stop()
	l.only(t, "ok", "denied")
	l.hold(t, c.received("/s0500", "tools/call"))
	if got := l.dials.Load(); got != workers {
		t.Errorf("%d connections were made by %d workers", got, workers)
	}
	calm()
	s.clean(t)
	for i := range n {
		path := fmt.Sprintf("/s%04d", i)
		if asked := c.received(path, "tools/list"); len(asked) > 0 {
			t.Errorf("%s was read again, and nothing about it had changed", path)
			break
		}
	}
}

// publication is what the log says of the newest change.
type publication struct {
	resources, bytes int
	acknowledged     bool
	drained, took    string
}

func (s *site) published(t testing.TB) (p publication) {
	t.Helper()
	for _, line := range s.mcpgw.Stderr.Lines() {
		if !strings.Contains(line, "configuration is in force") {
			continue
		}
		p = publication{}
		for field := range strings.FieldsSeq(line) {
			name, value, _ := strings.Cut(field, "=")
			switch name {
			case "resources":
				p.resources, _ = strconv.Atoi(value)
			case "bytes":
				p.bytes, _ = strconv.Atoi(value)
			case "acknowledged":
				p.acknowledged = value == "true"
			case "drained":
				p.drained = value
			case "took":
				p.took = value
			}
		}
	}
	if p.bytes == 0 {
		t.Fatal("the log tells of no change that was sent")
	}
	return p
}
