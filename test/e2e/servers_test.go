package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/test/harness"
)

// TestSickServers: whatever a server does instead of answering, the client gets the fixed error with its own id, and the others are
// unaffected. Modern clients reach the servers by the direct lane, legacy clients by the broker: bridged to the modern server, relayed to
// the dual one.
func TestSickServers(t *testing.T) {
	modern, dual, well := harness.StartBackend(t, harness.Modern, nil), harness.StartBackend(t, harness.Dual, nil), harness.StartBackend(t, harness.Dual, nil)
	w := start(t, setting{
		servers: server("modern", modern.URL, "modern") + server("dual", dual.URL, "auto") + server("well", well.URL, "auto"),
		rest:    "limits: { call_idle: 2s }", // more than the second for which Envoy holds back that an answer was cut
	})
	for _, name := range []string{"modern", "dual", "well"} {
		w.lists(t, "/mcp/"+name, harness.R20260728, 6)
	}
	sick := map[string]*harness.Backend{"modern": modern, "dual": dual}
	revisions := []string{harness.R20260728, harness.R20251125, harness.R20250326}

	rows := []struct {
		name   string
		fault  harness.Fault
		reason string
		direct string // of the direct lane, where it differs; "cut" for a stream that is cut after its headers
	}{
		{"reset", harness.Reset, "unavailable", ""},
		{"HTML", harness.HTML, "not_mcp", ""},
		{"redirect", harness.Redirect, "not_mcp", ""},
		{"401 with a challenge", harness.Unauthorized, "unauthorized", ""},
		{"403", harness.Forbidden, "unauthorized", ""},
		{"500 with text", harness.Failing, "not_mcp", ""},
		{"503 without a body", harness.Unavailable, "unavailable", ""},
		{"JSON that is none", harness.NotJSON, "not_mcp", ""},
		{"JSON that is cut", harness.CutJSON, "unavailable|not_mcp", "unavailable|not_mcp"},
		{"a stream that is cut", harness.CutSSE, "unavailable", "cut"},
		{"a stream without an answer", harness.EndSSE, "unavailable", "cut"},
		{"hung", harness.Hang, "timeout", ""},
	}
	for name, backend := range sick {
		each(t, revisions, func(t *testing.T, revision string) {
			c, healthy := w.client(t, "/mcp/"+name, reader, revision), w.client(t, "/mcp/well", reader, revision)
			c.Tool(t, "echo", map[string]any{"text": "x"}).Result(t, nil) // a legacy session is open at the server
			for _, row := range rows {
				t.Run(name+", "+row.name, func(t *testing.T) {
					backend.Fail(row.fault, "tools/call")
					defer backend.Heal()
					ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second) // call_idle is 2 s
					defer cancel()
					got, err := c.TryCall(ctx, `"9007199254740993"`, "tools/call", map[string]any{"name": "echo", "arguments": map[string]any{"text": "x"}})
					if err != nil {
						t.Fatal(err)
					}
					reason := row.reason
					if revision == harness.R20260728 && row.direct != "" {
						reason = row.direct
					}
					for name := range got.Header {
						if name == "Www-Authenticate" || name == "Location" || name == "Set-Cookie" {
							t.Errorf("a server's %s reached the client: %q", name, got.Header.Get(name))
						}
					}
					if reason == "cut" { // no byte of the direct lane passes through the gateway: the client sees the end
						for _, m := range got.Messages() {
							if o := object(t, m); o["result"] != nil || o["error"] != nil {
								t.Errorf("got %s", m)
							}
						}
						return
					}
					e := refused(t, got, refusal{200, -32603, `"9007199254740993"`, ""})
					data := object(t, e.Data)
					if data["server"] != name || !strings.Contains("|"+reason+"|", fmt.Sprintf("|%v|", data["reason"])) || len(data) != 2 {
						t.Errorf("data is %s, want reason %s", e.Data, reason)
					}
					if strings.Contains(string(got.Body), "127.0.0.1") || strings.Contains(string(got.Body), strings.TrimPrefix(backend.URL, "http://")) {
						t.Errorf("the answer names an address: %s", got.Body)
					}
					if got := healthy.Tool(t, "echo", map[string]any{"text": "well"}).Text(t); got != "well" {
						t.Errorf("another server gets %q", got)
					}
				})
			}
			t.Run(name+", well again", func(t *testing.T) {
				if got := c.Tool(t, "echo", map[string]any{"text": "x"}).Text(t); got != "x" {
					t.Errorf("got %q", got)
				}
			})
		})
		t.Run(name+", down", func(t *testing.T) {
			clients := map[string]*harness.Client{}
			for _, r := range revisions {
				clients[r] = w.client(t, "/mcp/"+name, reader, r)
			}
			listed := fmt.Sprint(clients[harness.R20260728].List(t, "tools/list"))
			backend.Down()
			defer backend.Up(t)
			each(t, revisions, func(t *testing.T, revision string) {
				e := refused(t, clients[revision].CallID(t, "7", "tools/call", map[string]any{"name": "echo", "arguments": map[string]any{"text": "x"}}), refusal{200, -32603, "7", ""})
				if data := object(t, e.Data); data["reason"] != "unavailable" || data["server"] != name || strings.Contains(e.Message, "127.0.0.1") {
					t.Errorf("got %q %s", e.Message, e.Data)
				}
				if got := fmt.Sprint(clients[revision].List(t, "tools/list")); got != listed {
					t.Errorf("the list of a server that is down is %v", got)
				}
				if got := w.client(t, "/mcp", reader, revision).Tool(t, "well_echo", map[string]any{"text": "x"}).Text(t); got != "x" {
					t.Errorf("another server gets %q", got)
				}
			})
		})
		each(t, revisions, func(t *testing.T, revision string) {
			t.Run(name+", up again", func(t *testing.T) {
				c := w.client(t, "/mcp/"+name, reader, revision)
				harness.Eventually(t, soon, "calls succeed again", func() bool {
					return c.Tool(t, "echo", map[string]any{"text": "x"}).Response(t).Error == nil
				})
			})
		})
	}
}

