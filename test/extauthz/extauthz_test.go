package extauthz

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpgw/mcpgw/test/harness"
)

const (
	key   = "quickstart-reader"
	soon  = 10 * time.Second
	echo  = `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"text":"t"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`
	limit = 4194304 // with_request_body of the example
)

// call is the head of a modern call of a tool.
func call(tool string) []string {
	return []string{"MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call", "Mcp-Name: " + tool}
}

// site is the example, with a server of the test's own.
type site struct {
	dir     string
	gateway *harness.Gateway
	server  *harness.Backend
	url     string // of the foreign Envoy
	envoy   *harness.Process
}

// start runs the example. change edits the foreign Envoy's configuration.
func start(t *testing.T, era harness.Era, change func(envoy string) string) *site {
	t.Helper()
	s := &site{server: harness.StartBackend(t, era, func(m *mcp.Server) {
		mcp.AddTool(m, &mcp.Tool{Name: "delete_all"}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
			return &mcp.CallToolResult{}, nil, nil
		})
	})}
	var err error
	if s.dir, err = os.MkdirTemp("", "authz"); err != nil { // not t.TempDir: the path of a socket has 107 bytes at most
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(s.dir) })
	example := filepath.Join(harness.Tools(t).Root, "examples", "ext-authz")
	socket := filepath.Join(s.dir, "authz.sock")
	config := edit(t, read(t, filepath.Join(example, "mcpgw.yaml")), "127.0.0.1:8080", "127.0.0.1:0", "http://127.0.0.1:8091/mcp", s.server.URL, "/tmp/mcpgw-authz.sock", socket)
	config += fmt.Sprintf("\nadmin: {address: %q}\n", "unix:"+filepath.Join(s.dir, "admin.sock"))
	s.gateway = harness.StartGateway(t, config, map[string]string{"policy.rego": read(t, filepath.Join(example, "policy", "policy.rego"))})
	if era == harness.Modern {
		harness.AwaitItems(t, s.gateway.URLs[0], key)
	} else {
		c := harness.OpenLegacy(t, s.gateway.URLs[0], key, harness.R20251125)
		harness.Eventually(t, soon, "the catalog is read", func() bool { return len(c.List(t, "tools/list")) > 0 })
	}
	s.server.Forget()

	_, port, err := net.SplitHostPort(strings.TrimSuffix(strings.TrimPrefix(s.server.URL, "http://"), "/mcp"))
	if err != nil {
		t.Fatal(err)
	}
	envoy := edit(t, read(t, filepath.Join(example, "envoy.yaml")), "port_value: 8081", "port_value: 0", "port_value: 8091", "port_value: "+port, "/tmp/mcpgw-authz.sock", socket)
	if change != nil {
		envoy = change(envoy)
	}
	file := filepath.Join(s.dir, "envoy.yaml")
	harness.WriteFile(t, file, envoy)
	s.envoy = harness.Start(t, harness.Command{Name: "foreign envoy", Path: harness.Tools(t).Envoy, Args: []string{"-c", file, "--concurrency", "1", "--disable-hot-restart", "--base-id", "0"}})
	s.url = "http://" + s.envoy.Listening(t) + "/mcp"
	return s
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// edit replaces pairs; one that is not there is fatal, for the example has changed.
func edit(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("the example has no %q any more", pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

// untouched fails if anything has reached the server.
func (s *site) untouched(t *testing.T) {
	t.Helper()
	if got := s.server.Requests(); len(got) > 0 {
		t.Errorf("%s %s reached the server: %s", got[0].Method, got[0].RPC, got[0].Body)
	}
}

// TestRulings: the same rulings and the same refusals as by an endpoint of the gateway.
func TestRulings(t *testing.T) {
	s := start(t, harness.Modern, nil)
	c := harness.NewModern(s.url, key)

	if got := c.Tool(t, "echo", map[string]any{"text": "hello"}).Text(t); got != "hello" {
		t.Errorf("an allowed call: %q", got)
	}
	got := s.server.Requests("tools/call")
	if len(got) != 1 || got[0].Header.Get("Authorization") != "" || got[0].Header.Get("X-Api-Key") != "" {
		t.Errorf("what reached the server: %+v", got)
	}
	if text := c.Call(t, "resources/read", map[string]any{"uri": "test://text"}); text.Status != 200 || !strings.Contains(string(text.Body), "text of test://text") {
		t.Errorf("an allowed read: HTTP %d %s", text.Status, text.Body)
	}
	if names := c.List(t, "tools/list"); !strings.Contains(strings.Join(names, " "), "delete_all") {
		t.Errorf("lists are the server's own, and this form cannot filter them: %v", names)
	}
	s.envoy.Stdout.Await(t, `200 \{.*"decision":"allow".*\}`, soon)
	s.server.Forget()

	refused := c.Tool(t, "big", map[string]any{"bytes": 11})
	if f := refused.Failure(t); refused.Status != 200 || f.Code != 403 || f.Message != "1 to 10 bytes at a time" {
		t.Errorf("a refused argument: HTTP %d %s", refused.Status, refused.Body)
	}
	hidden := c.CallID(t, "1", "tools/call", map[string]any{"name": "delete_all", "arguments": map[string]any{}})
	absent := c.CallID(t, "1", "tools/call", map[string]any{"name": "delete_any", "arguments": map[string]any{}})
	if f := hidden.Failure(t); f.Code != -32602 || strings.ReplaceAll(string(hidden.Body), "delete_all", "delete_any") != string(absent.Body) {
		t.Errorf("hidden: %s\nabsent: %s", hidden.Body, absent.Body)
	}
	line := s.envoy.Stdout.Await(t, `(?m)^200 \{.*"decision":"deny".*\}`, soon)[0]
	for _, want := range []string{`"own_reply":true`, `"refusal":"denied"`, `"decision_id"`, `"policy_revision"`, `"server":"files"`} {
		if !strings.Contains(line, want) {
			t.Errorf("the ruling in metadata lacks %s: %s", want, line)
		}
	}
	for name, reply := range map[string]*harness.Reply{
		"no credential":        harness.Post(t, s.url, "", echo, call("echo")...),
		"a wrong credential":   harness.Post(t, s.url, "guess", echo, call("echo")...),
		"header against body":  harness.Post(t, s.url, key, echo, call("big")...),
		"a key twice":          harness.Post(t, s.url, key, strings.Replace(echo, `"text":"t"`, `"text":"t","text":"u"`, 1), call("echo")...),
		"invalid UTF-8":        harness.Post(t, s.url, key, strings.Replace(echo, `"t"`, "\"\xff\xfe\"", 1), call("echo")...),
		"a line twice":         harness.Post(t, s.url, key, echo, append(call("echo"), "Mcp-Name: echo")...),
		"not JSON":             harness.Post(t, s.url, key, "hello", call("echo")...),
		"a batch":              harness.Post(t, s.url, key, "["+echo+"]", call("echo")...),
		"an unknown method":    harness.Post(t, s.url, key, strings.ReplaceAll(echo, "tools/call", "tasks/get"), "MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tasks/get", "Mcp-Name: echo"),
		"no body":              harness.Post(t, s.url, key, "", call("echo")...),
		"another HTTP method":  harness.Do(t, http.MethodPut, s.url, key, []byte(echo), call("echo")...),
		"a GET with a body":    harness.Do(t, http.MethodGet, s.url, key, []byte(echo), "Accept: text/event-stream"),
		"a foreign origin":     harness.Post(t, s.url, key, echo, append(call("echo"), "Origin: https://evil.example.org")...),
		"a subscription":       c.Call(t, "subscriptions/listen", map[string]any{"notifications": map[string]any{"resourceSubscriptions": []string{"test://nowhere"}}}),
		"a body over the size": harness.Post(t, s.url, key, strings.Replace(echo, `"t"`, `"`+strings.Repeat("t", limit)+`"`, 1), call("echo")...),
	} {
		if reply.Status < 400 && !strings.Contains(string(reply.Body), `"error"`) {
			t.Errorf("%s: HTTP %d %s", name, reply.Status, reply.Body)
		}
		if name != "a body over the size" && !strings.Contains(string(reply.Body), `"jsonrpc":"2.0"`) { // that one is Envoy's own
			t.Errorf("%s: the refusal is no JSON-RPC: HTTP %d %s", name, reply.Status, reply.Body)
		}
	}
	s.untouched(t)

	s.gateway.Reload(t, strings.Replace(read(t, s.gateway.Config), "roles: [reader]", "roles: [guest]", 1))
	harness.Eventually(t, soon, "the caller has lost its role", func() bool {
		return strings.Contains(string(c.Tool(t, "echo", map[string]any{"text": "x"}).Body), "-32602")
	})
}

// TestLegacy: sessions are between client and server; what they call is ruled on.
func TestLegacy(t *testing.T) {
	s := start(t, harness.Legacy, nil)
	c := harness.OpenLegacy(t, s.url, key, harness.R20251125)
	if got := c.Tool(t, "echo", map[string]any{"text": "hello"}).Text(t); got != "hello" {
		t.Errorf("an allowed call: %q", got)
	}
	stream := c.Listen(t)
	stream.Close()
	s.server.Forget()
	if f := c.Tool(t, "big", map[string]any{"bytes": nil}).Failure(t); f.Code != 403 && f.Code != -32602 {
		t.Errorf("a refused argument: %+v", f)
	}
	if f := c.Tool(t, "delete_all", nil).Failure(t); f.Code != -32602 {
		t.Errorf("a hidden tool: %+v", f)
	}
	if f := c.Call(t, "resources/subscribe", map[string]any{"uri": "test://nowhere"}).Failure(t); f.Code != -32602 {
		t.Errorf("a subscription: %+v", f)
	}
	if got := s.server.Requests("tools/call", "resources/subscribe"); len(got) > 0 {
		t.Errorf("reached the server: %+v", got)
	}
}

// TestMisconfigured: a filter that does not send whole bodies, as bytes, gets no yes for any message.
func TestMisconfigured(t *testing.T) {
	body := func(envoy string) (before, after string) {
		from, to := strings.Index(envoy, "                      with_request_body:"), strings.Index(envoy, "                  - name: envoy.filters.http.router")
		return envoy[:from], envoy[to:]
	}
	for name, change := range map[string]func(string) string{
		"no bodies": func(e string) string {
			before, after := body(e)
			return before + after
		},
		"bodies as text": func(e string) string { return edit(t, e, "pack_as_bytes: true", "pack_as_bytes: false") },
		"cut bodies": func(e string) string {
			return edit(t, e, "max_request_bytes: 4194304", "max_request_bytes: 64", "allow_partial_message: false", "allow_partial_message: true")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, harness.Modern, change)
			if r := harness.Post(t, s.url, key, echo, call("echo")...); r.Status != 503 || !strings.Contains(string(r.Body), "-32603") {
				t.Errorf("HTTP %d %s", r.Status, r.Body)
			}
			s.gateway.Stderr.Await(t, `not set up so that its requests can be judged.*with_request_body`, soon)
			s.untouched(t)
		})
	}
}

