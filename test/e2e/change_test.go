package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/test/harness"
)

// changes is a policy that rewrites the arguments of rewritten, and redacts what card and the tools beside it answer.
const changes = `package mcpgw.policy

allow if "reader" in input.subject.roles

rewrite contains {"path": "/max", "value": 50} if input.resource.name == "rewritten"

rewrite contains {"path": "/tenant", "value": input.subject.id} if input.resource.name == "rewritten"

rewrite contains {"pattern": "^http:", "with": "https:"} if input.resource.name == "rewritten"

rewrite contains {"path": "/absent/x", "value": 1} if input.resource.name == "impossible"

redacted if not input.resource.name in {"plain", "rewritten", "impossible"}

redact contains {"pattern": "\\b[0-9]{16}\\b", "with": "[card]"} if redacted

redact contains {"path": "/structuredContent/rows/*/ssn", "with": null} if redacted
`

// old makes a server one that speaks 2025-11-25 alone, with a session.
func old(t *testing.T, r *raw) *raw {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		var m struct {
			ID     json.RawMessage
			Method string
		}
		if err != nil || q.Method != http.MethodPost || json.Unmarshal(body, &m) != nil {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		switch {
		case m.Method == "initialize":
			w.Header().Set("Mcp-Session-Id", "of-the-old-server")
			reply(w, http.StatusOK, `"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"resources":{}},"serverInfo":{"name":"old","version":"1"}}`, m.ID)
		case m.Method == "server/discover":
			reply(w, http.StatusOK, `"error":{"code":-32601,"message":"no such method"}`, m.ID)
		case m.ID == nil:
			w.WriteHeader(http.StatusAccepted)
		default:
			q.Body = io.NopCloser(strings.NewReader(string(body)))
			r.ServeHTTP(w, q)
		}
	}))
	r.URL = s.URL + "/mcp"
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return r
}

// drip writes an event stream in pieces of three bytes, so that no text arrives whole.
func drip(w http.ResponseWriter, messages ...string) {
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	for _, m := range messages {
		event := "data: " + m + "\n\n"
		for len(event) > 0 {
			n := min(3, len(event))
			if len(event) > 4096 {
				n = 4096
			}
			if _, err := io.WriteString(w, event[:n]); err != nil || rc.Flush() != nil {
				return
			}
			event = event[n:]
		}
	}
}

const (
	cardNumber = "4111111111111111"
	// What tools answer: a number twice in text, once with an escape; rows twice, once as text; numbers and spaces that must stay.
	cardResult = `{ "content":[{"type":"text","text":"card \u0034111111111111111 and 4111111111111111"},{"type":"text","text":"{\"rows\":[{\"ssn\":\"078\",\"n\":1.0}]}"}],"structuredContent":{"rows":[{"ssn":"078","n":1.0,"big":900719925474099301,"number":4111111111111111}]}, "isError":false%s }`
	cardShown  = `{ "content":[{"type":"text","text":"card [card] and [card]"},{"type":"text","text":"{\"rows\":[{\"ssn\":null,\"n\":1.0}]}"}],"structuredContent":{"rows":[{"ssn":null,"n":1.0,"big":900719925474099301,"number":"[card]"}]}, "isError":false%s }`
)

