package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/mcpgw/mcpgw/test/harness"
)

// meta is the _meta of a good modern request.
const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

// TestBody: messages that are refused before anybody asks which item they name. No server sees any of them.
func TestBody(t *testing.T) {
	backend := harness.StartBackend(t, harness.Dual, nil)
	w := start(t, setting{servers: server("dual", backend.URL, "auto")})
	w.lists(t, "/mcp/dual", harness.R20260728, 6)

	parse, invalid := refusal{400, -32700, "null", ""}, refusal{400, -32600, "null", ""}
	withID := refusal{400, -32600, "7", ""}
	// In a body M stands for the _meta of a modern request and a comma, and for nothing in a legacy one.
	rows := []struct {
		name, body string
		want       refusal
	}{
		{"empty", "", parse},
		{"white space", " \n ", parse},
		{"no JSON", "hello", parse},
		{"cut", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{M"name":"echo"`, parse},
		{"two texts", `{"jsonrpc":"2.0","id":7,"method":"ping"}{"jsonrpc":"2.0","id":8,"method":"ping"}`, parse},
		{"a byte order mark", "\ufeff" + `{"jsonrpc":"2.0","id":7,"method":"ping"}`, parse},
		{"no UTF-8", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{M"name":"echo","arguments":{"text":"` + "\xff" + `"}}}`, parse},
		{"a lone surrogate", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{M"name":"echo","arguments":{"text":"\ud800"}}}`, parse},
		{"a comment", `{"jsonrpc":"2.0","id":7,/* */"method":"ping"}`, parse},
		{"NaN", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{M"name":"add","arguments":{"a":NaN}}}`, parse},

		{"null", "null", invalid},
		{"a string", `"tools/call"`, invalid},
		{"empty batch", "[]", invalid},
		{"batch", `[{"jsonrpc":"2.0","id":7,"method":"ping"}]`, invalid},
		{"batch of calls", `[{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{M"name":"echo","arguments":{"text":"x"}}}]`, invalid},
		{"no jsonrpc", `{"id":7,"method":"ping"}`, withID},
		{"jsonrpc 1.0", `{"jsonrpc":"1.0","id":7,"method":"ping"}`, withID},
		{"no method", `{"jsonrpc":"2.0","id":7}`, withID},
		{"method of the wrong type", `{"jsonrpc":"2.0","id":7,"method":5}`, withID},
		{"empty method", `{"jsonrpc":"2.0","id":7,"method":""}`, withID},
		{"method and result", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{M"name":"echo","arguments":{"text":"x"}},"result":{}}`, withID},
		{"method and error", `{"jsonrpc":"2.0","id":7,"method":"ping","error":{"code":1,"message":"x"}}`, withID},
		{"result and error", `{"jsonrpc":"2.0","id":7,"result":{},"error":{"code":1,"message":"x"}}`, withID},
		{"id null", `{"jsonrpc":"2.0","id":null,"method":"tools/call","params":{M"name":"echo","arguments":{"text":"x"}}}`, invalid},
		{"id with a fraction", `{"jsonrpc":"2.0","id":1.5,"method":"ping"}`, invalid},
		{"id 1.0", `{"jsonrpc":"2.0","id":1.0,"method":"ping"}`, invalid},
		{"id true", `{"jsonrpc":"2.0","id":true,"method":"ping"}`, invalid},
		{"id of an object", `{"jsonrpc":"2.0","id":{},"method":"ping"}`, invalid},
		{"id too long", `{"jsonrpc":"2.0","id":"` + strings.Repeat("x", 1100) + `","method":"ping"}`, invalid},
		{"two ids", `{"jsonrpc":"2.0","id":7,"id":8,"method":"ping"}`, invalid},
		{"params of an array", `{"jsonrpc":"2.0","id":7,"method":"ping","params":[]}`, withID},
		{"arguments of an array", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{M"name":"echo","arguments":[]}}`, withID},
		{"_meta of a string", `{"jsonrpc":"2.0","id":7,"method":"ping","params":{"_meta":"x"}}`, withID},

		{"name twice", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{M"name":"echo","name":"add","arguments":{"text":"x"}}}`, withID},
		{"name and nam\\u0065", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{M"name":"echo","nam\u0065":"add","arguments":{"text":"x"}}}`, withID},
		{"Name beside name", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{M"name":"echo","Name":"add","arguments":{"text":"x"}}}`, withID},
		{"Name alone", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{M"Name":"echo","arguments":{"text":"x"}}}`, withID},
		{"Method beside method", `{"jsonrpc":"2.0","id":7,"method":"ping","Method":"tools/call"}`, withID},
		{"method twice", `{"jsonrpc":"2.0","id":7,"method":"ping","method":"tools/call"}`, withID},
		{"Arguments beside arguments", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{M"name":"echo","arguments":{"text":"x"},"Arguments":{}}}`, withID},
		{"argument twice", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{M"name":"echo","arguments":{"text":"x","text":"y"}}}`, withID},
		{"key twice, deep", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{M"name":"echo","arguments":{"text":"x","a":[{"b":{"c":1,"c":2}}]}}}`, withID},
		{"depth 100", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{M"name":"echo","arguments":{"text":"x","deep":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}}}`, withID},
		{"depth 100,000, never closed", `{"jsonrpc":"2.0","id":7,"method":"ping","params":{"deep":` + strings.Repeat("[", 100_000), refusal{400, 0, "", ""}},
		{"1e400", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{M"name":"add","arguments":{"a":1e400,"b":1}}}`, withID},
		{"1e-400", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{M"name":"add","arguments":{"a":1e-400,"b":1}}}`, withID},
		{"a million digits", `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{M"name":"add","arguments":{"a":` + strings.Repeat("9", 1_000_000) + `,"b":1}}}`, withID},
		{"a million digits in the id", `{"jsonrpc":"2.0","id":` + strings.Repeat("9", 1_000_000) + `,"method":"ping"}`, invalid},

		{"tools/call without id", `{"jsonrpc":"2.0","method":"tools/call","params":{M"name":"echo","arguments":{"text":"x"}}}`, invalid},
		{"tools/list without id", `{"jsonrpc":"2.0","method":"tools/list","params":{M"x":1}}`, invalid},
		{"a notification with an id", `{"jsonrpc":"2.0","id":7,"method":"notifications/cancelled","params":{M"requestId":1}}`, withID},
		{"an unknown notification with an id", `{"jsonrpc":"2.0","id":7,"method":"notifications/nonsense","params":{M"x":1}}`, withID},
	}
	each(t, all, func(t *testing.T, revision string) {
		c := w.client(t, "/mcp/dual", reader, revision)
		backend.Forget()
		for _, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				m := ""
				if c.Modern() {
					m = meta + ","
				}
				body := strings.ReplaceAll(row.body, "{M", "{"+m)
				lines := append(c.Lines("tools/call", map[string]any{"name": "echo"}), "X-Test: "+revision)
				got := harness.Post(t, c.URL, c.Key, body, lines...)
				want := row.want
				if want.code == 0 { // either will do
					want.code = got.Failure(t).Code
				}
				refused(t, got, want)
			})
		}
		backend.Untouched(t)
	})

	t.Run("4 MiB + 1 byte", func(t *testing.T) {
		body := []byte(`{"jsonrpc":"2.0","id":7,"method":"ping"}`)
		body = append(body, bytes.Repeat([]byte(" "), 4<<20+1-len(body))...)
		each(t, all, func(t *testing.T, revision string) {
			c := w.client(t, "/mcp/dual", reader, revision)
			for framing, reader := range map[string]io.Reader{"with a length": bytes.NewReader(body), "chunked": io.MultiReader(bytes.NewReader(body))} {
				t.Run(framing, func(t *testing.T) {
					refused(t, post(t, c, reader), refusal{413, -32600, "null", ""})
				})
			}
			for framing, reader := range map[string]io.Reader{"fits with a length": bytes.NewReader(body[:4<<20]), "fits chunked": io.MultiReader(bytes.NewReader(body[:4<<20]))} {
				t.Run(framing, func(t *testing.T) {
					if got := post(t, c, reader); got.Status == 413 || got.Status >= 500 {
						t.Errorf("status %d: %s", got.Status, got.Body)
					}
				})
			}
		})
	})

	t.Run("unknown methods", func(t *testing.T) {
		each(t, all, func(t *testing.T, revision string) {
			c := w.client(t, "/mcp/dual", reader, revision)
			want := refusal{404, -32601, `"x"`, ""}
			methods := []string{"nonsense", "TOOLS/CALL", "tools/Call", "tasks/list", "initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"}
			if !c.Modern() {
				want.status, methods = 200, []string{"nonsense", "TOOLS/CALL", "server/discover", "subscriptions/listen", "tasks/list"}
			}
			for _, method := range methods {
				t.Run(method, func(t *testing.T) { refused(t, c.CallID(t, `"x"`, method, nil), want) })
			}
		})
	})

	t.Run("notifications", func(t *testing.T) {
		each(t, all, func(t *testing.T, revision string) {
			c := w.client(t, "/mcp/dual", reader, revision)
			backend.Forget()
			for _, method := range []string{"notifications/nonsense", "notifications/tools/list_changed", "notifications/cancelled"} {
				if got := c.Notify(t, method, map[string]any{"requestId": 99}); got.Status != http.StatusAccepted || len(got.Body) != 0 {
					t.Errorf("%s: %d %q", method, got.Status, got.Body)
				}
			}
			c.Call(t, "tools/list", nil).Result(t, nil) // what was sent before it has been dealt with
			if got := backend.Requests("notifications/nonsense", "notifications/tools/list_changed", "notifications/cancelled"); len(got) != 0 {
				t.Errorf("the server received %+v", got)
			}
		})
	})

	t.Run("versions", func(t *testing.T) {
		for _, row := range []struct {
			name, body string
			headers    []string
			want       refusal
		}{
			{
				"a claim of the future", `{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2099-01-01","io.modelcontextprotocol/clientCapabilities":{}}}}`,
				[]string{"MCP-Protocol-Version: 2099-01-01", "Mcp-Method: tools/list"},
				refusal{400, -32022, "7", ""},
			},
			{
				"a claim of the past", `{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2025-11-25","io.modelcontextprotocol/clientCapabilities":{}}}}`,
				[]string{"MCP-Protocol-Version: 2025-11-25", "Mcp-Method: tools/list"},
				refusal{400, -32022, "7", ""},
			},
			{"an unknown header", `{"jsonrpc":"2.0","id":7,"method":"tools/list"}`, []string{"MCP-Protocol-Version: 2024-11-05"}, refusal{400, -32022, "7", ""}},
			{"header and claim disagree", `{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{` + meta + `}}`, []string{"MCP-Protocol-Version: 2025-11-25", "Mcp-Method: tools/list"}, refusal{400, -32020, "7", ""}},
			{"claim without header", `{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{` + meta + `}}`, []string{"Mcp-Method: tools/list"}, refusal{400, -32020, "7", ""}},
			{"header without claim", `{"jsonrpc":"2.0","id":7,"method":"tools/list"}`, []string{"MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/list"}, refusal{400, -32602, "7", ""}},
			{"header without claim, _meta there", `{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"_meta":{}}}`, []string{"MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/list"}, refusal{400, -32602, "7", ""}},
			{"no capabilities", `{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`, []string{"MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/list"}, refusal{400, -32602, "7", ""}},
			{"capabilities of a string", `{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":"all"}}}`, []string{"MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/list"}, refusal{400, -32602, "7", ""}},
			{"claim of a number", `{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":1,"io.modelcontextprotocol/clientCapabilities":{}}}}`, []string{"MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/list"}, refusal{400, -32602, "7", ""}},
			{"version header twice", `{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{` + meta + `}}`, []string{"MCP-Protocol-Version: 2026-07-28", "MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/list"}, refusal{400, -32020, "7", ""}},
			{"initialize in the modern era", `{"jsonrpc":"2.0","id":7,"method":"initialize","params":{` + meta + `,"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`, []string{"MCP-Protocol-Version: 2026-07-28", "Mcp-Method: initialize"}, refusal{404, -32601, "7", ""}},
			{"initialize with a modern header alone", `{"jsonrpc":"2.0","id":7,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`, []string{"MCP-Protocol-Version: 2026-07-28"}, refusal{400, -32020, "7", ""}},
			{"initialize without a version", `{"jsonrpc":"2.0","id":7,"method":"initialize","params":{"capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`, nil, refusal{200, -32602, "7", ""}},
			{"a response in the modern era", `{"jsonrpc":"2.0","id":7,"result":{}}`, []string{"MCP-Protocol-Version: 2026-07-28"}, refusal{400, -32600, "7", ""}},
		} {
			t.Run(row.name, func(t *testing.T) {
				e := refused(t, harness.Post(t, w.Base+"/mcp/dual", reader, row.body, row.headers...), row.want)
				if row.want.code == -32022 {
					data := object(t, e.Data)
					if s := fmt.Sprint(data["supported"]); !strings.Contains(s, harness.R20260728) || data["requested"] == "" {
						t.Errorf("data is %s", e.Data)
					}
				}
			})
		}
		for asked, gets := range map[string]string{"2024-11-05": harness.R20251125, "2099-01-01": harness.R20251125, harness.R20260728: harness.R20251125} {
			r := harness.Post(t, w.Base+"/mcp/dual", reader, `{"jsonrpc":"2.0","id":7,"method":"initialize","params":{"protocolVersion":"`+asked+`","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`)
			if got := object(t, r.Result(t, nil))["protocolVersion"]; got != gets {
				t.Errorf("initialize with %s gets %v", asked, got)
			}
		}
	})
}

// post sends a body that the client does not know beforehand, so that it is chunked unless it is a bytes.Reader.
func post(t *testing.T, c *harness.Client, body io.Reader) *harness.Reply {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL, body)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("Accept", "application/json, text/event-stream")
	q.Header.Set("Authorization", "Bearer "+c.Key)
	for _, line := range c.Lines("ping", nil) {
		name, value, _ := strings.Cut(line, ": ")
		q.Header.Set(name, value)
	}
	r, err := http.DefaultTransport.RoundTrip(q)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return &harness.Reply{Status: r.StatusCode, Header: r.Header, Body: b}
}