// TestUpgrade: after an upgrade every byte would pass unread, so there is none, even where Envoy is told to allow it.
func TestUpgrade(t *testing.T) {
	s := start(t, harness.Modern, func(e string) string {
		return edit(t, e, "                stat_prefix: ingress\n", "                stat_prefix: ingress\n                upgrade_configs: [{ upgrade_type: websocket }]\n")
	})
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(s.url, "http://"), "/mcp"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nAccept: text/event-stream\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", key)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 400 || !strings.Contains(string(b), "change protocols") {
		t.Errorf("HTTP %d %s", resp.StatusCode, b)
	}
	s.untouched(t)
}

// TestAway: mcpgw stopped, then dead: nothing passes.
func TestAway(t *testing.T) {
	s := start(t, harness.Modern, nil)
	s.gateway.Signal(t, syscall.SIGSTOP)
	began := time.Now()
	if r := harness.Post(t, s.url, key, echo, call("echo")...); r.Status != 503 || time.Since(began) > soon {
		t.Errorf("stopped: HTTP %d after %v", r.Status, time.Since(began))
	}
	s.gateway.Signal(t, syscall.SIGCONT)
	c := harness.NewModern(s.url, key)
	harness.Eventually(t, soon, "calls pass again", func() bool { return c.Tool(t, "echo", map[string]any{"text": "x"}).Status == 200 })
	s.server.Forget()
	s.gateway.Signal(t, syscall.SIGKILL)
	harness.Eventually(t, soon, "refused", func() bool {
		return harness.Post(t, s.url, key, echo, call("echo")...).Status == 503
	})
	s.server.Forget() // what passed before the signal
	if r := harness.Post(t, s.url, key, echo, call("echo")...); r.Status != 503 {
		t.Errorf("dead: HTTP %d", r.Status)
	}
	s.untouched(t)
}

// TestOtherServer: a route names its server by a context extension; one that is not configured is refused.
func TestOtherServer(t *testing.T) {
	for name, want := range map[string]int{"files": 200, "elsewhere": 503} {
		s := start(t, harness.Modern, func(e string) string {
			return edit(t, e, "                            timeout: 0s # event streams last\n", `                            timeout: 0s
                          typed_per_filter_config:
                            envoy.filters.http.ext_authz:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                              check_settings: { context_extensions: { mcpgw.server: `+name+` } }
`)
		})
		if r := harness.Post(t, s.url, key, echo, call("echo")...); r.Status != want {
			t.Errorf("%s: HTTP %d %s", name, r.Status, r.Body)
		}
	}
}