// answers are what the tools of one server say.
func answers(complete string) map[string]func(http.ResponseWriter, rawCall) {
	response := func(id json.RawMessage, result string) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, id, result)
	}
	card := fmt.Sprintf(cardResult, complete)
	text := func(s string) string { return `{"content":[{"type":"text","text":"` + s + `"}]` + complete + `}` }
	body := func(contentType, b string) func(http.ResponseWriter, rawCall) {
		return func(w http.ResponseWriter, c rawCall) {
			w.Header().Set("Content-Type", contentType)
			_, _ = io.WriteString(w, strings.ReplaceAll(b, "ID", string(c.ID)))
		}
	}
	const log = `{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":{"seen":"` + cardNumber + `"}}}`
	const progress = `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"` + cardNumber + `","progress":1,"message":"at ` + cardNumber + `"}}`
	long := strings.Repeat("x", 70_000)
	return map[string]func(http.ResponseWriter, rawCall){
		"card":   func(w http.ResponseWriter, c rawCall) { reply(w, http.StatusOK, `"result":`+card, c.ID) },
		"stream": func(w http.ResponseWriter, c rawCall) { drip(w, log, progress, response(c.ID, card)) },
		"plain":  func(w http.ResponseWriter, c rawCall) { reply(w, http.StatusOK, `"result":`+card, c.ID) },
		"error": func(w http.ResponseWriter, c rawCall) {
			reply(w, http.StatusOK, `"error":{"code":-32000,"message":"card `+cardNumber+` is blocked","data":["`+cardNumber+`"]}`, c.ID)
		},
		"long": body("application/json", `{"jsonrpc":"2.0","id":ID,"result":`+text(cardNumber+long)+`}`),
		"long_stream": func(w http.ResponseWriter, c rawCall) {
			drip(w, progress, response(c.ID, text(cardNumber+" "+long)))
		},
		"image":       body("application/json", `{"jsonrpc":"2.0","id":ID,"result":{"content":[{"type":"image","data":"iVBORw0KGgo=","mimeType":"image/png"}]`+complete+`}}`),
		"undecodable": body("application/json", `{"jsonrpc":"2.0","id":ID,"result":`+text(cardNumber+"\xff")+`}`),
		"twice":       body("application/json", `{"jsonrpc":"2.0","id":ID,"result":{"content":[],"structuredContent":{"a":1,"a":"`+cardNumber+`"}`+complete+`}}`),
		"deep":        body("application/json", `{"jsonrpc":"2.0","id":ID,"result":{"structuredContent":`+strings.Repeat("[", 300)+`"`+cardNumber+`"`+strings.Repeat("]", 300)+complete+`}}`),
		"cut":         body("application/json", `{"jsonrpc":"2.0","id":ID,"result":{"content":[{"type":"text","text":"`+cardNumber),
		"broken_stream": func(w http.ResponseWriter, c rawCall) {
			drip(w, progress, `{"jsonrpc":"2.0","id":`+string(c.ID)+`,"result":{"a":"`+cardNumber)
		},
		"another_stream": func(w http.ResponseWriter, _ rawCall) {
			drip(w, response(json.RawMessage(`"another"`), text(cardNumber)))
		},
		"encoded": func(w http.ResponseWriter, c rawCall) {
			w.Header().Set("Content-Encoding", "br")
			reply(w, http.StatusOK, `"result":`+card, c.ID)
		},
		"rewritten":  func(w http.ResponseWriter, c rawCall) { reply(w, http.StatusOK, `"result":`+text("done"), c.ID) },
		"impossible": func(w http.ResponseWriter, c rawCall) { reply(w, http.StatusOK, `"result":`+text("done"), c.ID) },
	}
}

