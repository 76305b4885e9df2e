package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpgw/mcpgw/test/harness"
)

// asks gives a backend tools that ask the client before they answer.
func asks(name string) func(*mcp.Server) {
	return func(s *mcp.Server) {
		type none struct{}
		mcp.AddTool(s, &mcp.Tool{Name: "sample"}, func(ctx context.Context, r *mcp.CallToolRequest, _ none) (*mcp.CallToolResult, any, error) {
			//nolint:staticcheck // sampling is deprecated in 2026-07-28, and what legacy servers do
			got, err := r.Session.CreateMessage(ctx, &mcp.CreateMessageParams{MaxTokens: 5, Messages: []*mcp.SamplingMessage{{Role: "user", Content: &mcp.TextContent{Text: "from " + name}}}})
			if err != nil {
				return nil, nil, err
			}
			return &mcp.CallToolResult{Content: []mcp.Content{got.Content}}, nil, nil
		})
		mcp.AddTool(s, &mcp.Tool{Name: "elicit"}, func(ctx context.Context, r *mcp.CallToolRequest, _ none) (*mcp.CallToolResult, any, error) {
			got, err := r.Session.Elicit(ctx, &mcp.ElicitParams{Message: "from " + name, RequestedSchema: json.RawMessage(`{"type":"object","properties":{"who":{"type":"string"}}}`)})
			if err != nil {
				return nil, nil, err
			}
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: fmt.Sprint(got.Action, got.Content["who"])}}}, nil, nil
		})
	}
}

// later gives a backend a tool that has answered before the server speaks: it logs, then asks. What it was answered goes to the channel.
func later(answers chan<- string) func(*mcp.Server) {
	return func(s *mcp.Server) {
		mcp.AddTool(s, &mcp.Tool{Name: "later"}, func(_ context.Context, r *mcp.CallToolRequest, _ struct{}) (*mcp.CallToolResult, any, error) {
			go func(s *mcp.ServerSession) {
				ctx, cancel := context.WithTimeout(context.Background(), soon) // not the call's
				defer cancel()
				//nolint:staticcheck // logging and sampling are deprecated in 2026-07-28, and what legacy servers do
				err := s.Log(ctx, &mcp.LoggingMessageParams{Level: "error", Data: "outside of calls"})
				if err != nil {
					answers <- err.Error()
					return
				}
				//nolint:staticcheck // as above
				got, err := s.CreateMessage(ctx, &mcp.CreateMessageParams{MaxTokens: 5, Messages: []*mcp.SamplingMessage{{Role: "user", Content: &mcp.TextContent{Text: "outside, too"}}}})
				if err != nil {
					answers <- err.Error()
					return
				}
				answers <- got.Content.(*mcp.TextContent).Text
			}(r.Session)
			return &mcp.CallToolResult{}, nil, nil
		})
	}
}