// TestServersOwnErrors: what a server says in JSON-RPC stays what it said.
func TestServersOwnErrors(t *testing.T) {
	own := `"error":{"code":-32050,"message":"the server's own \u00e9","data":{"n":9007199254740993, "one":1.0}}`
	says := func(status int, member string) func(http.ResponseWriter, rawCall) {
		return func(w http.ResponseWriter, c rawCall) { reply(w, status, member, c.ID) }
	}
	s := startRaw(t, strings.Join([]string{
		tool("e200", anything), tool("e400", anything), tool("e404", anything), tool("e500", anything), tool("e401", anything), tool("stream", anything),
		tool("otherid", anything), tool("input", anything), tool("large", anything), tool("endless", anything),
	}, ","), map[string]func(http.ResponseWriter, rawCall){
		"e200": says(200, own), "e400": says(400, own), "e404": says(404, own), "e500": says(500, own), "e401": says(401, own),
		"stream": func(w http.ResponseWriter, c rawCall) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = fmt.Fprintf(w, ": hello\r\n\r\ndata: {\"jsonrpc\":\"2.0\",\r\ndata: \"id\":%s,%s}\r\n\r\n", c.ID, own)
		},
		"otherid": func(w http.ResponseWriter, _ rawCall) { reply(w, 200, own, []byte(`"another"`)) },
		"input":   says(200, `"result":{"resultType":"input_required","inputRequests":{"user_name":{"method":"elicitation/create","params":{"message":"who?","requestedSchema":{"type":"object","properties":{}}}}},"requestState":"state 1.0"}`),
		"large": func(w http.ResponseWriter, c rawCall) {
			reply(w, 200, `"result":{"content":[{"type":"text","text":"`+strings.Repeat("x", 5<<20)+`"}],"resultType":"complete"}`, c.ID)
		},
	})
	w := start(t, setting{servers: server("raw", s.URL, "modern")})
	w.lists(t, "/mcp/raw", harness.R20260728, 10)
	each(t, all, func(t *testing.T, revision string) {
		c := w.client(t, "/mcp/raw", reader, revision)
		for name, status := range map[string]int{"e200": 200, "e400": 400, "e404": 404, "e500": 500, "stream": 200} {
			t.Run(name, func(t *testing.T) {
				if !c.Modern() { // a 404 would end the session, and no other status may
					status = 200
				}
				got := c.CallID(t, "9007199254740993", "tools/call", map[string]any{"name": name, "arguments": map[string]any{}})
				e := refused(t, got, refusal{status, -32050, "9007199254740993", ""})
				if e.Message != "the server's own é" || string(e.Data) != `{"n":9007199254740993, "one":1.0}` {
					t.Errorf("got %q %s", e.Message, e.Data)
				}
			})
		}
		t.Run("a 401 is no answer, whatever it says", func(t *testing.T) {
			e := refused(t, c.CallID(t, "7", "tools/call", map[string]any{"name": "e401", "arguments": map[string]any{}}), refusal{200, -32603, "7", ""})
			if object(t, e.Data)["reason"] != "unauthorized" {
				t.Errorf("data %s", e.Data)
			}
		})
		t.Run("a result of 5 MiB", func(t *testing.T) {
			if got := c.Tool(t, "large", nil).Text(t); len(got) != 5<<20 {
				t.Errorf("%d bytes", len(got))
			}
		})
		t.Run("a request for input", func(t *testing.T) {
			got := c.Tool(t, "input", nil)
			if c.Modern() { // passes verbatim
				if r := string(got.Result(t, nil)); !strings.Contains(r, `"inputRequests":{"user_name":{"method":"elicitation/create"`) || !strings.Contains(r, `"requestState":"state 1.0"`) {
					t.Errorf("got %s", r)
				}
				return
			}
			refused(t, got, refusal{200, -32603, "", ""})
		})
		if !c.Modern() {
			t.Run("an answer to another id", func(t *testing.T) {
				refused(t, c.CallID(t, "7", "tools/call", map[string]any{"name": "otherid", "arguments": map[string]any{}}), refusal{200, -32603, "7", ""})
			})
		}
	})
}