// TestChanges: policy rewrites arguments before any server sees them, and redacts answers before any client does, in each pair of eras.
func TestChanges(t *testing.T) {
	replies, olds := answers(`,"resultType":"complete"`), answers("")
	var tools []string
	for name := range replies {
		schema := anything
		if name == "rewritten" {
			schema = `{"type":"object","properties":{"max":{"type":"integer","x-mcp-header":"Max"},"tenant":{"type":"string"},"url":{"type":"string"}}}`
		}
		tools = append(tools, tool(name, schema))
	}
	modern, legacy := startRaw(t, strings.Join(tools, ","), replies), old(t, startRaw(t, strings.Join(tools, ","), olds))
	modern.reply["test://grüße"] = func(w http.ResponseWriter, c rawCall) {
		reply(w, http.StatusOK, `"result":{"contents":[{"uri":"test://grüße","blob":"Y2FyZCA0MTExMTExMTExMTExMTEx"},{"uri":"test://grüße","text":"`+cardNumber+`"}],"resultType":"complete","ttlMs":1,"cacheScope":"private"}`, c.ID)
	}
	w := start(t, setting{
		servers: server("modern", modern.URL, "modern") + server("old", legacy.URL, "legacy"),
		policy:  map[string]string{"policy.rego": changes}, redact: "65536",
	})
	w.await(t, "/mcp/modern", harness.R20260728, reader, len(tools))
	w.await(t, "/mcp/old", harness.R20251125, reader, len(tools))

	for _, pair := range []struct {
		name, path, revision string
		server               *raw
	}{
		{"modern at modern", "/mcp/modern", harness.R20260728, modern},
		{"legacy at modern", "/mcp/modern", harness.R20251125, modern},
		{"legacy at legacy", "/mcp/old", harness.R20251125, legacy},
	} {
		t.Run(pair.name, func(t *testing.T) {
			c := w.client(t, pair.path, reader, pair.revision)
			shown := fmt.Sprintf(cardShown, "")
			given := fmt.Sprintf(cardResult, "")
			if c.Modern() {
				shown, given = fmt.Sprintf(cardShown, `,"resultType":"complete"`), fmt.Sprintf(cardResult, `,"resultType":"complete"`)
			}
			if pair.name == "legacy at modern" { // the bridge takes resultType out, and with it white space
				shown, given = strings.ReplaceAll(shown, "{ \"content", "{\"content"), strings.ReplaceAll(given, "{ \"content", "{\"content")
				shown, given = strings.ReplaceAll(strings.ReplaceAll(shown, ", \"isError", ",\"isError"), "false }", "false}"), strings.ReplaceAll(strings.ReplaceAll(given, ", \"isError", ",\"isError"), "false }", "false}")
			}
			call := func(t *testing.T, tool string) *harness.Reply {
				t.Helper()
				return c.CallID(t, "9007199254740993", "tools/call", map[string]any{"name": tool, "arguments": map[string]any{}, "_meta": metaOf(c, cardNumber)})
			}
			t.Run("JSON", func(t *testing.T) {
				got := call(t, "card")
				if want := `{"jsonrpc":"2.0","id":9007199254740993,"result":` + shown + `}`; string(got.Body) != want {
					t.Errorf("got  %s\nwant %s", got.Body, want)
				}
			})
			t.Run("a stream", func(t *testing.T) {
				got := call(t, "stream")
				said := got.Messages()
				if len(said) != 3 || got.Header.Get("Content-Type") != "text/event-stream" {
					t.Fatalf("got %s", got.Body)
				}
				for n, want := range []string{
					`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":{"seen":"[card]"}}}`,
					`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"` + cardNumber + `","progress":1,"message":"at [card]"}}`,
					`{"jsonrpc":"2.0","id":9007199254740993,"result":` + shown + `}`,
				} {
					if string(said[n]) != want {
						t.Errorf("got  %s\nwant %s", said[n], want)
					}
				}
			})
			t.Run("an error", func(t *testing.T) {
				if e := call(t, "error").Failure(t); e.Code != -32000 || e.Message != "card [card] is blocked" || string(e.Data) != `["[card]"]` {
					t.Errorf("got %+v", e)
				}
			})
			t.Run("what needs no redaction passes as it is", func(t *testing.T) {
				broker := w.stats(t, `^cluster\.broker\.upstream_rq_total$`)["cluster.broker.upstream_rq_total"]
				got := call(t, "plain")
				if want := `{"jsonrpc":"2.0","id":9007199254740993,"result":` + given + `}`; string(got.Body) != want {
					t.Errorf("got  %s\nwant %s", got.Body, want)
				}
				now := w.stats(t, `^cluster\.broker\.upstream_rq_total$`)["cluster.broker.upstream_rq_total"]
				if direct := now == broker; direct != c.Modern() {
					t.Errorf("%d requests to the broker, then %d", broker, now)
				}
				if call(t, "card"); w.stats(t, `^cluster\.broker\.upstream_rq_total$`)["cluster.broker.upstream_rq_total"] != now+1 {
					t.Error("a redacted call did not go by the broker")
				}
			})
			for _, tool := range []string{"long", "long_stream", "image"} {
				t.Run(tool, func(t *testing.T) {
					got := call(t, tool)
					e := got.Failure(t)
					if !strings.Contains(string(e.Data), `"reason":"unredacted"`) || e.Code != -32603 {
						t.Errorf("got %+v, %s", e, e.Data)
					}
					keptBack(t, got)
				})
			}
			for _, tool := range []string{"undecodable", "twice", "deep", "cut", "broken_stream", "another_stream", "encoded"} {
				t.Run(tool, func(t *testing.T) {
					got := call(t, tool)
					if e := got.Failure(t); e.Code != -32603 || !strings.Contains(string(e.Data), `"reason"`) {
						t.Errorf("got %+v, %s", e, e.Data)
					}
					keptBack(t, got)
				})
			}
			t.Run("rewritten", func(t *testing.T) {
				pair.server.Calls()
				params := map[string]any{"name": "rewritten", "arguments": json.RawMessage(`{"n":1.0,"max":1000,"url":"http:\u002f/x"}`)}
				if c.Modern() {
					params["_meta"] = metaOf(c, 1)
				}
				if got := c.CallID(t, "1", "tools/call", params, "Mcp-Param-Max: 1000").Text(t); got != "done" {
					t.Errorf("got %q", got)
				}
				calls := pair.server.Calls()
				if len(calls) != 1 || string(calls[0].Arguments) != `{"n":1.0,"max":50,"url":"https://x","tenant":"reader"}` {
					t.Fatalf("the server got %+v", calls)
				}
				if got := calls[0].Header.Get("Mcp-Param-Max"); pair.server == modern && got != "50" {
					t.Errorf("the header says %q", got)
				}
			})
			t.Run("impossible", func(t *testing.T) {
				pair.server.Calls()
				refused(t, call(t, "impossible"), refusal{503, -32603, "9007199254740993", ""})
				if calls := pair.server.Calls(); len(calls) != 0 {
					t.Errorf("the server got %+v", calls)
				}
			})
			if pair.server == modern {
				t.Run("a resource", func(t *testing.T) {
					var result struct{ Contents []struct{ Blob, Text string } }
					c.Call(t, "resources/read", map[string]any{"uri": "test://grüße"}, "Mcp-Name: =?base64?dGVzdDovL2dyw7zDn2U=?=").Result(t, &result)
					if got := fmt.Sprint(result.Contents); got != "[{Y2FyZCBbY2FyZF0= } { [card]}]" {
						t.Errorf("got %s", got)
					}
				})
			}
		})
	}
}