// TestSessions: whose a legacy session is, how it ends, and what servers ask through it.
func TestSessions(t *testing.T) {
	answers := make(chan string, 1)
	both := func(s *mcp.Server) {
		asks("one")(s)
		later(answers)(s)
	}
	one, two, modern := harness.StartBackend(t, harness.Legacy, both), harness.StartBackend(t, harness.Legacy, asks("two")), harness.StartBackend(t, harness.Modern, nil)
	w := start(t, setting{
		servers:   server("one", one.URL, "legacy") + server("two", two.URL, "legacy") + server("modern", modern.URL, "modern"),
		endpoints: "\n  - { name: mcp, path: /mcp, per_server: true }\n  - { name: other, path: /other }",
	})
	for _, name := range []string{"one", "two"} {
		w.lists(t, "/mcp/"+name, harness.R20251125, 8)
	}
	w.lists(t, "/mcp/modern", harness.R20260728, 6)
	echo := map[string]any{"name": "echo", "arguments": map[string]any{"text": "x"}}

	t.Run("whose a session is", func(t *testing.T) {
		each(t, legacies, func(t *testing.T, revision string) {
			c := w.client(t, "/mcp/one", reader, revision)
			one.Forget()
			gone := refusal{404, -32001, `"s"`, ""}
			for name, with := range map[string]harness.Client{
				"another principal":             {URL: c.URL, Key: another, Session: c.Session},
				"another endpoint":              {URL: w.Base + "/other", Key: reader, Session: c.Session},
				"the endpoint above":            {URL: w.Base + "/mcp", Key: reader, Session: c.Session},
				"another server's":              {URL: w.Base + "/mcp/two", Key: reader, Session: c.Session},
				"an unknown session":            {URL: c.URL, Key: reader, Session: strings.Repeat("A", len(c.Session))},
				"a session id a byte short":     {URL: c.URL, Key: reader, Session: c.Session[1:]},
				"an endless session id":         {URL: c.URL, Key: reader, Session: strings.Repeat("A", 8000)},
				"another principal, same roles": {URL: c.URL, Key: another, Session: c.Session},
			} {
				t.Run(name, func(t *testing.T) {
					with.Revision = revision
					for _, method := range []string{"tools/call", "tools/list", "ping", "nonsense"} {
						refused(t, with.CallID(t, `"s"`, method, echo), gone)
					}
					refused(t, with.Notify(t, "notifications/cancelled", nil), refusal{404, -32001, "null", ""})
					refused(t, with.Respond(t, `"s"`, map[string]any{}), gone)
					refused(t, harness.Do(t, http.MethodGet, with.URL, with.Key, nil, append(with.Lines("", nil), "Accept: text/event-stream")...), refusal{404, -32001, "null", ""})
					refused(t, with.Close(t), refusal{404, -32001, "null", ""})
				})
			}
			one.Untouched(t)
			c.Call(t, "tools/call", echo).Result(t, nil) // none of these has harmed it

			none := harness.Client{URL: c.URL, Key: reader, Revision: revision}
			for _, method := range []string{"tools/call", "tools/list", "ping"} {
				refused(t, none.CallID(t, `"s"`, method, echo), refusal{400, -32600, `"s"`, ""})
			}
			none.Headers = []string{"Mcp-Session-Id: " + c.Session, "Mcp-Session-Id: " + c.Session}
			if got := none.CallID(t, `"s"`, "ping", nil); got.Status != 400 {
				t.Errorf("two session lines get %d", got.Status)
			}
			if got := c.Close(t); got.Status != http.StatusNoContent {
				t.Errorf("DELETE: %d %s", got.Status, got.Body)
			}
			refused(t, c.Close(t), refusal{404, -32001, "null", ""}) // twice is harmless
			refused(t, c.CallID(t, `"s"`, "tools/call", echo), gone)
			c.Initialize(t)
			c.Call(t, "tools/call", echo).Result(t, nil)
		})
	})
	t.Run("a deleted session ends at its servers too", func(t *testing.T) {
		c := w.client(t, "/mcp/one", reader, harness.R20251125)
		one.Forget()
		c.Call(t, "tools/call", echo).Result(t, nil)
		session := one.Requests("tools/call")[0].Header.Get("Mcp-Session-Id")
		if session == "" || session == c.Session {
			t.Errorf("the server's session is %q, the client's %q", session, c.Session)
		}
		c.Close(t)
		harness.Eventually(t, soon, "the server's session is deleted", func() bool {
			for _, r := range one.Requests() {
				if r.Method == http.MethodDelete && r.Header.Get("Mcp-Session-Id") == session {
					return true
				}
			}
			return false
		})
	})
	t.Run("a session that the server lost is made anew", func(t *testing.T) {
		c := w.client(t, "/mcp/one", reader, harness.R20251125)
		c.Call(t, "tools/call", echo).Result(t, nil)
		session := one.Requests("tools/call")
		id := session[len(session)-1].Header.Get("Mcp-Session-Id")
		if r := harness.Do(t, http.MethodDelete, one.URL, "", nil, "Mcp-Session-Id: "+id); r.Status >= 300 {
			t.Fatalf("deleting at the server: %d", r.Status)
		}
		one.Forget()
		if got := c.Call(t, "tools/call", echo).Text(t); got != "x" {
			t.Errorf("got %q", got)
		}
		if n := len(one.Requests("initialize")); n != 1 {
			t.Errorf("%d sessions were made", n)
		}
	})
	t.Run("logging/setLevel", func(t *testing.T) {
		each(t, legacies, func(t *testing.T, revision string) {
			c := w.client(t, "/mcp/one", reader, revision)
			c.Call(t, "logging/setLevel", map[string]any{"level": "warning"}).Result(t, nil)
			refused(t, c.CallID(t, `"l"`, "logging/setLevel", map[string]any{"level": "loud"}), refusal{200, -32602, `"l"`, ""})
			one.Forget()
			c.Call(t, "tools/call", echo).Result(t, nil)
			one.Await(t, 1, "logging/setLevel", soon) // a session made later learns it
			one.Forget()
			c.Call(t, "logging/setLevel", map[string]any{"level": "debug"}).Result(t, nil)
			if r := one.Await(t, 1, "logging/setLevel", soon); !bytes.Contains(r[0].Body, []byte(`"debug"`)) {
				t.Errorf("the server received %s", r[0].Body)
			}
		})
	})
	t.Run("notifications/roots/list_changed", func(t *testing.T) {
		each(t, legacies, func(t *testing.T, revision string) {
			c := w.client(t, "/mcp", reader, revision)
			c.Tool(t, "one_echo", map[string]any{"text": "x"}).Result(t, nil) // opens a session at one, none at two
			one.Forget()
			two.Forget()
			if got := c.Notify(t, "notifications/roots/list_changed", nil); got.Status != http.StatusAccepted {
				t.Errorf("got %d %s", got.Status, got.Body)
			}
			one.Await(t, 1, "notifications/roots/list_changed", soon)
			if got := two.Requests("notifications/roots/list_changed", "initialize"); len(got) > 0 {
				t.Errorf("a server that the session does not speak to received %+v", got)
			}
		})
	})
	t.Run("subscriptions", func(t *testing.T) {
		each(t, legacies, func(t *testing.T, revision string) {
			c := w.client(t, "/mcp/one", reader, revision)
			refused(t, c.CallID(t, `"u"`, "resources/subscribe", map[string]any{"uri": "test://secret"}), refusal{200, -32602, `"u"`, ""})
			one.Forget()
			c.Call(t, "resources/subscribe", map[string]any{"uri": "test://text"}).Response(t) // the server may have none: its own word
			one.Await(t, 1, "resources/subscribe", soon)
			bridged := w.client(t, "/mcp/modern", reader, revision)
			refused(t, bridged.CallID(t, `"u"`, "resources/subscribe", map[string]any{"uri": "test://text"}), refusal{200, -32601, `"u"`, ""})
		})
	})

	t.Run("a server speaks outside of calls", func(t *testing.T) {
		each(t, legacies, func(t *testing.T, revision string) {
			c := &harness.Client{URL: w.Base + "/mcp", Key: reader, Revision: revision, Capabilities: map[string]any{"sampling": map[string]any{}}}
			c.Initialize(t)
			c.Call(t, "logging/setLevel", map[string]any{"level": "debug"}).Result(t, nil)
			one.Forget()
			s := c.Listen(t)
			c.Tool(t, "one_echo", map[string]any{"text": "x"}).Result(t, nil)
			harness.Eventually(t, soon, "the gateway listens to the server", func() bool {
				for _, r := range one.Requests() {
					if r.Method == http.MethodGet && r.Header.Get("Mcp-Session-Id") == one.Requests("tools/call")[0].Header.Get("Mcp-Session-Id") {
						return true
					}
				}
				return false
			})
			c.Tool(t, "one_later", nil).Result(t, nil)
			if got := string(s.Until(t, "notifications/message", soon)); !strings.Contains(got, "outside of calls") {
				t.Errorf("got %s", got)
			}
			var q struct{ ID json.RawMessage }
			if err := json.Unmarshal(s.Until(t, "sampling/createMessage", soon), &q); err != nil {
				t.Fatal(err)
			}
			c.Respond(t, string(q.ID), map[string]any{"role": "assistant", "model": "m", "content": map[string]any{"type": "text", "text": "the answer"}})
			if got := <-answers; got != "the answer" {
				t.Errorf("the server got %q", got)
			}
		})
	})
	t.Run("servers ask", func(t *testing.T) {
		for _, row := range []struct {
			tool, method string
			answer       func(who string) map[string]any
			text         func(who string) string
		}{
			{"sample", "sampling/createMessage", func(who string) map[string]any {
				return map[string]any{"role": "assistant", "model": "m", "content": map[string]any{"type": "text", "text": who}}
			}, func(who string) string { return who }},
			{"elicit", "elicitation/create", func(who string) map[string]any {
				return map[string]any{"action": "accept", "content": map[string]any{"who": who}}
			}, func(who string) string { return "accept" + who }},
		} {
			revisions := legacies
			if row.tool == "elicit" {
				revisions = revisions[:2] // it is younger than 2025-03-26
			}
			each(t, revisions, func(t *testing.T, revision string) {
				t.Run(row.tool, func(t *testing.T) {
					c := &harness.Client{URL: w.Base + "/mcp", Key: reader, Revision: revision, Capabilities: map[string]any{"sampling": map[string]any{}, "elicitation": map[string]any{}}}
					c.Initialize(t)
					streams := map[string]*harness.Stream{}
					questions := map[string]string{} // server → id of its question, as the client sees it
					for _, name := range []string{"one", "two"} {
						streams[name] = c.Stream(t, `"`+name+`"`, "tools/call", map[string]any{"name": name + "_" + row.tool, "arguments": map[string]any{}})
					}
					for name, s := range streams {
						raw := s.Until(t, row.method, soon)
						var q struct{ ID json.RawMessage }
						if err := json.Unmarshal(raw, &q); err != nil || !bytes.Contains(raw, []byte("from "+name)) {
							t.Fatalf("%v: %s", err, raw)
						}
						questions[name] = string(q.ID)
					}
					if questions["one"] == questions["two"] {
						t.Fatalf("both servers ask under the id %s", questions["one"])
					}
					refused(t, c.Respond(t, `"nobody asked"`, map[string]any{}), refusal{400, -32600, `"nobody asked"`, ""})
					refused(t, w.client(t, "/mcp", reader, revision).Respond(t, questions["one"], row.answer("stranger")), refusal{400, -32600, questions["one"], ""})
					for _, name := range []string{"two", "one"} { // the other way round
						if got := c.Respond(t, questions[name], row.answer("answer to "+name)); got.Status != http.StatusAccepted {
							t.Fatalf("answering %s: %d %s", name, got.Status, got.Body)
						}
					}
					for name, s := range streams {
						if got := string(s.Until(t, "", soon)); !strings.Contains(got, `"id":"`+name+`"`) || !strings.Contains(got, row.text("answer to "+name)) {
							t.Errorf("%s ends with %s", name, got)
						}
						if err := s.End(t, soon); err != nil {
							t.Errorf("the stream of %s ended with %v", name, err)
						}
					}
					refused(t, c.Respond(t, questions["one"], row.answer("late")), refusal{400, -32600, questions["one"], ""})
					one.Await(t, 1, "tools/call", soon)
				})
			})
		}
	})
}

