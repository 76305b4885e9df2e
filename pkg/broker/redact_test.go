package broker_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/pkg/broker"
	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/policy"
	"github.com/mcpgw/mcpgw/pkg/upstream"
)

// demanding is an engine that allows everything, with obligations.
type demanding struct{ obligations policy.Obligations }

func (d *demanding) Decide(context.Context, *policy.Question) policy.Ruling {
	return policy.Ruling{Effect: policy.Allow, Obligations: &d.obligations}
}
func (d *demanding) Visible(context.Context, *policy.Question) (bool, error) { return true, nil }
func (d *demanding) ListKey(*policy.Question) ([32]byte, bool)               { return [32]byte{}, false }
func (d *demanding) Reads(*catalog.Item) ([]string, bool)                    { return nil, false }
func (d *demanding) Labels() []string                                        { return nil }
func (d *demanding) Revision() string                                        { return "r" }

type anyone struct{}

func (anyone) Authenticate(context.Context, []string, []string) (*identity.Principal, error) {
	return &identity.Principal{ID: "x"}, nil
}
func (anyone) Current(p *identity.Principal) *identity.Principal { return p }

type head http.Header

func (h head) Get(name string) string      { return http.Header(h).Get(name) }
func (h head) Values(name string) []string { return http.Header(h).Values(name) }
func (h head) Names() (out []string) {
	for n := range h {
		out = append(out, strings.ToLower(n))
	}
	return out
}

// rig is a broker before one modern server, without Envoy.
type rig struct {
	gateway *gateway.Gateway
	broker  *httptest.Server
	log     *syncBuffer

	mu   sync.Mutex
	got  *http.Request
	body []byte
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

const redactBytes = 2000

func newRig(t *testing.T, o policy.Obligations, answer http.HandlerFunc) *rig {
	t.Helper()
	r := &rig{log: &syncBuffer{}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		r.mu.Lock()
		r.got, r.body = q.Clone(context.Background()), body
		r.mu.Unlock()
		answer(w, q)
	}))
	t.Cleanup(server.Close)
	src := &catalog.Source{Server: "s", Modern: true, Revisions: []mcp.Revision{mcp.R20260728}}
	items, bad := catalog.Collect("s", catalog.Tool, [][]byte{[]byte(`{"name":"t","inputSchema":{"type":"object","properties":{"a":{"type":"string","x-mcp-header":"A"},"b":{"type":"string","x-mcp-header":"B"}}}}`)}, catalog.Trust{})
	if len(bad) > 0 {
		t.Fatal(bad)
	}
	src.Items[catalog.Tool] = items
	var err error
	if r.gateway, err = gateway.New(gateway.Options{}); err != nil {
		t.Fatal(err)
	}
	r.gateway.Swap(func(gateway.Snapshot) gateway.Snapshot {
		return gateway.Snapshot{
			Settings: &gateway.Settings{
				Listeners: map[string]*gateway.Listener{"main": {Name: "main", Auth: anyone{}}}, Endpoints: map[string]*gateway.Endpoint{"mcp": {Name: "mcp"}},
				Servers: map[string]*gateway.Server{"s": {Name: "s", ForwardHeaders: map[string]bool{"x-team": true}}}, RedactBytes: redactBytes,
			},
			Policy: &demanding{o}, Routes: gateway.Routes{Servers: map[string]bool{"s": true}},
			Catalog: catalog.Build([]catalog.Endpoint{{Name: "mcp", Path: "/mcp", Servers: []catalog.Selection{{Server: "*"}}}}, []*catalog.Source{src}, nil),
		}
	})
	client := upstream.NewClient(upstream.Options{Server: "s", URL: server.URL, Transport: &http.Transport{DisableCompression: true}})
	r.broker = httptest.NewServer(broker.New(broker.Options{
		Gateway: r.gateway, Log: slog.New(slog.NewTextHandler(r.log, nil)), Server: func(string) *upstream.Client { return client }, MaxEvent: 4000,
	}))
	t.Cleanup(r.broker.Close)
	return r
}

const call = `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"s_t","arguments":{"a":"x"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`

