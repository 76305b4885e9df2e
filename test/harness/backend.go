package harness

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpgw/mcpgw/test/eraproxy"
)

// Era says what a Backend speaks.
type Era int

// The eras of a Backend.
const (
	Modern Era = iota // 2026-07-28, stateless (and earlier revisions without sessions)
	Legacy            // 2025-11-25 and earlier, with sessions
	Dual              // both at one URL
)

// Recorded is one HTTP request as it reached a Backend.
type Recorded struct {
	Time   time.Time
	Method string // HTTP's
	Path   string // with the query
	Host   string
	Header http.Header
	Body   []byte

	RPC  string // the JSON-RPC method; "" for a response, a batch, or what is not JSON
	Name string // params.name or params.uri
}

// Fault is a way in which a Backend misbehaves instead of answering.
type Fault int

// The faults of a Backend; Healthy is none.
const (
	Healthy      Fault = iota
	Reset              // the connection is cut before any answer
	Hang               // no answer until the caller gives up
	HTML               // 200 with a page
	Redirect           // 302 to another host
	Unauthorized       // 401 with a challenge
	Forbidden          // 403
	Failing            // 500 with text
	Unavailable        // 503 without a body
	CutJSON            // half of a JSON answer, then the connection is cut
	CutSSE             // an event stream that is cut before its answer
	EndSSE             // an event stream that ends well but without an answer
	NotJSON            // application/json that is not JSON
)

// Backend is a real MCP server, made with the go-sdk, that records every request it receives, so that
// a test can prove that something was or was not forwarded, and misbehaves on demand.
//
// It has the tools echo, echo_b (the same), add, slow, big and fail, the resource test://text, the template
// test://item/{id} and the prompt greet; more can be added through Server. Its methods may be used from
// any goroutine.
type Backend struct {
	URL    string
	Server *mcp.Server // AddTool and RemoveTools send list_changed to those who listen

	mu       sync.Mutex
	requests []Recorded
	changed  chan struct{}
	faults   map[string]Fault // by JSON-RPC method; "" for all

	secure   *tls.Config // nil for plain HTTP
	address  string
	handler  http.Handler
	running  *httptest.Server // nil while down
	canceled chan string      // names of slow's calls that were cancelled
}

// StartBackend starts a Backend. build, if not nil, adds to or removes from its server before it listens.
func StartBackend(t testing.TB, era Era, build func(*mcp.Server)) *Backend {
	t.Helper()
	return startBackend(t, era, build, nil)
}

// StartSecureBackend is StartBackend behind TLS: it shows the certificate, and with clients not nil wants
// one of that authority from whoever connects.
func StartSecureBackend(t testing.TB, era Era, shows Certificate, clients *Authority) *Backend {
	t.Helper()
	secure := &tls.Config{Certificates: []tls.Certificate{shows.TLS}, MinVersion: tls.VersionTLS12}
	if clients != nil {
		secure.ClientAuth, secure.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		secure.ClientCAs.AddCert(clients.cert)
	}
	return startBackend(t, era, nil, secure)
}

func startBackend(t testing.TB, era Era, build func(*mcp.Server), secure *tls.Config) *Backend {
	t.Helper()
	b := &Backend{
		secure:   secure,
		Server:   mcp.NewServer(&mcp.Implementation{Name: "backend", Version: "1"}, &mcp.ServerOptions{CompletionHandler: complete}),
		changed:  make(chan struct{}),
		faults:   map[string]Fault{},
		canceled: make(chan string, 64),
	}
	b.items()
	if build != nil {
		build(b.Server)
	}
	b.handler = b.record(b.serve(t, era))
	b.Up(t)
	b.URL = "http://" + b.address + "/mcp"
	if secure != nil {
		b.URL = "https://" + b.address + "/mcp"
	}
	t.Cleanup(b.close)
	return b
}

// serve returns the server's handler for an era.
func (b *Backend) serve(t testing.TB, era Era) http.Handler {
	t.Helper()
	handler := func(stateless bool) http.Handler {
		return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return b.Server }, &mcp.StreamableHTTPOptions{
			Stateless: stateless,
			// The caller is a gateway whose clients name the gateway's host, not this one.
			DisableLocalhostProtection:   true,
			MaxRequestBodyBytes:          64 << 20,
			PropagateRequestCancellation: true,
		})
	}
	switch era {
	case Modern:
		return handler(true)
	case Legacy:
		return handler(false)
	case Dual:
		newer, older := httptest.NewServer(handler(true)), httptest.NewServer(handler(false))
		t.Cleanup(func() {
			for _, s := range []*httptest.Server{newer, older} {
				s.CloseClientConnections()
				s.Close()
			}
		})
		return eraproxy.New(mustParse(newer.URL), mustParse(older.URL))
	}
	t.Fatalf("no such era: %d", era)
	return nil
}

func mustParse(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err) // httptest made it
	}
	return u
}

