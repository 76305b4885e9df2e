package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/mcpgw/mcpgw/test/harness"
)

// TestHead: what the head of a request alone decides, whatever its body.
func TestHead(t *testing.T) {
	backend := harness.StartBackend(t, harness.Dual, nil)
	w := start(t, setting{
		listener:  "allowed_origins: [\"https://app.example.org\", \"http://localhost:*\"]",
		servers:   server("dual", backend.URL, "auto"),
		endpoints: "\n  - { name: mcp, path: /mcp, per_server: true }\n  - { name: other, path: /other }",
	})
	w.lists(t, "/mcp/dual", harness.R20260728, 6)
	backend.Forget()

	long := "/mcp?" + strings.Repeat("a", 3000)
	rows := []struct {
		name    string
		method  string // default POST
		path    string // default /mcp
		key     string // "-" for none; default the reader's
		headers []string
		want    refusal
	}{
		{name: "foreign Origin", headers: []string{"Origin: http://evil.example"}, want: refusal{403, 403, "null", ""}},
		{name: "Origin null", headers: []string{"Origin: null"}, want: refusal{403, 403, "null", ""}},
		{name: "an allowed Origin as a prefix", headers: []string{"Origin: https://app.example.org.evil.example"}, want: refusal{403, 403, "null", ""}},
		{name: "any port, but another scheme", headers: []string{"Origin: https://localhost:3000"}, want: refusal{403, 403, "null", ""}},
		{name: "two Origins, one allowed", headers: []string{"Origin: https://app.example.org", "Origin: http://evil.example"}, want: refusal{403, 403, "null", ""}},
		{name: "foreign Origin on GET", method: http.MethodGet, headers: []string{"Origin: http://evil.example"}, want: refusal{403, 403, "null", ""}},
		{name: "foreign Origin on DELETE", method: http.MethodDelete, headers: []string{"Origin: http://evil.example"}, want: refusal{403, 403, "null", ""}},
		{name: "foreign Origin without a credential", key: "-", headers: []string{"Origin: http://evil.example"}, want: refusal{403, 403, "null", ""}},
		{name: "foreign Host", headers: []string{"Host: evil.example"}, want: refusal{403, 403, "null", ""}},
		{name: "foreign Host with our port", headers: []string{"Host: evil.example:" + w.Base[strings.LastIndex(w.Base, ":")+1:]}, want: refusal{403, 403, "null", ""}},

		{name: "unknown path", path: "/nowhere", want: refusal{404, 404, "null", ""}},
		{name: "unknown path without a credential", path: "/nowhere", key: "-", want: refusal{401, 401, "null", ""}},
		{name: "root", path: "/", want: refusal{404, 404, "null", ""}},
		{name: "a server that is none", path: "/mcp/nobody", want: refusal{404, 404, "null", ""}},
		{name: "a slash more", path: "/mcp/", want: refusal{404, 404, "null", ""}},
		{name: "query", path: "/mcp?key=value", want: refusal{400, 400, "null", ""}},
		{name: "empty query", path: "/mcp?", want: refusal{400, 400, "null", ""}},
		{name: "long query", path: long, want: refusal{400, 400, "null", ""}},
		{name: "PUT", method: http.MethodPut, want: refusal{405, 405, "null", "Allow: POST, GET, DELETE"}},
		{name: "PATCH", method: http.MethodPatch, want: refusal{405, 405, "null", "Allow: POST, GET, DELETE"}},
		{name: "OPTIONS without an Origin", method: http.MethodOptions, want: refusal{405, 405, "null", "Allow: POST, GET, DELETE"}},
		{name: "OPTIONS of a foreign Origin", method: http.MethodOptions, key: "-", headers: []string{"Origin: http://evil.example", "Access-Control-Request-Method: POST"}, want: refusal{403, 403, "null", ""}},
		{name: "PROPFIND", method: "PROPFIND", want: refusal{405, 405, "null", "Allow: POST, GET, DELETE"}},
		{name: "a method that HTTP does not know", method: "BREW", want: refusal{400, -32600, "null", ""}}, // Envoy's codec refuses it
		{name: "modern GET", method: http.MethodGet, headers: []string{"Accept: text/event-stream", "MCP-Protocol-Version: 2026-07-28"}, want: refusal{405, 405, "null", "Allow: POST"}},
		{name: "modern DELETE", method: http.MethodDelete, headers: []string{"MCP-Protocol-Version: 2026-07-28", "Mcp-Session-Id: x"}, want: refusal{405, 405, "null", "Allow: POST"}},

		{name: "no credential", key: "-", want: refusal{401, 401, "null", "WWW-Authenticate: Bearer realm=\"mcpgw\""}},
		{name: "no credential on GET", method: http.MethodGet, key: "-", want: refusal{401, 401, "null", "WWW-Authenticate: Bearer realm=\"mcpgw\""}},
		{name: "no credential on DELETE", method: http.MethodDelete, key: "-", want: refusal{401, 401, "null", "WWW-Authenticate: Bearer realm=\"mcpgw\""}},
		{name: "bad credential", key: "guess", want: refusal{401, 401, "null", ""}},
		{name: "Basic", key: "-", headers: []string{"Authorization: Basic cmVhZGVyOnJlYWRlcg=="}, want: refusal{401, 401, "null", ""}},
		{name: "Bearer without a token", key: "-", headers: []string{"Authorization: Bearer "}, want: refusal{401, 401, "null", ""}},
		{name: "a bad X-Api-Key", key: "-", headers: []string{"X-Api-Key: guess"}, want: refusal{401, 401, "null", ""}},
		{name: "two credentials", headers: []string{"X-Api-Key: " + reader}, want: refusal{400, 400, "null", ""}},
		{name: "two credentials, both bad", key: "guess", headers: []string{"X-Api-Key: guess"}, want: refusal{400, 400, "null", ""}},
		{name: "one credential twice", key: "-", headers: []string{"Authorization: Bearer " + reader, "Authorization: Bearer " + reader}, want: refusal{400, 400, "null", ""}},
		{name: "two callers in one header each", key: "-", headers: []string{"X-Api-Key: " + reader, "X-Api-Key: " + writer}, want: refusal{400, 400, "null", ""}},

		{name: "Accept of JSON alone", headers: []string{"Accept: application/json"}, want: refusal{406, -32600, "null", ""}},
		{name: "Accept of streams alone", headers: []string{"Accept: text/event-stream"}, want: refusal{406, -32600, "null", ""}},
		{name: "no Accept", headers: []string{"Accept:"}, want: refusal{406, -32600, "null", ""}},
		{name: "Accept with quality 0", headers: []string{"Accept: application/json, text/event-stream;q=0"}, want: refusal{406, -32600, "null", ""}},
		{name: "GET without text/event-stream", method: http.MethodGet, headers: []string{"Accept: application/json"}, want: refusal{406, -32600, "null", ""}},
		{name: "content type text", headers: []string{"Content-Type: text/plain"}, want: refusal{415, -32600, "null", ""}},
		{name: "no content type", headers: []string{"Content-Type:"}, want: refusal{415, -32600, "null", ""}},
		{name: "two content types", headers: []string{"Content-Type: application/json", "Content-Type: text/plain"}, want: refusal{415, -32600, "null", ""}},
		{name: "JSON in another charset", headers: []string{"Content-Type: application/json; charset=utf-16"}, want: refusal{415, -32600, "null", ""}},
		{name: "a type that begins like JSON", headers: []string{"Content-Type: application/jsonp"}, want: refusal{415, -32600, "null", ""}},
		{name: "gzip", headers: []string{"Content-Encoding: gzip"}, want: refusal{415, -32600, "null", ""}},
		{name: "identity and gzip", headers: []string{"Content-Encoding: identity", "Content-Encoding: gzip"}, want: refusal{415, -32600, "null", ""}},

		{name: "GET without a session", method: http.MethodGet, headers: []string{"Accept: text/event-stream"}, want: refusal{400, -32600, "null", ""}},
		{name: "DELETE without a session", method: http.MethodDelete, want: refusal{400, -32600, "null", ""}},
		{name: "GET with an unknown session", method: http.MethodGet, headers: []string{"Accept: text/event-stream", "Mcp-Session-Id: 00000000000000000000000000"}, want: refusal{404, -32001, "null", ""}},
		{name: "DELETE of an unknown session", method: http.MethodDelete, headers: []string{"Mcp-Session-Id: 00000000000000000000000000"}, want: refusal{404, -32001, "null", ""}},
		{name: "GET with a body", method: http.MethodGet, headers: []string{"Accept: text/event-stream", "Mcp-Session-Id: x", "X-Body: yes"}, want: refusal{400, -32600, "null", ""}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			body := []byte(`{"jsonrpc":"2.0","id":1,"method":"ping"}`)
			switch row.method {
			case "":
				row.method = http.MethodPost
			case http.MethodGet, http.MethodDelete, http.MethodOptions:
				if !strings.Contains(strings.Join(row.headers, "\n"), "X-Body") {
					body = nil
				}
			}
			if row.path == "" {
				row.path = "/mcp"
			}
			switch row.key {
			case "":
				row.key = reader
			case "-":
				row.key = ""
			}
			refused(t, harness.Do(t, row.method, w.Base+row.path, row.key, body, row.headers...), row.want)
		})
	}
	backend.Untouched(t)

	t.Run("HEAD", func(t *testing.T) { // it has no body to read
		if r := harness.Do(t, http.MethodHead, w.Base+"/mcp", reader, nil); r.Status != 405 || r.Header.Get("Allow") != "POST, GET, DELETE" {
			t.Errorf("got %d, Allow %q", r.Status, r.Header.Get("Allow"))
		}
	})
	for _, h := range []string{
		"Accept: */*", "Accept: application/*, text/*", "Accept: text/event-stream;q=0.1, application/json", "Content-Type: application/json; charset=UTF-8", "Content-Encoding: identity",
		"Origin: https://app.example.org", "Origin: http://localhost:3000", "Origin: http://localhost", "Host: localhost", "Host: LOCALHOST:1234", "Host: [::1]:8080",
	} {
		t.Run("good "+h, func(t *testing.T) {
			c := harness.NewModern(w.Base+"/mcp/dual", reader)
			c.Headers = []string{h}
			if got := c.Tool(t, "echo", map[string]any{"text": "x"}).Text(t); got != "x" {
				t.Errorf("got %q", got)
			}
		})
	}
	t.Run("good X-Api-Key", func(t *testing.T) {
		c := harness.NewModern(w.Base+"/mcp/dual", "")
		c.Headers = []string{"X-Api-Key: " + reader}
		if got := c.Tool(t, "echo", map[string]any{"text": "x"}).Text(t); got != "x" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("OPTIONS of an allowed Origin", func(t *testing.T) {
		r := harness.Do(t, http.MethodOptions, w.Base+"/mcp", "", nil, "Origin: https://app.example.org", "Access-Control-Request-Method: POST",
			"Access-Control-Request-Headers: authorization,content-type,mcp-protocol-version,mcp-param-region")
		if r.Status != 204 && r.Status != 200 {
			t.Fatalf("status %d: %s", r.Status, r.Body)
		}
		if got := r.Header.Get("Access-Control-Allow-Origin"); got != "https://app.example.org" {
			t.Errorf("Access-Control-Allow-Origin: %q", got)
		}
		if got := r.Header.Get("Access-Control-Allow-Headers"); !strings.Contains(strings.ToLower(got), "mcp-param-region") {
			t.Errorf("Access-Control-Allow-Headers: %q", got)
		}
		if got := r.Header.Get("Vary"); !strings.Contains(strings.ToLower(got), "origin") {
			t.Errorf("Vary: %q", got)
		}
	})
	t.Run("OPTIONS that asks for much", func(t *testing.T) {
		r := harness.Do(t, http.MethodOptions, w.Base+"/mcp", "", nil, "Origin: https://app.example.org", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: "+strings.Repeat("x-long,", 1000))
		if r.Status != 204 {
			t.Errorf("status %d: %s", r.Status, r.Body)
		}
	})
	t.Run("answers to an allowed Origin", func(t *testing.T) {
		c := harness.NewModern(w.Base+"/mcp/dual", reader)
		c.Headers = []string{"Origin: https://app.example.org"}
		old := w.client(t, "/mcp/dual", reader, harness.R20251125)
		old.Headers = c.Headers
		for lane, r := range map[string]*harness.Reply{
			"answer":    c.Call(t, "tools/list", nil),
			"direct":    c.Tool(t, "echo", map[string]any{"text": "x"}),
			"broker":    old.Tool(t, "echo", map[string]any{"text": "x"}),
			"a refusal": harness.Post(t, w.Base+"/mcp", "", "{}", "Origin: https://app.example.org"),
		} {
			if got := r.Header.Get("Access-Control-Allow-Origin"); got != "https://app.example.org" {
				t.Errorf("%s: Access-Control-Allow-Origin: %q", lane, got)
			}
		}
	})
}