// send lets the gateway judge the call and brings it to the broker, as Envoy would.
func (r *rig) send(t *testing.T, ctx context.Context) *http.Response {
	t.Helper()
	resp, err := http.DefaultClient.Do(r.judged(t, ctx))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// leaves sends the call and is gone before its answer.
func (r *rig) leaves(t *testing.T, ctx context.Context) {
	t.Helper()
	if resp, err := http.DefaultClient.Do(r.judged(t, ctx)); err == nil {
		_ = resp.Body.Close()
		t.Errorf("answered with %d", resp.StatusCode)
	}
}

func (r *rig) judged(t *testing.T, ctx context.Context) *http.Request {
	t.Helper()
	h := http.Header{}
	for _, l := range [][2]string{
		{"Content-Type", "application/json"},
		{"Accept", "application/json, text/event-stream"},
		{"Mcp-Protocol-Version", "2026-07-28"},
		{"Mcp-Method", "tools/call"},
		{"Mcp-Name", "s_t"},
		{"Mcp-Param-A", "x"},
		{"Mcp-Other", "stays"},
		{"X-Team", "blue"},
		{"X-Secret", "no"},
		{"Traceparent", "00-1-2-01"},
	} {
		h.Set(l[0], l[1])
	}
	x, v := r.gateway.Head(ctx, &gateway.Head{Listener: "main", Method: "POST", Path: "/mcp", Authority: "localhost", Header: head(h)})
	if v != nil {
		t.Fatalf("refused: %+v", v)
	}
	f, ok := x.Body([]byte(call)).(*gateway.Forward)
	if !ok || f.Backend != gateway.BackendBroker {
		t.Fatalf("not sent to the broker: %v", x.Fault)
	}
	for _, n := range f.Remove {
		h.Del(n)
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, r.broker.URL, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	q.Header = h
	for _, l := range f.Set {
		q.Header.Set(l.Name, l.Value)
	}
	return q
}

var secrets = policy.Obligations{Redact: []policy.Change{{Pattern: "secret", With: "-"}}}

func write(status int, contentType, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		for n := 0; n < len(header); n += 2 {
			w.Header().Set(header[n], header[n+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// TestForward: a modern call whose answer is redacted looks to server and client as it does on the direct lane, but for what is redacted.
func TestForward(t *testing.T) {
	const js, sse = "application/json", "text/event-stream"
	long := strings.Repeat("x", redactBytes)
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		status int
		want   string // the body; "?reason" for that reason; for a stream its events
	}{
		"a result":               {write(200, js, `{"jsonrpc":"2.0","id":7,"result":{"a":"a secret","n":1.0}}`), 200, `{"jsonrpc":"2.0","id":7,"result":{"a":"a -","n":1.0}}`},
		"201":                    {write(201, js, `{"jsonrpc":"2.0","id":7,"result":{}}`), 200, `{"jsonrpc":"2.0","id":7,"result":{}}`},
		"an error with a status": {write(404, js, `{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"secret"}}`), 404, `{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"-"}}`},
		"an error without an id": {write(400, js, `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"secret"}}`), 400, `{"jsonrpc":"2.0","id":7,"error":{"code":-32600,"message":"-"}}`},
		"a result with a status": {write(404, js, `{"jsonrpc":"2.0","id":7,"result":{"a":"secret"}}`), 200, "?not_mcp"},
		"another's result":       {write(200, js, `{"jsonrpc":"2.0","id":8,"result":{"a":"secret"}}`), 200, "?not_mcp"},
		"a request":              {write(200, js, `{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage"}`), 200, "?not_mcp"},
		"unauthorized":           {write(401, js, `{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"secret"}}`), 200, "?unauthorized"},
		"down":                   {write(503, js, `{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"secret"}}`), 200, "?unavailable"},
		"a redirect":             {write(302, js, `{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"secret"}}`, "Location", "/secret"), 200, "?not_mcp"},
		"accepted":               {write(202, "", ""), 200, "?not_mcp"},
		"a page":                 {write(200, "text/html", "secret"), 200, "?not_mcp"},
		"an encoding":            {write(200, js, "secret", "Content-Encoding", "gzip"), 200, "?unredacted"},
		"not JSON":               {write(200, js, `{"jsonrpc":"2.0","id":7,"result":{"a":"secret"`), 200, "?unredacted"},
		"two texts":              {write(200, js, `{"jsonrpc":"2.0","id":7,"result":{}} "secret"`), 200, "?unredacted"},
		"a name twice":           {write(200, js, `{"jsonrpc":"2.0","id":7,"result":{"secret":1,"secret":2}}`), 200, "?unredacted"},
		"too long":               {write(200, js, `{"jsonrpc":"2.0","id":7,"result":{"a":"secret`+long+`"}}`), 200, "?unredacted"},
		"an image":               {write(200, js, `{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"image","mimeType":"image/png","data":"/w=="}]}}`), 200, "?unredacted"},
		"a stream": {
			write(200, sse, "id: secret\nevent: secret\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/secret\"}\n\n: secret\n\n"+
				"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"data\":\"secret\"}}\n\ndata: {\"jsonrpc\":\"2.0\",\ndata: \"id\":8,\"result\":{}}\n\n"+
				"data: {\"jsonrpc\":\"2.0\",\ndata:   \"id\":7,\"result\":\"secret\"}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":\"secret\"}\n\n"),
			200, "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"data\":\"-\"}}\n\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\ndata:   \"id\":7,\"result\":\"-\"}\n\n",
		},
		"a stream without an end":      {write(200, sse, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"message\":\"secret\"}}\n\n"), 200, "?unavailable"},
		"a long event":                 {write(200, sse, "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":\"secret"+long+"\"}\n\n"), 200, "?unredacted"},
		"an event that is no JSON":     {write(200, sse, "data: secret\n\n"), 200, "?unredacted"},
		"an event with binary data":    {write(200, sse, "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"contents\":[{\"blob\":\"/w==\"}]}}\n\n"), 200, "?unredacted"},
		"a stream with another status": {write(400, sse, "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":\"secret\"}\n\n"), 200, "?not_mcp"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, secrets, c.answer)
			resp := r.send(t, t.Context())
			b, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != c.status {
				t.Fatalf("status %d, %s (%v)", resp.StatusCode, b, err)
			}
			if reason, refused := strings.CutPrefix(c.want, "?"); refused {
				if !strings.Contains(string(b), `"code":-32603`) || !strings.Contains(string(b), fmt.Sprintf(`"reason":%q`, reason)) || !strings.Contains(string(b), `"id":7`) {
					t.Errorf("got %s", b)
				}
			} else if string(b) != c.want {
				t.Errorf("got  %s\nwant %s", b, c.want)
			}
			if all := fmt.Sprint(string(b), resp.Header); strings.Contains(all, "secret") || strings.Contains(r.log.String(), "secret") {
				t.Errorf("shown: %s\nlogged: %s", all, r.log)
			}
			if kept := strings.HasSuffix(c.want, "unredacted"); kept != strings.Contains(r.log.String(), "kept back") {
				t.Errorf("the log says %s", r.log)
			}
		})
	}
}

// TestForwardedRequest: the server gets what the direct lane would send it.
func TestForwardedRequest(t *testing.T) {
	o := secrets
	o.Rewrite = []policy.Change{{Path: "/a"}, {Path: "/b", Value: []byte(`"é"`)}}
	r := newRig(t, o, write(200, "application/json", `{"jsonrpc":"2.0","id":7,"result":{}}`))
	_, _ = io.ReadAll(r.send(t, t.Context()).Body)
	if want := strings.Replace(strings.Replace(call, "s_t", "t", 1), `{"a":"x"}`, `{"b":"é"}`, 1); string(r.body) != want {
		t.Errorf("got  %s\nwant %s", r.body, want)
	}
	for name, want := range map[string]string{
		"Mcp-Name": "t", "Mcp-Method": "tools/call", "Mcp-Protocol-Version": "2026-07-28", "Mcp-Param-A": "", "Mcp-Param-B": "=?base64?w6k=?=", "Mcp-Other": "stays",
		"X-Team": "blue", "X-Secret": "", "Traceparent": "00-1-2-01", "Accept-Encoding": "identity", "Content-Type": "application/json", "X-Mcpgw-Exchange": "",
	} {
		if got := r.got.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// TestForwardedCallEndsWithItsClient: leaving is cancelling, before the answer and in the middle of its stream.
func TestForwardedCallEndsWithItsClient(t *testing.T) {
	for _, first := range []string{"", "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\n"} {
		ended, begun := make(chan struct{}), make(chan struct{})
		r := newRig(t, secrets, func(w http.ResponseWriter, q *http.Request) {
			if first != "" {
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(w, first)
				_ = http.NewResponseController(w).Flush()
			}
			close(begun)
			<-q.Context().Done()
			close(ended)
		})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-begun
			if first == "" {
				cancel()
			}
		}()
		if first == "" {
			r.leaves(t, ctx)
		} else {
			resp := r.send(t, ctx)
			if _, err := resp.Body.Read(make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			cancel()
		}
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Error("the server was not told")
		}
		cancel()
	}
}