// Up makes the backend listen, at the same address as before.
func (b *Backend) Up(t testing.TB) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running != nil {
		return
	}
	if b.address == "" {
		b.address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", b.address)
	if err != nil {
		t.Fatalf("backend: listening again: %v", err)
	}
	b.address = l.Addr().String()
	// Streams have no deadline; and a gateway that hangs up on a bad certificate is not worth a line.
	b.running = &httptest.Server{Listener: l, Config: &http.Server{Handler: b.handler, ErrorLog: log.New(io.Discard, "", 0)}}
	if b.secure != nil {
		b.running.TLS = b.secure
		b.running.StartTLS()
		return
	}
	b.running.Start()
}

// Down makes the backend stop listening and cuts its connections.
func (b *Backend) Down() {
	b.mu.Lock()
	running := b.running
	b.running = nil
	b.mu.Unlock()
	if running != nil {
		running.CloseClientConnections()
		running.Close()
	}
}

// Show changes the certificate of a secure backend from its next Up on.
func (b *Backend) Show(c Certificate) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.secure.Certificates = []tls.Certificate{c.TLS}
}

func (b *Backend) close() {
	b.mu.Lock()
	clear(b.faults)
	b.mu.Unlock()
	b.Down()
}

// Fail makes the backend misbehave for the given JSON-RPC methods, for all requests where none is given.
func (b *Backend) Fail(f Fault, methods ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(methods) == 0 {
		methods = []string{""}
	}
	for _, m := range methods {
		b.faults[m] = f
	}
}

// Heal ends all misbehaviour.
func (b *Backend) Heal() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.faults)
}

// Requests returns what was received so far, oldest first; with methods given, only requests of those
// JSON-RPC methods.
func (b *Backend) Requests(methods ...string) []Recorded {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Recorded
	for _, r := range b.requests {
		if len(methods) == 0 || slices.Contains(methods, r.RPC) {
			out = append(out, r)
		}
	}
	return out
}

// Forget empties the record.
func (b *Backend) Forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.requests = nil
}

// Await waits until the record holds n requests of a JSON-RPC method and returns them.
func (b *Backend) Await(t testing.TB, n int, method string, patience time.Duration) []Recorded {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		found := b.Requests(method)
		if len(found) >= n {
			return found
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("the backend received %d of %d %s within %v", len(found), n, method, patience)
		}
	}
}

// Untouched fails the test if a call, read or get has reached the backend since Forget. Lists and
// probes are the gateway's own and may come at any time.
func (b *Backend) Untouched(t testing.TB) {
	t.Helper()
	for _, r := range b.Requests() {
		if strings.HasSuffix(r.RPC, "/list") || r.RPC == "initialize" || r.RPC == "server/discover" || r.RPC == "ping" ||
			r.RPC == "notifications/initialized" || r.RPC == "subscriptions/listen" || (r.Method != http.MethodPost && r.RPC == "") {
			continue
		}
		t.Errorf("the backend received what it should not have: %s %s %s %q\n%.500s", r.Method, r.Path, r.RPC, r.Name, r.Body)
	}
}

// Cancelled yields the id argument of each call of slow that was cancelled.
func (b *Backend) Cancelled() <-chan string { return b.canceled }

// record writes down each request and lets it through, or lets it meet the fault that is set.
func (b *Backend) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		entry := Recorded{Time: time.Now(), Method: r.Method, Path: r.RequestURI, Host: r.Host, Header: r.Header.Clone(), Body: body}
		var message struct {
			Method string `json:"method"`
			Params struct {
				Name string `json:"name"`
				URI  string `json:"uri"`
			} `json:"params"`
		}
		if json.Unmarshal(body, &message) == nil {
			entry.RPC, entry.Name = message.Method, message.Params.Name+message.Params.URI
		}
		b.mu.Lock()
		b.requests = append(b.requests, entry)
		close(b.changed)
		b.changed = make(chan struct{})
		fault, ok := b.faults[entry.RPC]
		if !ok {
			fault = b.faults[""]
		}
		b.mu.Unlock()
		if err != nil {
			return // the sender went away in the middle of its body
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if fault == Healthy {
			next.ServeHTTP(w, r)
			return
		}
		misbehave(w, r, fault)
	})
}

