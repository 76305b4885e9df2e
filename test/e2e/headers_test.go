package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/mcpgw/mcpgw/test/harness"
)

// TestHeaders: what a client may not say in a server's hearing, what headers must mirror, and what of a server's headers a client sees.
func TestHeaders(t *testing.T) {
	backend := harness.StartBackend(t, harness.Dual, nil)
	schema := `{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"count":{"type":"integer","x-mcp-header":"Count"},` +
		`"dry":{"type":"boolean","x-mcp-header":"Dry"},"at":{"type":"object","properties":{"zone":{"type":"string","x-mcp-header":"Zone"}}},"other":{"type":"string"}}}`
	mirror := func(w http.ResponseWriter, c rawCall) {
		h := w.Header()
		h.Set("Set-Cookie", "upstream=1")
		h.Set("Www-Authenticate", "Bearer realm=upstream")
		h.Set("Mcp-Session-Id", "upstream-session")
		h.Set("X-Powered-By", "upstream")
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("X-Internal-Address", "10.0.0.1")
		reply(w, http.StatusOK, `"result":{"content":[{"type":"text","text":"ok"}],"resultType":"complete"}`, c.ID)
	}
	mirrored := startRaw(t, tool("region", schema)+","+tool("bad", `{"type":"object","properties":{"list":{"type":"array","x-mcp-header":"List"}}}`),
		map[string]func(http.ResponseWriter, rawCall){"region": mirror, "test://grüße": mirror})
	w := start(t, setting{
		servers: server("dual", backend.URL, "auto") + server("raw", mirrored.URL, "modern", `, forward_headers: [x-team]`),
	})
	w.lists(t, "/mcp/dual", harness.R20260728, 6)
	w.lists(t, "/mcp/raw", harness.R20260728, 1)

	// What no server may hear from a client, beside credentials and cookies.
	secret := []string{
		"X-Mcpgw-Backend: s/dual", "x-MCPGW-exchange: ticket", "x-mcpgw-egress-token: token", "X-MCPGW-Backend: s/raw", "X-Mcpgw-Anything: 1", "X-Mcpgw-Local: 1", "X-Mcpgw-Listener: other",
		"X-Forwarded-User: root", "X-Tenant-Id: acme", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Host: evil", "Forwarded: for=6.6.6.6", "X-Real-Ip: 6.6.6.6", "X-Team: red",
		"Cookie: session=secret", "Cookie: second=secret", "Proxy-Authorization: Basic secret", "Referer: http://secret/", "Baggage: user=secret", "X-Envoy-Original-Path: /secret", "X-Envoy-Retry-On: 5xx", "Last-Event-Id: 7",
		"Accept-Encoding: gzip", "X-Amzn-Oidc-Identity: secret", "X_Forwarded_User: root", "Te: trailers",
	}
	allowed := map[string]bool{
		"Accept": true, "Content-Type": true, "Content-Length": true, "User-Agent": true, "Mcp-Protocol-Version": true, "Mcp-Method": true, "Mcp-Name": true,
		"Mcp-Session-Id": true, "X-Request-Id": true, "Traceparent": true, "Tracestate": true, "Mcp-Param-Unknown": true,
		"X-Forwarded-Proto": true,
	} // Envoy's own word of the hop from the broker, not a client's
	for _, key := range []string{"Authorization: Bearer " + reader, "X-Api-Key: " + reader} {
		name, _, _ := strings.Cut(key, ":")
		t.Run("nothing but MCP travels, credential in "+name, func(t *testing.T) {
			each(t, all, func(t *testing.T, revision string) {
				c := &harness.Client{URL: w.Base + "/mcp/dual", Revision: revision, Headers: append([]string{key, "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Mcp-Param-Unknown: kept"}, secret...)}
				if !c.Modern() {
					c.Initialize(t)
				}
				backend.Forget()
				if got := c.Tool(t, "echo", map[string]any{"text": "x"}).Text(t); got != "x" {
					t.Fatalf("got %q", got)
				}
				requests := backend.Requests()
				if len(requests) == 0 {
					t.Fatal("the server received nothing")
				}
				for _, r := range requests { // of the broker's lane also those that make the session
					for name, values := range r.Header {
						if !allowed[name] || len(values) != 1 {
							t.Errorf("%s carries %s: %q", r.RPC, name, values)
						}
						for _, v := range values {
							if strings.Contains(v, reader) || strings.Contains(v, "secret") || strings.Contains(v, c.Session) && c.Session != "" {
								t.Errorf("%s carries %s: %q", r.RPC, name, v)
							}
						}
					}
					if r.Path != "/mcp" || strings.Contains(string(r.Body), reader) {
						t.Errorf("the server received %s with %s", r.Path, r.Body)
					}
				}
				if c.Modern() {
					if tp := requests[0].Header.Get("Mcp-Param-Unknown"); tp != "kept" {
						t.Errorf("an unknown Mcp-Param-* must travel on, got %q", tp)
					}
				}
			})
		})
	}
	t.Run("forward_headers", func(t *testing.T) {
		c := harness.NewModern(w.Base+"/mcp/raw", reader)
		c.Headers = []string{"X-Team: red", "X-Tenant-Id: acme", "Mcp-Param-Region: eu"}
		mirrored.Calls()
		c.Tool(t, "region", map[string]any{"region": "eu"}).Result(t, nil)
		if calls := mirrored.Calls(); len(calls) != 1 || calls[0].Header.Get("X-Team") != "red" || calls[0].Header.Get("X-Tenant-Id") != "" {
			t.Errorf("received %+v", calls)
		}
		legacy := &harness.Client{URL: w.Base + "/mcp/raw", Key: reader, Revision: harness.R20251125, Headers: []string{"X-Team: red", "X-Tenant-Id: acme"}}
		legacy.Initialize(t)
		legacy.Tool(t, "region", map[string]any{"region": "eu"}).Result(t, nil)
		if calls := mirrored.Calls(); len(calls) != 1 || calls[0].Header.Get("X-Team") != "red" || calls[0].Header.Get("X-Tenant-Id") != "" {
			t.Errorf("received %+v", calls)
		}
	})
	t.Run("trailers", func(t *testing.T) {
		mirrored.Calls()
		c := harness.NewModern(w.Base+"/mcp/raw", reader)
		params := map[string]any{"name": "region", "arguments": map[string]any{}}
		body := c.Body("1", "tools/call", params)
		status, answer := withTrailer(t, w.Base, "/mcp/raw", append(c.Lines("tools/call", params), "Authorization: Bearer "+reader, "Trailer: X-Mcpgw-Backend, X-Forwarded-User"),
			body, "X-Mcpgw-Backend: s/dual\r\nX-Forwarded-User: root\r\nAuthorization: Bearer "+reader)
		calls := mirrored.Calls()
		if status != 200 || !strings.Contains(answer, `"ok"`) || len(calls) != 1 {
			t.Fatalf("got %d %s, and the server received %+v", status, answer, calls)
		}
		if len(calls[0].Trailer) > 0 || calls[0].Header.Get("X-Mcpgw-Backend") != "" {
			t.Errorf("the server received trailers: %v, %v", calls[0].Trailer, calls[0].Header)
		}
	})
	t.Run("a client's route counts for nothing", func(t *testing.T) {
		backend.Forget()
		for _, lines := range [][]string{{"X-Mcpgw-Backend: s/dual"}, {"X-Mcpgw-Backend: broker", "X-Mcpgw-Exchange: x"}, {"x-mcpgw-backend: s/dual", "X-MCPGW-BACKEND: s/dual"}} {
			c := harness.NewModern(w.Base+"/mcp/dual", reader)
			c.Headers = lines
			refused(t, c.Tool(t, "nothing", nil), refusal{200, -32602, "1", ""})
			refused(t, harness.Post(t, w.Base+"/mcp/dual", "", "{}", lines...), refusal{401, 401, "null", ""})
			refused(t, harness.Post(t, w.Base+"/nowhere", reader, "{}", lines...), refusal{404, 404, "null", ""})
		}
		backend.Untouched(t)
	})
	t.Run("a session id means nothing in the modern era", func(t *testing.T) {
		c, old := harness.NewModern(w.Base+"/mcp/dual", reader), w.client(t, "/mcp/dual", another, harness.R20251125)
		for _, id := range []string{"nonsense", old.Session} {
			c.Headers = []string{"Mcp-Session-Id: " + id}
			backend.Forget()
			if got := c.Tool(t, "echo", map[string]any{"text": "x"}).Text(t); got != "x" {
				t.Errorf("got %q", got)
			}
			if r := backend.Requests("tools/call"); len(r) != 1 || r[0].Header.Get("Mcp-Session-Id") != "" {
				t.Errorf("the server received %+v", r)
			}
		}
	})
	t.Run("what a client sees of a server's headers", func(t *testing.T) {
		each(t, all, func(t *testing.T, revision string) {
			c := w.client(t, "/mcp/raw", reader, revision)
			r := c.Tool(t, "region", map[string]any{})
			r.Result(t, nil)
			for name := range r.Header {
				switch name {
				case "Content-Type", "Content-Length", "Date", "Server", "Transfer-Encoding", "Cache-Control", "X-Accel-Buffering":
				default:
					t.Errorf("%s: %q", name, r.Header.Get(name))
				}
			}
			if r.Header.Get("Server") != "mcpgw" {
				t.Errorf("Server: %q", r.Header.Get("Server"))
			}
		})
	})

	c := harness.NewModern(w.Base+"/mcp/dual", reader)
	mismatch := refusal{400, -32020, `"m"`, ""}
	t.Run("mirrors", func(t *testing.T) {
		backend.Forget()
		echo := map[string]any{"name": "echo", "arguments": map[string]any{"text": "x"}}
		for _, row := range []struct {
			name, method string
			params       map[string]any
			headers      []string
		}{
			{"no Mcp-Method", "tools/call", echo, []string{"Mcp-Method:"}},
			{"another method", "tools/call", echo, []string{"Mcp-Method: tools/list"}},
			{"a method in another case", "tools/call", echo, []string{"Mcp-Method: TOOLS/CALL"}},
			{"two Mcp-Method", "tools/call", echo, []string{"Mcp-Method: tools/call", "Mcp-Method: tools/call"}},
			{"two methods in one line", "tools/call", echo, []string{"Mcp-Method: tools/call, tools/call"}},
			{"another name", "tools/call", echo, []string{"Mcp-Name: echo_b"}},
			{"a name in another case", "tools/call", echo, []string{"Mcp-Name: Echo"}},
			{"two Mcp-Name", "tools/call", echo, []string{"Mcp-Name: echo", "Mcp-Name: echo"}},
			{"two Mcp-Name, the second another", "tools/call", echo, []string{"Mcp-Name: echo", "Mcp-Name: add"}},
			{"an empty name", "tools/call", echo, []string{"Mcp-Name: "}},
			{"another name in Base64", "tools/call", echo, []string{"Mcp-Name: =?base64?YWRk?="}},
			{"bad Base64", "tools/call", echo, []string{"Mcp-Name: =?base64?ZWNobw?="}},
			{"Base64 of another alphabet", "tools/call", echo, []string{"Mcp-Name: =?base64?_-8=?="}},
			{"another URI", "resources/read", map[string]any{"uri": "test://text"}, []string{"Mcp-Name: test://other"}},
			{"another prompt", "prompts/get", map[string]any{"name": "greet"}, []string{"Mcp-Name: other"}},
			{"a list under another method", "tools/list", nil, []string{"Mcp-Method: prompts/list"}},
			{"any Mcp-* twice", "tools/call", echo, []string{"Mcp-Param-Unknown: 1", "Mcp-Param-Unknown: 2"}},
		} {
			t.Run(row.name, func(t *testing.T) { refused(t, c.CallID(t, `"m"`, row.method, row.params, row.headers...), mismatch) })
		}
		backend.Untouched(t)
		if got := c.Call(t, "tools/call", echo, "MCP-NAME: \techo  ").Text(t); got != "x" {
			t.Errorf("white space around the name gets %q", got)
		}
	})
	t.Run("names beyond ASCII", func(t *testing.T) {
		c := harness.NewModern(w.Base+"/mcp/raw", reader)
		mirrored.Calls()
		read := map[string]any{"uri": "test://grüße"}
		c.Call(t, "resources/read", read, "Mcp-Name: =?base64?dGVzdDovL2dyw7zDn2U=?=").Result(t, nil)
		calls := mirrored.Calls()
		if len(calls) != 1 || calls[0].Header.Get("Mcp-Name") != "=?base64?dGVzdDovL2dyw7zDn2U=?=" {
			t.Errorf("the server received %+v", calls)
		}
		refused(t, c.CallID(t, `"m"`, "resources/read", read, "Mcp-Name: =?base64?dGVzdDovL2dydcOf?="), mismatch)
		refused(t, c.CallID(t, `"m"`, "resources/read", read, "Mcp-Name: =?BASE64?dGVzdDovL2dyw7zDn2U=?="), mismatch)
		each(t, legacies, func(t *testing.T, revision string) { // the broker makes the header
			w.client(t, "/mcp/raw", reader, revision).Call(t, "resources/read", read).Result(t, nil)
			if calls := mirrored.Calls(); len(calls) != 1 || calls[0].Header.Get("Mcp-Name") != "=?base64?dGVzdDovL2dyw7zDn2U=?=" {
				t.Errorf("the server received %+v", calls)
			}
		})
	})
	t.Run("a renamed tool", func(t *testing.T) {
		c := harness.NewModern(w.Base+"/mcp", reader)
		for _, name := range []string{"dual_echo", "=?base64?ZHVhbF9lY2hv?="} {
			backend.Forget()
			if got := c.Call(t, "tools/call", map[string]any{"name": "dual_echo", "arguments": map[string]any{"text": "x"}}, "Mcp-Name: "+name).Text(t); got != "x" {
				t.Fatalf("got %q", got)
			}
			r := backend.Requests("tools/call")
			if len(r) != 1 || r[0].Name != "echo" || r[0].Header.Get("Mcp-Name") != "echo" || r[0].Header.Get("Mcp-Method") != "tools/call" {
				t.Errorf("received %+v", r)
			}
		}
	})
	t.Run("a tool with an impossible x-mcp-header is left out", func(t *testing.T) {
		each(t, all, func(t *testing.T, revision string) {
			if got := w.client(t, "/mcp/raw", writer, revision).List(t, "tools/list"); fmt.Sprint(got) != "[region]" {
				t.Errorf("got %v", got)
			}
		})
	})

	t.Run("Mcp-Param", func(t *testing.T) {
		c := harness.NewModern(w.Base+"/mcp/raw", reader)
		for _, row := range []struct {
			name      string
			arguments string
			headers   []string
			good      bool
		}{
			{"match", `{"region":"eu"}`, []string{"Mcp-Param-Region: eu"}, true},
			{"match in Base64", `{"region":"zürich"}`, []string{"Mcp-Param-Region: =?base64?esO8cmljaA==?="}, true},
			{"an empty string", `{"region":""}`, []string{"Mcp-Param-Region: "}, true},
			{"42 and 42", `{"count":42}`, []string{"Mcp-Param-Count: 42"}, true},
			{"42.0 and 42", `{"count":42.0}`, []string{"Mcp-Param-Count: 42"}, true},
			{"42 and 42.0", `{"count":42}`, []string{"Mcp-Param-Count: 42.0"}, true},
			{"true", `{"dry":true}`, []string{"Mcp-Param-Dry: true"}, true},
			{"nested", `{"at":{"zone":"z"}}`, []string{"Mcp-Param-Zone: z"}, true},
			{"null and no header", `{"region":null}`, nil, true},
			{"absent and no header", `{"other":"x"}`, nil, true},
			{"mismatch", `{"region":"eu"}`, []string{"Mcp-Param-Region: us"}, false},
			{"another case", `{"region":"eu"}`, []string{"Mcp-Param-Region: EU"}, false},
			{"missing", `{"region":"eu"}`, nil, false},
			{"twice", `{"region":"eu"}`, []string{"Mcp-Param-Region: eu", "Mcp-Param-Region: eu"}, false},
			{"null and a header", `{"region":null}`, []string{"Mcp-Param-Region: eu"}, false},
			{"absent and a header", `{}`, []string{"Mcp-Param-Region: eu"}, false},
			{"bad Base64", `{"region":"eu"}`, []string{"Mcp-Param-Region: =?base64?ZXU?="}, false},
			{"42 and 43", `{"count":42}`, []string{"Mcp-Param-Count: 43"}, false},
			{"42 and 4.2e1", `{"count":42}`, []string{"Mcp-Param-Count: 4.2e1"}, false},
			{"42 and 0x2a", `{"count":42}`, []string{"Mcp-Param-Count: 0x2a"}, false},
			{"9007199254740993 and its neighbour", `{"count":9007199254740993}`, []string{"Mcp-Param-Count: 9007199254740992"}, false},
			{"true and TRUE", `{"dry":true}`, []string{"Mcp-Param-Dry: TRUE"}, false},
			{"true and 1", `{"dry":true}`, []string{"Mcp-Param-Dry: 1"}, false},
			{"a string where an integer is declared", `{"count":"42"}`, []string{"Mcp-Param-Count: 42"}, false},
			{"nested mismatch", `{"at":{"zone":"z"}}`, []string{"Mcp-Param-Zone: y"}, false},
		} {
			t.Run(row.name, func(t *testing.T) {
				mirrored.Calls()
				body := `{"jsonrpc":"2.0","id":"m","method":"tools/call","params":{` + meta + `,"name":"region","arguments":` + row.arguments + `}}`
				lines := append(c.Lines("tools/call", map[string]any{"name": "region"}), row.headers...)
				got := harness.Post(t, c.URL, c.Key, body, lines...)
				calls := mirrored.Calls()
				if row.good {
					got.Result(t, nil)
					if len(calls) != 1 || string(calls[0].Body) != body {
						t.Errorf("the server received %+v", calls)
					}
					return
				}
				refused(t, got, mismatch)
				if len(calls) != 0 {
					t.Errorf("the server received %+v", calls)
				}
			})
		}
		each(t, legacies, func(t *testing.T, revision string) { // the broker makes the headers
			w.client(t, "/mcp/raw", reader, revision).Tool(t, "region", map[string]any{"region": "zürich", "count": 42, "dry": nil, "at": map[string]any{"zone": " z"}}).Result(t, nil)
			calls := mirrored.Calls()
			if len(calls) != 1 {
				t.Fatalf("the server received %+v", calls)
			}
			h := calls[0].Header
			if got := fmt.Sprint(h["Mcp-Param-Region"], h["Mcp-Param-Count"], h["Mcp-Param-Dry"], h["Mcp-Param-Zone"]); got != "[=?base64?esO8cmljaA==?=] [42] [] [=?base64?IHo=?=]" {
				t.Errorf("headers %s", got)
			}
		})
	})
}

// withTrailer sends a chunked request with trailers, which net/http would sort out beforehand, and returns status and body.
func withTrailer(t *testing.T, base, path string, headers []string, body []byte, trailer string) (int, string) {
	t.Helper()
	host := strings.TrimPrefix(base, "http://")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nTransfer-Encoding: chunked\r\n%s\r\n\r\n%x\r\n%s\r\n0\r\n%s\r\n\r\n",
		path, host, strings.Join(headers, "\r\n"), len(body), body, trailer)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	answer, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(answer)
}
