package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpgw/mcpgw/test/harness"
)

// slowly is a call that takes a minute unless it is cancelled, and tells of its progress first.
func slowly(c *harness.Client, token any) map[string]any {
	m := map[string]any{"progressToken": token}
	if c.Modern() {
		m["io.modelcontextprotocol/protocolVersion"] = harness.R20260728
		m["io.modelcontextprotocol/clientCapabilities"] = map[string]any{}
	}
	return map[string]any{"name": "slow", "arguments": map[string]any{"id": "it", "millis": 60_000, "progress": true}, "_meta": m}
}

// TestStreams: progress and cancellation in both lanes, the streams that the gateway itself feeds, and their end.
func TestStreams(t *testing.T) {
	modern, dual := harness.StartBackend(t, harness.Modern, nil), harness.StartBackend(t, harness.Dual, nil)
	w := start(t, setting{
		servers: server("modern", modern.URL, "modern") + server("dual", dual.URL, "auto"),
		rest:    "limits: { stream_keepalive: 1s, streams_per_principal: 8 }",
	})
	w.lists(t, "/mcp/modern", harness.R20260728, 6)
	w.lists(t, "/mcp/dual", harness.R20260728, 6)
	backends := map[string]*harness.Backend{"modern": modern, "dual": dual}

	for name, backend := range backends {
		each(t, all, func(t *testing.T, revision string) {
			t.Run(name+", progress comes before the end, and a cancelled call ends at the server", func(t *testing.T) {
				c := w.client(t, "/mcp/"+name, reader, revision)
				s := c.Stream(t, `"call"`, "tools/call", slowly(c, "token \"1\""))
				var p struct {
					Params struct{ ProgressToken any }
				}
				if err := json.Unmarshal(s.Until(t, "notifications/progress", soon), &p); err != nil || p.Params.ProgressToken != `token "1"` {
					t.Errorf("progress of %v (%v)", p.Params.ProgressToken, err)
				}
				if c.Modern() {
					s.Close() // leaving is cancelling
				} else {
					s.Close() // leaving is not
					select {
					case id := <-backend.Cancelled():
						t.Errorf("%s was cancelled by a disconnect", id)
					default:
					}
					other := w.client(t, "/mcp/"+name, reader, revision)
					other.Notify(t, "notifications/cancelled", map[string]any{"requestId": "call"}) // of another session
					c.Notify(t, "notifications/cancelled", map[string]any{"requestId": "another"})
					c.Tool(t, "echo", map[string]any{"text": "x"}).Result(t, nil)
					select {
					case id := <-backend.Cancelled():
						t.Errorf("%s was cancelled by a stranger", id)
					default:
					}
					if got := c.Notify(t, "notifications/cancelled", map[string]any{"requestId": "call", "reason": "enough"}); got.Status != http.StatusAccepted {
						t.Errorf("cancelled: %d %s", got.Status, got.Body)
					}
				}
				select {
				case <-backend.Cancelled():
				case <-time.After(soon):
					t.Error("the server was not told")
				}
			})
		})
	}
	t.Run("an id in use", func(t *testing.T) {
		c := w.client(t, "/mcp/dual", reader, harness.R20251125)
		s := c.Stream(t, `"twice"`, "tools/call", slowly(c, 1))
		s.Until(t, "notifications/progress", soon)
		refused(t, c.CallID(t, `"twice"`, "tools/call", map[string]any{"name": "echo", "arguments": map[string]any{"text": "x"}}), refusal{400, -32600, `"twice"`, ""})
		c.Notify(t, "notifications/cancelled", map[string]any{"requestId": "twice"})
		<-dual.Cancelled()
	})

	none := func(_ context.Context, _ *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
		return &mcp.CallToolResult{}, nil, nil
	}
	asked := map[string]any{"notifications": map[string]any{"toolsListChanged": true, "resourceSubscriptions": []string{"test://text"}}}
	listening := func(t *testing.T, c *harness.Client, id string) *harness.Stream {
		t.Helper()
		s := c.Stream(t, id, "subscriptions/listen", asked)
		first := s.Next(t, soon).Data
		if want := `"io.modelcontextprotocol/subscriptionId":` + id; !strings.Contains(first, `"notifications/subscriptions/acknowledged"`) || !strings.Contains(first, want) ||
			!strings.Contains(first, `"toolsListChanged":true`) || strings.Contains(first, "promptsListChanged") {
			t.Fatalf("the first frame is %s", first)
		}
		return s
	}
	t.Run("list_changed", func(t *testing.T) {
		c := w.client(t, "/mcp", reader, harness.R20260728)
		text, number := listening(t, c, `"9007199254740993"`), listening(t, c, "9007199254740993")
		old := w.client(t, "/mcp/dual", reader, harness.R20251125)
		standing := old.Listen(t)
		mcp.AddTool(dual.Server, &mcp.Tool{Name: "late"}, none)
		for id, s := range map[string]*harness.Stream{`"9007199254740993"`: text, "9007199254740993": number} {
			if got := string(s.Until(t, "notifications/tools/list_changed", soon)); !strings.Contains(got, `"io.modelcontextprotocol/subscriptionId":`+id) {
				t.Errorf("got %s", got)
			}
		}
		standing.Until(t, "notifications/tools/list_changed", soon)
		if got := c.List(t, "tools/list"); !strings.Contains(strings.Join(got, " "), "dual_late") {
			t.Errorf("the list is %v", got)
		}
		dual.Server.RemoveTools("late")
		text.Until(t, "notifications/tools/list_changed", soon)
		standing.Until(t, "notifications/tools/list_changed", soon)

		// What the caller does not see does not concern it.
		mcp.AddTool(dual.Server, &mcp.Tool{Name: "fail", Description: "another text"}, none)
		seen := listening(t, w.client(t, "/mcp", writer, harness.R20260728), "1")
		mcp.AddTool(dual.Server, &mcp.Tool{Name: "fail", Description: "a third text"}, none)
		seen.Until(t, "notifications/tools/list_changed", soon)
		mcp.AddTool(dual.Server, &mcp.Tool{Name: "visible"}, none)
		for n := 0; ; n++ {
			number.Until(t, "notifications/tools/list_changed", soon)
			if strings.Contains(strings.Join(c.List(t, "tools/list"), " "), "dual_visible") {
				break
			}
			if n > 2 {
				t.Error("a reader hears of what it does not see")
			}
		}
		for _, s := range []*harness.Stream{text, number, seen, standing} {
			s.Close()
		}
	})
	t.Run("a server that comes back", func(t *testing.T) {
		s := listening(t, w.client(t, "/mcp", reader, harness.R20260728), "1")
		modern.Down()
		mcp.AddTool(modern.Server, &mcp.Tool{Name: "new"}, none)
		modern.Up(t)
		s.Until(t, "notifications/tools/list_changed", 60*time.Second) // after the back-off
		s.Close()
	})
	t.Run("keep-alive", func(t *testing.T) {
		listening(t, w.client(t, "/mcp", reader, harness.R20260728), "1").Comment(t, soon)
		each(t, legacies, func(t *testing.T, revision string) { w.client(t, "/mcp", reader, revision).Listen(t).Comment(t, soon) })
	})
	t.Run("bad subscriptions", func(t *testing.T) {
		c := w.client(t, "/mcp", reader, harness.R20260728)
		for _, params := range []map[string]any{{}, {"notifications": nil}, {"notifications": []string{}}, {"notifications": "all"}} {
			refused(t, c.CallID(t, `"b"`, "subscriptions/listen", params), refusal{200, -32602, `"b"`, ""})
		}
	})
	t.Run("too many streams of one principal", func(t *testing.T) {
		var open []*harness.Stream
		for range 8 {
			open = append(open, listening(t, w.client(t, "/mcp", another, harness.R20260728), "1"))
		}
		got := w.client(t, "/mcp", another, harness.R20260728).CallID(t, `"b"`, "subscriptions/listen", asked)
		refused(t, got, refusal{429, 429, `"b"`, ""})
		if got.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		refused(t, harness.Do(t, http.MethodGet, w.Base+"/mcp", another, nil, append(w.client(t, "/mcp", another, harness.R20251125).Lines("", nil), "Accept: text/event-stream")...), refusal{429, 429, "null", ""})
		listening(t, w.client(t, "/mcp", writer, harness.R20260728), "1") // another principal is not concerned
		for _, s := range open {
			s.Close()
		}
		harness.Eventually(t, soon, "closed streams make room", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			r, err := w.client(t, "/mcp", another, harness.R20260728).TryCall(ctx, "1", "subscriptions/listen", asked)
			return err == nil && r.Status == 200 || r != nil && bytes.Contains(r.Body, []byte("acknowledged"))
		})
	})
	t.Run("a session's end ends its stream", func(t *testing.T) {
		c := w.client(t, "/mcp", reader, harness.R20251125)
		s := c.Listen(t)
		c.Close(t)
		if err := s.End(t, soon); err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
	t.Run("shutdown", func(t *testing.T) {
		s := listening(t, w.client(t, "/mcp", reader, harness.R20260728), `"last"`)
		standing := w.client(t, "/mcp", reader, harness.R20251125).Listen(t)
		call := w.client(t, "/mcp/modern", reader, harness.R20260728)
		params := slowly(call, 1)
		params["arguments"] = map[string]any{"id": "survivor", "millis": 500, "progress": true}
		running := call.Stream(t, "1", "tools/call", params)
		running.Until(t, "notifications/progress", soon)
		w.unharmed(t)
		stopped := make(chan int, 1)
		go func() { stopped <- w.Stop(t) }()
		if got := string(s.Until(t, "", soon)); !strings.Contains(got, `"id":"last"`) || !strings.Contains(got, `"resultType":"complete"`) || !strings.Contains(got, `"io.modelcontextprotocol/subscriptionId":"last"`) {
			t.Errorf("the stream ends with %s", got)
		}
		if err := s.End(t, soon); err != nil {
			t.Errorf("a subscription ended with %v", err)
		}
		if err := standing.End(t, soon); err != nil {
			t.Errorf("a GET stream ended with %v", err)
		}
		if got := string(running.Until(t, "", soon)); !strings.Contains(got, "survivor") {
			t.Errorf("a call in flight ends with %s", got)
		}
		if code := <-stopped; code != 0 {
			t.Errorf("exit status %d", code)
		}
	})
}