// TestCertificates: a server whose certificate is no good any more is a server that is down.
func TestCertificates(t *testing.T) {
	ours, theirs := harness.NewAuthority(t), harness.NewAuthority(t)
	hour := time.Now().Add(time.Hour)
	good := ours.Issue(t, "127.0.0.1", hour)
	var shown atomic.Pointer[tls.Certificate]
	shown.Store(&good.TLS)
	s := httptest.NewUnstartedServer(&raw{tools: tool("echo", anything), reply: map[string]func(http.ResponseWriter, rawCall){"echo": func(w http.ResponseWriter, c rawCall) {
		reply(w, 200, `"result":{"content":[{"type":"text","text":"x"}],"resultType":"complete"}`, c.ID)
	}}})
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { // GetCertificate is asked only for a name
		return &tls.Config{MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true, Certificates: []tls.Certificate{*shown.Load()}}, nil
	}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	well := harness.StartBackend(t, harness.Dual, nil)
	w := start(t, setting{servers: server("secure", s.URL+"/mcp", "modern", fmt.Sprintf(", tls: { ca_file: %q }", ours.CertFile)) + server("well", well.URL, "auto")})
	w.lists(t, "/mcp/secure", harness.R20260728, 1)
	each(t, []string{harness.R20260728, harness.R20251125}, func(t *testing.T, revision string) {
		c := w.client(t, "/mcp/secure", reader, revision)
		for name, bad := range map[string]harness.Certificate{
			"expired":   ours.Issue(t, "127.0.0.1", time.Now().Add(-time.Minute)),
			"untrusted": theirs.Issue(t, "127.0.0.1", hour),
			"misnamed":  ours.Issue(t, "elsewhere.example.org", hour),
		} {
			t.Run(name, func(t *testing.T) {
				shown.Store(&bad.TLS)
				s.CloseClientConnections()
				e := refused(t, c.CallID(t, `"c"`, "tools/call", map[string]any{"name": "echo", "arguments": map[string]any{}}), refusal{200, -32603, `"c"`, ""})
				if data := object(t, e.Data); data["reason"] != "unavailable" || data["server"] != "secure" || strings.Contains(e.Message, "certificate") {
					t.Errorf("got %q %s", e.Message, e.Data)
				}
				if got := w.client(t, "/mcp/well", reader, revision).Tool(t, "echo", map[string]any{"text": "x"}).Text(t); got != "x" {
					t.Errorf("another server gets %q", got)
				}
				if got := c.List(t, "tools/list"); len(got) != 1 {
					t.Errorf("the list is %v", got)
				}
				shown.Store(&good.TLS)
				harness.Eventually(t, soon, "calls succeed again", func() bool {
					return c.Tool(t, "echo", nil).Response(t).Error == nil
				})
			})
		}
	})
}

// onlyDecision is the data of a refusal that says nothing but which decision it was.
var onlyDecision = regexp.MustCompile(`^\{"decision_id":"[A-Z2-7]{26}"\}$`)

// TestPolicyFault: a policy that breaks on a call refuses it, whoever may see the item.
func TestPolicyFault(t *testing.T) {
	backend := harness.StartBackend(t, harness.Dual, nil)
	broken := `package mcpgw.policy

allow if "reader" in input.subject.roles

deny contains "broken" if {
	input.resource.name == "echo"
	to_number(input.arguments.text) > 5
}
`
	w := start(t, setting{
		servers: server("dual", backend.URL, "auto"), policy: map[string]string{"broken.rego": broken},
		endpoints: "\n  - { name: mcp, path: /mcp }\n  - { name: told, path: /told, denials: result }",
	})
	harness.AwaitItems(t, w.Base+"/mcp", reader)
	backend.Forget()
	each(t, all, func(t *testing.T, revision string) {
		for _, path := range []string{"/mcp", "/told"} {
			c := w.client(t, path, reader, revision)
			e := refused(t, c.CallID(t, "7", "tools/call", map[string]any{"name": "dual_echo", "arguments": map[string]any{"text": "no number"}}), refusal{503, -32603, "7", ""})
			if strings.Contains(e.Message, "to_number") || !onlyDecision.Match(e.Data) {
				t.Errorf("the cause is told: %q %s", e.Message, e.Data)
			}
			refused(t, c.CallID(t, "7", "tools/call", map[string]any{"name": "dual_nothing"}), refusal{200, -32602, "7", ""})
		}
	})
	backend.Untouched(t)
}