// metaOf is _meta with a progress token.
func metaOf(c *harness.Client, token any) map[string]any {
	m := map[string]any{"progressToken": token}
	if c.Modern() {
		m["io.modelcontextprotocol/protocolVersion"] = harness.R20260728
		m["io.modelcontextprotocol/clientCapabilities"] = map[string]any{}
	}
	return m
}

// keptBack fails the test if the number is in an answer other than as the client's own progress token.
func keptBack(t *testing.T, got *harness.Reply) {
	t.Helper()
	if strings.Contains(strings.ReplaceAll(string(got.Body), `"progressToken":"`+cardNumber+`"`, ""), cardNumber[:8]) {
		t.Errorf("the answer shows %s", got.Body)
	}
}

// TestRedactedCallEndsWithItsClient: in the modern era leaving is cancelling, whatever the lane.
func TestRedactedCallEndsWithItsClient(t *testing.T) {
	backend := harness.StartBackend(t, harness.Modern, nil)
	w := start(t, setting{servers: server("modern", backend.URL, "modern"), policy: map[string]string{"policy.rego": changes}})
	w.await(t, "/mcp/modern", harness.R20260728, reader, 6)
	c := w.client(t, "/mcp/modern", reader, harness.R20260728)
	s := c.Stream(t, `"call"`, "tools/call", slowly(c, "token"))
	s.Until(t, "notifications/progress", soon)
	s.Close()
	select {
	case <-backend.Cancelled():
	case <-time.After(soon):
		t.Error("the server was not told")
	}
}

// await waits until a caller sees n tools.
func (w *world) await(t *testing.T, path, revision, key string, n int) {
	t.Helper()
	c := w.client(t, path, key, revision)
	harness.Eventually(t, 20*time.Second, fmt.Sprintf("%s lists %d tools", path, n), func() bool { return len(c.List(t, "tools/list")) >= n })
}

