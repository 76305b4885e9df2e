package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/mcpgw/mcpgw/test/harness"
)

// rude is a legacy server that does as it likes: it asks without waiting, ends its GET stream after each message, and never answers what
// it does not know.
type rude struct {
	URL, name string

	mu       sync.Mutex
	sessions map[string]bool // ids that clients named
}

const questions = 64 // that a call asks, and does not wait for

func startRude(t *testing.T, name string) *rude {
	t.Helper()
	r := &rude{name: name, sessions: map[string]bool{}}
	s := httptest.NewServer(r)
	r.URL = s.URL + "/mcp"
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return r
}

func (r *rude) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, _ := io.ReadAll(q.Body) // what broke off is no JSON
	var m struct {
		ID     json.RawMessage
		Method string
	}
	r.mu.Lock()
	r.sessions[q.Header.Get("Mcp-Session-Id")] = true
	r.mu.Unlock()
	if q.Method == http.MethodGet {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":\"from %s\"}}\n\n", r.name)
		return
	}
	if q.Method != http.MethodPost || json.Unmarshal(body, &m) != nil {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	switch m.Method {
	case "initialize":
		w.Header().Set("Mcp-Session-Id", "session-of-"+r.name)
		reply(w, http.StatusOK, `"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"logging":{}},"serverInfo":{"name":"rude","version":"1"}}`, m.ID)
	case "notifications/initialized":
		w.WriteHeader(http.StatusAccepted)
	case "tools/list":
		reply(w, http.StatusOK, `"result":{"tools":[`+tool("ask", anything)+`]}`, m.ID)
	case "tools/call":
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range questions {
			_, _ = fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"elicitation/create\",\"params\":{}}\n\n", i)
		}
		_, _ = fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{\"content\":[]}}\n\n", m.ID)
	default:
		<-q.Context().Done()
	}
}

func (r *rude) heard(session string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sessions[session]
}

// TestRudeServer: what one server does not take, or leaves open, is nobody else's trouble, and not its next caller's either.
func TestRudeServer(t *testing.T) {
	one, two := startRude(t, "one"), startRude(t, "two")
	d := harness.StartBackend(t, harness.Dual, nil)
	w := start(t, setting{
		servers: server("a", one.URL, "legacy") + server("d", d.URL, "auto"),
		envoy:   "  concurrency: 1", // so that all share its connections to the broker
		rest:    "limits: { stream_keepalive: 1s }",
	})
	w.lists(t, "/mcp/a", harness.R20251125, 1)
	w.lists(t, "/mcp/d", harness.R20251125, 6)
	c, o := w.client(t, "/mcp/a", writer, harness.R20251125), w.client(t, "/mcp/d", reader, harness.R20251125)
	c.Tool(t, "ask", nil).Result(t, nil)

	for name, message := range map[string]string{
		"notification": `{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}`,
		"request":      `{"jsonrpc":"2.0","id":77,"method":"logging/setLevel","params":{"level":"info"}}`,
	} {
		t.Run("a "+name+" that it does not take delays nobody", func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), soon)
			defer cancel()
			if r, err := harness.Try(ctx, http.MethodPost, c.URL, writer, []byte(message), c.Lines("", nil)...); err != nil || r.Status/100 != 2 {
				t.Fatalf("got %+v (%v)", r, err)
			}
			r, err := o.TryCall(ctx, "1", "tools/call", map[string]any{"name": "echo", "arguments": map[string]any{"text": "x"}})
			if err != nil || r.Status != http.StatusOK {
				t.Errorf("another's call at another server: %+v (%v)", r, err)
			}
		})
	}
	stream := c.Listen(t)
	t.Run("questions end with their calls", func(t *testing.T) {
		for n := range 5 {
			if got := strings.Count(string(c.Tool(t, "ask", nil).Body), "elicitation/create"); got != questions {
				t.Errorf("call %d passed %d of %d questions", n, got, questions)
			}
		}
	})
	t.Run("a stream that it ended is opened again", func(t *testing.T) {
		for range 3 {
			stream.Until(t, "notifications/message", soon)
		}
	})
	t.Run("what takes its place does not hear of its sessions", func(t *testing.T) {
		old, err := os.ReadFile(w.Config)
		if err != nil {
			t.Fatal(err)
		}
		gone := w.client(t, "/mcp/a", writer, harness.R20251125)
		gone.Tool(t, "ask", nil).Result(t, nil)
		w.Reload(t, strings.Replace(string(old), one.URL, two.URL, 1))
		harness.Eventually(t, soon, "two is read", func() bool { return two.heard("session-of-two") })
		w.lists(t, "/mcp/a", harness.R20251125, 1)
		gone.Listen(t)
		gone.Close(t)
		c.Tool(t, "ask", nil).Result(t, nil)
		for !strings.Contains(string(stream.Until(t, "notifications/message", soon)), "from two") { // what was on its way comes first
		}
		c.Close(t)
		if two.heard("session-of-one") {
			t.Error("two was told the session of one")
		}
	})
}
