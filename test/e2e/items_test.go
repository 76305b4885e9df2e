package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpgw/mcpgw/test/harness"
)

// ids are requests' ids that a careless reader changes.
var ids = []string{"0", "-1", "9007199254740993", "123456789012345678901234567890", `""`, `"1"`, `"a\"b\\c\u00e9\n"`, `"\ud83d\ude00"`, `"é😀"`, `"</script>&"`}

// more gives a backend a prompt and a resource that readers do not see.
func more(s *mcp.Server) {
	s.AddPrompt(&mcp.Prompt{Name: "secret"}, func(context.Context, *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return &mcp.GetPromptResult{}, nil
	})
	s.AddResource(&mcp.Resource{URI: "test://secret", Name: "secret"}, func(_ context.Context, r *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: r.Params.URI, Text: "secret"}}}, nil
	})
}

// TestItems: lists, calls, reads, gets and completion; what is hidden, refused, unknown. The servers' URIs collide, so the first owns them.
func TestItems(t *testing.T) {
	modern, dual, legacy := harness.StartBackend(t, harness.Modern, more), harness.StartBackend(t, harness.Dual, more), harness.StartBackend(t, harness.Legacy, more)
	echoed := func(w http.ResponseWriter, c rawCall) { // the argument's own bytes, in a result with what Go would write otherwise
		reply(w, http.StatusOK, `"result":{"content":[{"type":"text","text":"ok"}],"structuredContent":{"z":1.0, "big":9007199254740993,"a":`+string(c.Arguments)+`},"x-unknown":{"e":1E2},"resultType":"complete"}`, c.ID)
	}
	bytewise := startRaw(t, tool("same", anything)+","+tool("stream", anything), map[string]func(http.ResponseWriter, rawCall){"same": echoed, "stream": func(w http.ResponseWriter, c rawCall) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprintf(w, "event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{\"content\":[],\"n\":1.0,\"resultType\":\"complete\"}}\n\n", c.ID)
	}})
	w := start(t, setting{
		servers: server("modern", modern.URL, "modern") + server("dual", dual.URL, "auto") + server("legacy", legacy.URL, "legacy") + server("raw", bytewise.URL, "modern"),
		endpoints: `
  - { name: mcp, path: /mcp, per_server: true }
  - { name: told, path: /told, denials: result, servers: [{ server: dual }] }
  - { name: paged, path: /paged, page_size: 2, servers: [{ server: dual }] }
  - { name: some, path: /some, servers: [{ server: modern, include: ["e*"], exclude: [echo_b], kinds: [tool] }, { server: dual, kinds: [prompt] }] }`,
	})
	tools := []string{"add", "big", "echo", "echo_b", "fail", "slow"}
	w.lists(t, "/mcp/dual", harness.R20260728, len(tools))
	w.lists(t, "/mcp", harness.R20251125, 3*len(tools)+2)

	t.Run("lists", func(t *testing.T) {
		each(t, all, func(t *testing.T, revision string) {
			seen := func(path, key, method string) []string { return w.client(t, path, key, revision).List(t, method) }
			visible := []string{"big", "echo", "echo_b", "slow"}
			var merged []string
			for _, server := range []string{"modern", "dual", "legacy"} {
				if server == "legacy" && revision == harness.R20260728 {
					continue // its items are left out for modern clients
				}
				for _, name := range visible {
					merged = append(merged, server+"_"+name)
				}
			}
			merged = append(merged, "raw_same", "raw_stream")
			for _, row := range []struct {
				path, key, method string
				want              []string
			}{
				{"/mcp/dual", writer, "tools/list", tools},
				{"/mcp/dual", reader, "tools/list", visible},
				{"/mcp", reader, "tools/list", merged},
				{"/mcp/dual", reader, "resources/list", []string{"test://text"}},
				{"/mcp/dual", writer, "resources/list", []string{"test://secret", "test://text"}},
				{"/mcp/dual", reader, "resources/templates/list", []string{"test://item/{id}"}},
				{"/mcp/dual", reader, "prompts/list", []string{"greet"}},
				{"/mcp/dual", writer, "prompts/list", []string{"greet", "secret"}},
				{"/paged", writer, "tools/list", tools},
				{"/paged", reader, "tools/list", visible},
				{"/some", writer, "tools/list", []string{"modern_echo"}},
				{"/some", writer, "prompts/list", []string{"dual_greet", "dual_secret"}},
				{"/some", writer, "resources/list", []string{}},
			} {
				if got := seen(row.path, row.key, row.method); !slices.Equal(got, row.want) {
					t.Errorf("%s of %s with %s:\n%s", row.method, row.path, row.key, cmp.Diff(row.want, got))
				}
			}
			if revision != harness.R20260728 {
				if got := seen("/mcp/legacy", reader, "tools/list"); !slices.Equal(got, visible) {
					t.Errorf("/mcp/legacy: %v", got)
				}
			} else if got := seen("/mcp/legacy", writer, "tools/list"); len(got) > 0 {
				t.Errorf("/mcp/legacy: %v", got)
			}
		})
	})
	t.Run("pages and cursors", func(t *testing.T) {
		each(t, all, func(t *testing.T, revision string) {
			c := w.client(t, "/paged", writer, revision)
			first := c.Call(t, "tools/list", nil)
			cursor, _ := object(t, first.Result(t, nil))["nextCursor"].(string)
			if got := first.Names(t); !slices.Equal(got, tools[:2]) || cursor == "" {
				t.Fatalf("first page %v, cursor %q", got, cursor)
			}
			if got := c.Call(t, "tools/list", map[string]any{"cursor": cursor}).Names(t); !slices.Equal(got, tools[2:4]) {
				t.Errorf("second page %v", got)
			}
			if got := c.Call(t, "tools/list", map[string]any{"cursor": ""}).Names(t); !slices.Equal(got, tools[:2]) {
				t.Errorf("the cursor \"\" gets %v", got)
			}
			for _, bad := range []any{"nonsense", "=" + cursor, "AAAA", strings.Repeat("A", 100_000), 5, nil, map[string]any{}} {
				refused(t, c.CallID(t, `"p"`, "tools/list", map[string]any{"cursor": bad}), refusal{200, -32602, `"p"`, ""})
			}
		})
	})
	t.Run("a list is the same bytes each time", func(t *testing.T) {
		each(t, all, func(t *testing.T, revision string) {
			c := w.client(t, "/mcp", reader, revision)
			want := c.CallID(t, "1", "tools/list", nil).Body
			for range 20 {
				if got := c.CallID(t, "1", "tools/list", nil).Body; !bytes.Equal(got, want) {
					t.Fatalf("got %s", got)
				}
			}
			if result := object(t, c.Call(t, "tools/list", nil).Result(t, nil)); c.Modern() && (result["cacheScope"] != "private" || result["ttlMs"] == nil || result["resultType"] != "complete") {
				t.Errorf("a modern list says %v, %v, %v", result["cacheScope"], result["ttlMs"], result["resultType"])
			} else if !c.Modern() && (result["cacheScope"] != nil || result["resultType"] != nil) {
				t.Errorf("a legacy list says %v, %v", result["cacheScope"], result["resultType"])
			}
		})
	})

	t.Run("uses", func(t *testing.T) {
		each(t, all, func(t *testing.T, revision string) {
			servers := []string{"modern", "dual"}
			if revision != harness.R20260728 {
				servers = append(servers, "legacy")
			}
			for _, name := range servers {
				t.Run(name, func(t *testing.T) {
					c := w.client(t, "/mcp/"+name, reader, revision)
					if got := c.Tool(t, "echo", map[string]any{"text": "häh"}).Text(t); got != "häh" {
						t.Errorf("tools/call gets %q", got)
					}
					if got := w.client(t, "/mcp", reader, revision).Tool(t, name+"_echo", map[string]any{"text": "x"}).Text(t); got != "x" {
						t.Errorf("tools/call under the merged name gets %q", got)
					}
					for uri, want := range map[string]string{"test://text": "text of test://text", "test://item/7": "text of test://item/7"} {
						if got := c.Call(t, "resources/read", map[string]any{"uri": uri}).Result(t, nil); !bytes.Contains(got, []byte(want)) {
							t.Errorf("resources/read of %s gets %s", uri, got)
						}
					}
					if got := c.Call(t, "prompts/get", map[string]any{"name": "greet", "arguments": map[string]any{"who": "you"}}).Result(t, nil); !bytes.Contains(got, []byte("greet you")) {
						t.Errorf("prompts/get gets %s", got)
					}
					argument := map[string]any{"name": "who", "value": "a"}
					for _, ref := range []map[string]any{{"type": "ref/prompt", "name": "greet"}, {"type": "ref/resource", "uri": "test://item/{id}"}} {
						if got := c.Call(t, "completion/complete", map[string]any{"ref": ref, "argument": argument}).Result(t, nil); !bytes.Contains(got, []byte("a-completed")) {
							t.Errorf("completion/complete of %v gets %s", ref, got)
						}
					}
					if got := w.client(t, "/mcp", reader, revision).Call(t, "completion/complete", map[string]any{"ref": map[string]any{"type": "ref/prompt", "name": name + "_greet"}, "argument": argument}).Result(t, nil); !bytes.Contains(got, []byte("a-completed")) {
						t.Errorf("completion/complete under the merged name gets %s", got)
					}
				})
			}
		})
	})
	t.Run("what a list shows can be called, what it does not cannot", func(t *testing.T) {
		each(t, all, func(t *testing.T, revision string) {
			for _, key := range []string{reader, writer} {
				c := w.client(t, "/mcp", key, revision)
				listed := c.List(t, "tools/list")
				for _, server := range []string{"modern", "dual"} {
					for _, name := range tools {
						name := server + "_" + name
						r := c.Tool(t, name, map[string]any{"text": "x", "bytes": 5, "a": 1, "b": 1, "id": "x", "millis": 0}).Response(t)
						unknown := r.Error != nil && strings.Contains(r.Error.Message, "unknown tool")
						if slices.Contains(listed, name) == unknown {
							t.Errorf("%s: listed %v, and a call gets %+v", name, slices.Contains(listed, name), r.Error)
						}
					}
				}
			}
		})
	})

	t.Run("hidden is unknown", func(t *testing.T) {
		dual.Forget()
		modern.Forget()
		legacy.Forget()
		each(t, all, func(t *testing.T, revision string) {
			c := w.client(t, "/mcp/dual", reader, revision)
			same := func(name, method string, hidden, missing map[string]any, of, as string, headers ...string) {
				t.Run(name, func(t *testing.T) {
					want, got := c.CallID(t, `"u"`, method, missing, headers...), c.CallID(t, `"u"`, method, hidden, headers...)
					if want.Status != got.Status || string(want.Body) != strings.ReplaceAll(string(got.Body), of, as) {
						t.Errorf("hidden gets %d %s\nmissing gets %d %s", got.Status, got.Body, want.Status, want.Body)
					}
					for name := range want.Header {
						if name != "Date" && name != "Content-Length" && want.Header.Get(name) != got.Header.Get(name) || len(want.Header) != len(got.Header) {
							t.Errorf("headers differ: %v, %v", want.Header, got.Header)
						}
					}
				})
			}
			arguments := map[string]any{"a": 1, "b": 2}
			call := func(name string, arguments any) map[string]any {
				return map[string]any{"name": name, "arguments": arguments}
			}
			same("called rightly", "tools/call", call("add", arguments), call("off", arguments), "add", "off")
			same("without arguments", "tools/call", map[string]any{"name": "add"}, map[string]any{"name": "off"}, "add", "off")
			same("arguments of the wrong type", "tools/call", call("add", map[string]any{"a": "x"}), call("off", map[string]any{"a": "x"}), "add", "off")
			same("an argument in another case", "tools/call", call("add", map[string]any{"A": 1}), call("off", map[string]any{"A": 1}), "add", "off")
			same("arguments that are no object", "tools/call", call("add", 5), call("off", 5), "add", "off")
			same("a prompt", "prompts/get", map[string]any{"name": "secret"}, map[string]any{"name": "nobody"}, "secret", "nobody")
			same("a resource", "resources/read", map[string]any{"uri": "test://secret"}, map[string]any{"uri": "none://secret"}, "test://", "none://")
			same("completion", "completion/complete", map[string]any{"ref": map[string]any{"type": "ref/prompt", "name": "secret"}, "argument": arguments}, map[string]any{"ref": map[string]any{"type": "ref/prompt", "name": "nobody"}, "argument": arguments}, "secret", "nobody")
			if c.Modern() {
				same("wrong Mcp-Name", "tools/call", call("add", arguments), call("off", arguments), "add", "off", "Mcp-Name: echo")
				same("wrong Mcp-Param", "tools/call", call("add", arguments), call("off", arguments), "add", "off", "Mcp-Param-A: 1")
			} else {
				same("a subscription", "resources/subscribe", map[string]any{"uri": "test://secret"}, map[string]any{"uri": "none://secret"}, "test://", "none://")
			}
			for _, name := range []string{"off", "echo ", "ECHO", "../echo", "dual_echo", strings.Repeat("x", 10_000)} {
				refused(t, c.CallID(t, `"u"`, "tools/call", map[string]any{"name": name}, "Mcp-Name: "+header(name)), refusal{200, -32602, `"u"`, ""})
			}
			e := refused(t, c.CallID(t, `"u"`, "resources/read", map[string]any{"uri": "none://x"}), refusal{200, -32602, `"u"`, ""})
			if string(e.Data) != `{"uri":"none://x"}` {
				t.Errorf("data is %s", e.Data)
			}
		})
		for _, b := range []*harness.Backend{dual, modern, legacy} {
			b.Untouched(t)
		}
	})

	t.Run("denied", func(t *testing.T) {
		dual.Forget()
		const why = "readers get 1 to 10 bytes"
		each(t, all, func(t *testing.T, revision string) {
			c, told := w.client(t, "/mcp/dual", reader, revision), w.client(t, "/told", reader, revision)
			for _, bytes := range []any{11, 0, -1, 50.5, 1e300} {
				params := map[string]any{"name": "big", "arguments": map[string]any{"bytes": bytes}}
				if bytes == 50.5 {
					params["arguments"] = map[string]any{} // absent: undefined is no proof
				}
				e := refused(t, c.CallID(t, "9007199254740993", "tools/call", params), refusal{200, 403, "9007199254740993", ""})
				data := object(t, e.Data)
				if e.Message != why || data["decision"] != "deny" || !strings.Contains(fmt.Sprint(data["reasons"]), why) {
					t.Errorf("%v gets %q %s", bytes, e.Message, e.Data)
				}
				var result struct {
					IsError bool
					Content []struct{ Type, Text string }
				}
				params["name"] = "big"
				told.CallID(t, "9007199254740993", "tools/call", params).Result(t, &result)
				if !result.IsError || len(result.Content) != 1 || result.Content[0].Text != why {
					t.Errorf("with denials: result, %v gets %+v", bytes, result)
				}
			}
			if got := c.Tool(t, "big", map[string]any{"bytes": 10}).Text(t); len(got) != 10 {
				t.Errorf("10 bytes are %d", len(got))
			}
		})
		if n := len(dual.Requests("tools/call")); n != len(all) {
			t.Errorf("the server received %d calls", n)
		}
	})
	t.Run("arguments that a rule reads have the declared type", func(t *testing.T) {
		dual.Forget()
		each(t, all, func(t *testing.T, revision string) {
			c := w.client(t, "/mcp/dual", reader, revision)
			for _, arguments := range []map[string]any{{"bytes": "5"}, {"bytes": nil}, {"bytes": false}, {"bytes": 5.5}, {"bytes": []int{5}}, {"bytes": map[string]any{}}, {"Bytes": 5}, {"BYTES": 5, "bytes": 5}} {
				refused(t, c.CallID(t, `"t"`, "tools/call", map[string]any{"name": "big", "arguments": arguments}), refusal{200, -32602, `"t"`, ""})
			}
			refused(t, c.CallID(t, `"t"`, "tools/call", map[string]any{"name": "big", "arguments": "5"}), refusal{400, -32600, `"t"`, ""})
			for _, params := range []map[string]any{{}, {"name": nil}, {"name": 5}, {"name": ""}} {
				refused(t, c.CallID(t, `"t"`, "tools/call", params), refusal{200, -32602, `"t"`, ""})
			}
		})
		dual.Untouched(t)
	})

	t.Run("ids come back byte for byte", func(t *testing.T) {
		each(t, all, func(t *testing.T, revision string) {
			for _, id := range ids {
				want := func(lane string, got *harness.Reply) {
					if r := got.Response(t); string(r.ID) != id {
						t.Errorf("%s: %s came back as %s", lane, id, r.ID)
					}
				}
				c := w.client(t, "/mcp/raw", reader, revision)
				body := func(method, params string) *harness.Reply {
					if c.Modern() {
						params = meta + "," + params
					}
					name := map[string]any{}
					for _, n := range []string{"same", "stream", "off", "big"} {
						if strings.Contains(params, `"name":"`+n+`"`) {
							name["name"] = n
						}
					}
					return harness.Post(t, c.URL, c.Key, `{"jsonrpc":"2.0","id":`+id+`,"method":"`+method+`","params":{`+params+`}}`, c.Lines(method, name)...)
				}
				want("a list", body("tools/list", `"x":1`))
				want("a call", body("tools/call", `"name":"same","arguments":{}`))
				want("a call with a stream", body("tools/call", `"name":"stream","arguments":{}`))
				want("an unknown tool", body("tools/call", `"name":"off"`))
				want("an unknown method", body("nonsense", `"x":1`))
				want("an invalid message", body("tools/call", `"name":"same","Name":"same"`))
				want("a bad cursor", body("tools/list", `"cursor":"x"`))
				if !c.Modern() {
					want("a ping", body("ping", `"x":1`))
				}
				c = w.client(t, "/mcp/dual", reader, revision)
				want("a denied call", body("tools/call", `"name":"big","arguments":{"bytes":11}`))
			}
		})
	})
	t.Run("results and arguments keep their bytes", func(t *testing.T) {
		const arguments = `{ "n": 9007199254740993, "f":1.0,"e":1E2 ,"z":[1,2.50],"s":"\u00e9\/","a":{"é":null}}`
		each(t, all, func(t *testing.T, revision string) {
			for path, name := range map[string]string{"/mcp/raw": "same", "/mcp": "raw_same"} {
				c := w.client(t, path, reader, revision)
				m := ""
				if c.Modern() {
					m = meta + ","
				}
				bytewise.Calls()
				r := harness.Post(t, c.URL, c.Key, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{`+m+`"name":"`+name+`","arguments":`+arguments+`,"x-more":1.0}}`,
					c.Lines("tools/call", map[string]any{"name": name})...)
				for _, part := range []string{`"structuredContent":{"z":1.0, "big":9007199254740993,"a":` + arguments + `}`, `"x-unknown":{"e":1E2}`} {
					if !strings.Contains(string(r.Body), part) {
						t.Errorf("%s: the answer has not %s: %s", path, part, r.Body)
					}
				}
				calls := bytewise.Calls()
				if len(calls) != 1 || !strings.Contains(string(calls[0].Body), `"arguments":`+arguments+`,"x-more":1.0}}`) || !strings.Contains(string(calls[0].Body), `"name":"same"`) {
					t.Errorf("%s: the server received %+v", path, calls)
				}
			}
		})
	})
	t.Run("discover and initialize", func(t *testing.T) {
		c := w.client(t, "/mcp/dual", reader, harness.R20260728)
		discovered := object(t, c.Call(t, "server/discover", nil).Result(t, nil))
		if fmt.Sprint(discovered["supportedVersions"]) != fmt.Sprint(all) || discovered["resultType"] != "complete" || discovered["cacheScope"] != "private" || discovered["capabilities"] == nil {
			t.Errorf("discovered %v", discovered)
		}
		each(t, legacies, func(t *testing.T, revision string) {
			c := w.client(t, "/mcp/dual", reader, revision)
			welcome := object(t, c.Welcome.Result(t, nil))
			if welcome["serverInfo"] == nil || welcome["capabilities"] == nil || len(c.Session) < 22 {
				t.Errorf("welcomed with %v in session %q", welcome, c.Session)
			}
			if got := string(c.Call(t, "ping", nil).Result(t, nil)); got != "{}" {
				t.Errorf("ping gets %s", got)
			}
		})
	})
}

// header is a name as a header can carry it.
func header(name string) string {
	if strings.TrimSpace(name) != name {
		return "=?base64?ZWNobyA=?=" // the one name with a space here
	}
	return name
}