// TestRedactionCoversTheStandingStream: many legacy servers tell of a call on the standing stream of its session.
func TestRedactionCoversTheStandingStream(t *testing.T) {
	log := fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":%q}}`, "card "+cardNumber)
	const image = `{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"messages":[{"role":"user","content":{"type":"image","mimeType":"image/png","data":"/w=="}}]}}`
	finish := make(chan struct{})
	var mu sync.Mutex
	standing := map[chan string]bool{}
	aside := func(m string) {
		mu.Lock()
		defer mu.Unlock()
		for s := range standing {
			s <- m
		}
	}
	replies := answers("")
	replies["waits"] = func(w http.ResponseWriter, c rawCall) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-finish:
		case <-time.After(soon):
		}
		drip(w, `{"jsonrpc":"2.0","id":`+string(c.ID)+`,"result":{}}`)
	}
	r := startRaw(t, tool("waits", anything)+","+tool("plain", anything), replies)
	to, err := url.Parse(strings.TrimSuffix(old(t, r).URL, "/mcp"))
	if err != nil {
		t.Fatal(err)
	}
	behind := httputil.NewSingleHostReverseProxy(to)
	behind.FlushInterval = -1
	answered := make(chan string, 8)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method != http.MethodGet {
			body, _ := io.ReadAll(q.Body)
			if strings.Contains(string(body), `"error"`) || strings.Contains(string(body), `"decline"`) {
				answered <- string(body)
			}
			q.Body = io.NopCloser(strings.NewReader(string(body)))
			behind.ServeHTTP(w, q)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		mine := make(chan string, 8)
		mu.Lock()
		standing[mine] = true
		mu.Unlock()
		for {
			_ = http.NewResponseController(w).Flush()
			select {
			case <-q.Context().Done():
				return
			case m := <-mine:
				_, _ = fmt.Fprintf(w, "data: %s\n\n", m)
			}
		}
	}))
	t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
	})
	w := start(t, setting{servers: server("old", front.URL+"/mcp", "legacy"), policy: map[string]string{"policy.rego": changes}})
	w.await(t, "/mcp/old", harness.R20251125, reader, 2)
	c := w.client(t, "/mcp/old", reader, harness.R20251125)
	s := c.Listen(t)
	c.Tool(t, "plain", nil).Result(t, nil) // opens the session at the server, and with it its standing stream
	said := func(want string) {
		t.Helper()
		if got := string(s.Until(t, "notifications/message", soon)); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	harness.Eventually(t, soon, "the standing stream is open", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(standing) == 1
	})
	aside(log)
	said(log)
	call := c.Stream(t, `"call"`, "tools/call", map[string]any{"name": "waits", "arguments": map[string]any{}})
	harness.Eventually(t, soon, "the server has the call", func() bool {
		for _, c := range r.Calls() {
			if strings.Contains(string(c.Body), "waits") {
				return true
			}
		}
		return false
	})
	aside(image) // cannot be searched: the server is told, the client is not
	select {
	case got := <-answered:
		if !strings.Contains(got, `"reason":"unredacted"`) {
			t.Errorf("the server hears %s", got)
		}
	case <-time.After(soon):
		t.Error("the server waits for an answer")
	}
	aside(`{"jsonrpc":"2.0","id":2,"method":"elicitation/create","params":{"message":"` + cardNumber + `?","requestedSchema":{"type":"object","properties":{}}}}`)
	var question struct {
		ID     json.RawMessage
		Params struct{ Message string }
	}
	if err := json.Unmarshal(s.Until(t, "elicitation/create", soon), &question); err != nil || question.Params.Message != "[card]?" {
		t.Errorf("the client is asked %q (%v)", question.Params.Message, err)
	}
	c.Respond(t, string(question.ID), map[string]any{"action": "decline"})
	select {
	case got := <-answered:
		if !strings.Contains(strings.ReplaceAll(got, " ", ""), `"id":2`) {
			t.Errorf("the server hears %s", got)
		}
	case <-time.After(soon):
		t.Error("the server hears no answer")
	}
	aside(log)
	said(strings.Replace(log, cardNumber, "[card]", 1))
	close(finish)
	call.Close()
}