func misbehave(w http.ResponseWriter, r *http.Request, f Fault) {
	write := func(status int, kind, body string) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body) // the peer may be gone: nothing to be done
	}
	flush := http.NewResponseController(w).Flush
	switch f {
	case Healthy: // not called for it
	case Reset:
		panic(http.ErrAbortHandler)
	case Hang:
		<-r.Context().Done()
	case HTML:
		write(http.StatusOK, "text/html", "<html><body>welcome to "+r.Host+"</body></html>")
	case Redirect:
		w.Header().Set("Location", "http://elsewhere.invalid/")
		w.WriteHeader(http.StatusFound)
	case Unauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="backend", resource_metadata="http://backend.invalid/.well-known/oauth-protected-resource"`)
		write(http.StatusUnauthorized, "text/plain", "who are you?")
	case Forbidden:
		write(http.StatusForbidden, "text/plain", "not you")
	case Failing:
		write(http.StatusInternalServerError, "text/plain", "stack trace of "+r.Host)
	case Unavailable:
		w.WriteHeader(http.StatusServiceUnavailable)
	case CutJSON:
		w.Header().Set("Content-Length", "1000")
		write(http.StatusOK, "application/json", `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"te`)
		_ = flush()
		panic(http.ErrAbortHandler)
	case CutSSE, EndSSE:
		write(http.StatusOK, "text/event-stream", "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":\"soon\"}}\n\n")
		_ = flush()
		if f == CutSSE {
			panic(http.ErrAbortHandler)
		}
	case NotJSON:
		write(http.StatusOK, "application/json", "{nothing of the kind")
	}
}

// arguments of the backend's tools
type (
	echoArguments struct {
		Text string `json:"text"`
	}
	addArguments struct {
		A float64 `json:"a"`
		B float64 `json:"b"`
	}
	slowArguments struct {
		ID       string `json:"id"`
		Millis   int    `json:"millis"`
		Progress bool   `json:"progress,omitempty"`
	}
	bigArguments struct {
		Bytes int `json:"bytes"`
	}
	noArguments struct{}
)

func text(s string) *mcp.CallToolResult {
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: s}}}
}

// items gives the server something of each kind.
func (b *Backend) items() {
	reads := &mcp.ToolAnnotations{ReadOnlyHint: true}
	for _, name := range []string{"echo", "echo_b"} {
		mcp.AddTool(b.Server, &mcp.Tool{Name: name, Description: "returns text", Annotations: reads},
			func(_ context.Context, _ *mcp.CallToolRequest, in echoArguments) (*mcp.CallToolResult, any, error) {
				return text(in.Text), nil, nil
			})
	}
	mcp.AddTool(b.Server, &mcp.Tool{Name: "add", Description: "returns a+b"},
		func(_ context.Context, _ *mcp.CallToolRequest, in addArguments) (*mcp.CallToolResult, any, error) {
			return text(fmt.Sprint(in.A + in.B)), nil, nil
		})
	mcp.AddTool(b.Server, &mcp.Tool{Name: "slow", Description: "answers after millis, with progress before if asked for", Annotations: reads}, b.slow)
	mcp.AddTool(b.Server, &mcp.Tool{Name: "big", Description: "returns so many bytes", Annotations: reads},
		func(_ context.Context, _ *mcp.CallToolRequest, in bigArguments) (*mcp.CallToolResult, any, error) {
			return text(strings.Repeat("x", max(0, min(in.Bytes, 64<<20)))), nil, nil
		})
	mcp.AddTool(b.Server, &mcp.Tool{Name: "fail", Description: "returns an error result", Annotations: reads},
		func(context.Context, *mcp.CallToolRequest, noArguments) (*mcp.CallToolResult, any, error) {
			return nil, nil, fmt.Errorf("as asked")
		})
	read := func(_ context.Context, r *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: r.Params.URI, MIMEType: "text/plain", Text: "text of " + r.Params.URI}}}, nil
	}
	b.Server.AddResource(&mcp.Resource{URI: "test://text", Name: "text", Description: "a text", MIMEType: "text/plain"}, read)
	b.Server.AddResourceTemplate(&mcp.ResourceTemplate{URITemplate: "test://item/{id}", Name: "item"}, read)
	b.Server.AddPrompt(&mcp.Prompt{Name: "greet", Description: "asks for a greeting", Arguments: []*mcp.PromptArgument{{Name: "who"}}},
		func(_ context.Context, r *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			return &mcp.GetPromptResult{Messages: []*mcp.PromptMessage{{Role: "user", Content: &mcp.TextContent{Text: "greet " + r.Params.Arguments["who"]}}}}, nil
		})
}

func (b *Backend) slow(ctx context.Context, r *mcp.CallToolRequest, in slowArguments) (*mcp.CallToolResult, any, error) {
	if token := r.Params.GetProgressToken(); in.Progress && token != nil {
		_ = r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: token, Progress: 1, Total: 2, Message: in.ID})
	}
	select {
	case <-time.After(time.Duration(in.Millis) * time.Millisecond):
		return text(in.ID), nil, nil
	case <-ctx.Done():
		select {
		case b.canceled <- in.ID:
		default: // nobody reads: the channel holds the first ones
		}
		return nil, nil, ctx.Err()
	}
}

func complete(_ context.Context, r *mcp.CompleteRequest) (*mcp.CompleteResult, error) {
	return &mcp.CompleteResult{Completion: mcp.CompletionResultDetails{Values: []string{r.Params.Argument.Value + "-completed"}}}, nil
}