// TestReferenceServer: the reference server of the TypeScript SDK, whose sessions and streams are its own. (Its tools that ask the client
// are not in the catalog: it shows them only to a client that has said it can answer, which the gateway, reading lists, is not.)
func TestReferenceServer(t *testing.T) {
	url := harness.StartServerEverything(t)
	w := start(t, setting{servers: server("reference", url, "auto")})
	w.lists(t, "/mcp/reference", harness.R20251125, 5)
	each(t, legacies, func(t *testing.T, revision string) {
		c := w.client(t, "/mcp", reader, revision)
		if got := c.Tool(t, "reference_echo", map[string]any{"message": "häh"}).Text(t); !strings.Contains(got, "häh") {
			t.Errorf("echo gets %q", got)
		}
		s := c.Stream(t, "9007199254740991", "tools/call", map[string]any{
			"name": "reference_trigger-long-running-operation", "arguments": map[string]any{"duration": 0.2, "steps": 2},
			"_meta": map[string]any{"progressToken": "p"},
		})
		s.Until(t, "notifications/progress", soon)
		if got := string(s.Until(t, "", soon)); !strings.Contains(got, `"id":9007199254740991`) || !strings.Contains(got, `"result"`) {
			t.Errorf("the operation ends with %s", got)
		}
	})
	if got := w.client(t, "/mcp", reader, harness.R20260728).List(t, "tools/list"); len(got) != 0 {
		t.Errorf("a modern client is shown %v", got)
	}
}
