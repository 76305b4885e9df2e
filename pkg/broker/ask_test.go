package broker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpgw/mcpgw/pkg/approval"
	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/policy"
	"github.com/mcpgw/mcpgw/pkg/session"
	"github.com/mcpgw/mcpgw/pkg/upstream"
)

// rules is a policy with one ruling for everything.
type rules struct{ policy.Ruling }

func (r rules) Decide(context.Context, *policy.Question) policy.Ruling { return r.Ruling }
func (rules) Visible(context.Context, *policy.Question) (bool, error)  { return true, nil }
func (rules) ListKey(*policy.Question) (k [32]byte, ok bool)           { return k, false }
func (rules) Reads(*catalog.Item) ([]string, bool)                     { return nil, false }
func (rules) Labels() []string                                         { return nil }
func (r rules) Revision() string                                       { return r.Ruling.Revision }

// head is a request's headers.
type head http.Header

func (h head) Get(n string) string      { return http.Header(h).Get(n) }
func (h head) Values(n string) []string { return http.Header(h).Values(n) }
func (h head) Names() (out []string) {
	for n := range h {
		out = append(out, strings.ToLower(n))
	}
	return out
}

// connection is a client's, as a handler sees it.
type connection struct {
	mu     sync.Mutex
	header http.Header
	status int
	body   bytes.Buffer
}

func (c *connection) Header() http.Header              { return c.header }
func (c *connection) Flush()                           {}
func (c *connection) SetWriteDeadline(time.Time) error { return nil }
func (c *connection) WriteHeader(s int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = s
}

func (c *connection) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.body.Write(b)
}

func (c *connection) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.body.String()
}

// site is a broker with a gateway before it and a server behind it, in memory.
type site struct {
	*Broker
	t     *testing.T
	store *approval.Store
	serve func(*http.Request, string) *http.Response // the server
	log   bytes.Buffer

	mu    sync.Mutex
	calls []string // that the server received
}

func (s *site) RoundTrip(r *http.Request) (*http.Response, error) {
	b, _ := io.ReadAll(r.Body)
	if bytes.Contains(b, []byte(`"method":"tools/call"`)) {
		s.mu.Lock()
		s.calls = append(s.calls, string(b))
		s.mu.Unlock()
		return s.serve(r, string(b)), nil
	}
	if bytes.Contains(b, []byte(`"method":"initialize"`)) {
		return responds(`{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}}`), nil
	}
	return &http.Response{StatusCode: http.StatusAccepted, Header: http.Header{}, Body: http.NoBody}, nil
}

func (s *site) called() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

func responds(body string) *http.Response {
	return &http.Response{StatusCode: http.StatusOK, ContentLength: -1, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body))}
}

const done = `{"jsonrpc":"2.0","id":7,"result":{"content":[],"resultType":"complete"}}`

func startSite(t *testing.T, modern bool) *site {
	t.Helper()
	s := &site{t: t, store: approval.New(nil), serve: func(*http.Request, string) *http.Response { return responds(done) }}
	sessions := session.NewMemory(session.MemoryOptions{Max: 10, MaxPerPrincipal: 10, Idle: time.Hour})
	g, err := gateway.New(gateway.Options{Approvals: s.store, Sessions: sessions})
	if err != nil {
		t.Fatal(err)
	}
	client := upstream.NewClient(upstream.Options{Server: "s", URL: "http://s", Transport: s})
	s.Broker = New(Options{Gateway: g, Sessions: sessions, Log: slog.New(slog.NewTextHandler(&s.log, nil)), Server: func(string) *upstream.Client { return client }})
	s.rule(modern, policy.Ruling{Effect: policy.Ask, Revision: "r1", Reasons: []policy.Reason{{Rule: "ask", Message: "sure?"}}})
	return s
}

// rule makes a ruling the one that every question gets.
func (s *site) rule(modern bool, r policy.Ruling) {
	s.t.Helper()
	auth, err := identity.New(identity.Options{Anonymous: &identity.Principal{}})
	if err != nil {
		s.t.Fatal(err)
	}
	src := &catalog.Source{Server: "s", Modern: modern, Legacy: !modern, Revisions: []mcp.Revision{mcp.R20251125}}
	src.Items[catalog.Tool], _ = catalog.Collect("s", catalog.Tool, [][]byte{[]byte(`{"name":"push","inputSchema":{"type":"object"}}`)}, catalog.Trust{})
	s.Gateway.Swap(func(gateway.Snapshot) gateway.Snapshot {
		return gateway.Snapshot{
			Settings: &gateway.Settings{
				Listeners: map[string]*gateway.Listener{"main": {Name: "main", Auth: auth}}, Endpoints: map[string]*gateway.Endpoint{"mcp": {Name: "mcp"}},
				Servers:   map[string]*gateway.Server{"s": {Name: "s"}},
				Approvals: gateway.Approvals{User: true, Limits: approval.Limits{Expiry: 5 * time.Minute, Max: 10, PerPrincipal: 10}},
			},
			Policy: rules{r}, Routes: gateway.Routes{Servers: map[string]bool{"s": true}},
			Catalog: catalog.Build([]catalog.Endpoint{{Name: "mcp", Path: "/mcp", Servers: []catalog.Selection{{Server: "*"}}}}, []*catalog.Source{src}, nil),
		}
	})
}

// post judges a message and, if it goes to the broker, serves it there until the handler has returned.
func (s *site) post(ctx context.Context, body string, more ...string) (*connection, <-chan struct{}) {
	s.t.Helper()
	h := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
	for n := 0; n < len(more); n += 2 {
		h[textproto.CanonicalMIMEHeaderKey(more[n])] = []string{more[n+1]}
	}
	x, v := s.Gateway.Head(ctx, &gateway.Head{Listener: "main", Method: "POST", Path: "/mcp", Authority: "localhost", Header: head(h)})
	if v == nil {
		v = x.Body([]byte(body))
	}
	c, over := &connection{header: http.Header{}, status: 200}, make(chan struct{})
	if r, ok := v.(*gateway.Reply); ok {
		c.status = r.Status
		c.body.Write(r.Body)
		for _, l := range r.Header {
			c.header.Set(l.Name, l.Value)
		}
		close(over)
		return c, over
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://gateway/mcp", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set(gateway.HeaderTicket, v.(*gateway.Forward).Set[0].Value)
	go func() {
		defer close(over)
		s.ServeHTTP(c, r)
	}()
	return c, over
}

// open begins a legacy client's session.
func (s *site) open() []string {
	c, _ := s.post(context.Background(), `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{}}}}`)
	return []string{"mcp-session-id", c.header.Get("mcp-session-id"), "mcp-protocol-version", "2025-11-25"}
}

const push = `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"s_push","arguments":{"n":1.0}}}`

// asks makes a call that is asked about, and returns the id of the question.
func (s *site) asks(ctx context.Context, session []string) (c *connection, over <-chan struct{}, id string) {
	s.t.Helper()
	c, over = s.post(ctx, push, session...)
	synctest.Wait()
	_, rest, ok := strings.Cut(c.String(), `data: {"jsonrpc":"2.0","id":`)
	id, rest, _ = strings.Cut(rest, ",")
	if !ok || !strings.Contains(rest, `"method":"elicitation/create"`) || !strings.Contains(rest, "sure?") || len(s.called()) != 0 {
		s.t.Fatalf("asked with %q, the server received %q", c, s.called())
	}
	return c, over, id
}

func ends(t *testing.T, over <-chan struct{}) {
	t.Helper()
	synctest.Wait()
	select {
	case <-over:
	default:
		t.Error("the call goes on")
	}
}

// TestConfirm: a legacy client's call waits for its user, and then happens, or does not.
func TestConfirm(t *testing.T) {
	yes := `"result":{"action":"accept","content":{"confirm":true}}`
	for name, c := range map[string]struct {
		then   func(s *site, session []string, id string, leave context.CancelFunc)
		wants  string // in what the client reads after the question; "" = no response at all
		called bool
	}{
		"accepted": {func(s *site, session []string, id string, _ context.CancelFunc) {
			time.Sleep(4 * time.Minute)
			s.post(context.Background(), `{"jsonrpc":"2.0","id":`+id+`,`+yes+`}`, session...)
		}, `"id":7,"result"`, true},
		"declined": {func(s *site, session []string, id string, _ context.CancelFunc) {
			s.post(context.Background(), `{"jsonrpc":"2.0","id":`+id+`,"result":{"action":"decline"}}`, session...)
		}, `has declined`, false},
		"an error instead of an answer": {func(s *site, session []string, id string, _ context.CancelFunc) {
			s.post(context.Background(), `{"jsonrpc":"2.0","id":`+id+`,"error":{"code":-32601,"message":"no"}}`, session...)
		}, `could not ask`, false},
		"expired":                {func(*site, []string, string, context.CancelFunc) { time.Sleep(5*time.Minute + time.Second) }, `not answered in time`, false},
		"the gateway shuts down": {func(s *site, _ []string, _ string, _ context.CancelFunc) { s.Close() }, `not answered in time`, false},
		"the client leaves":      {func(_ *site, _ []string, _ string, leave context.CancelFunc) { leave() }, ``, false},
		"the client cancels": {func(s *site, session []string, _ string, _ context.CancelFunc) {
			s.post(context.Background(), `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}`, session...)
		}, ``, false},
		"the client cancels another": {func(s *site, session []string, id string, _ context.CancelFunc) {
			s.post(context.Background(), `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"7"}}`, session...)
			synctest.Wait()
			s.post(context.Background(), `{"jsonrpc":"2.0","id":`+id+`,`+yes+`}`, session...)
		}, `"id":7,"result"`, true},
		"the session ends": {func(s *site, session []string, _ string, _ context.CancelFunc) {
			x, _ := s.Gateway.Head(context.Background(), &gateway.Head{Listener: "main", Method: "DELETE", Path: "/mcp", Authority: "localhost", NoBody: true, Header: head{"Mcp-Session-Id": {session[1]}}})
			s.Ended(x.Session)
		}, `not answered in time`, false},
		"denied meanwhile": {func(s *site, session []string, id string, _ context.CancelFunc) {
			s.rule(false, policy.Ruling{Effect: policy.Deny, Revision: "r1", Reasons: []policy.Reason{{Rule: "deny", Message: "not any more"}}})
			s.post(context.Background(), `{"jsonrpc":"2.0","id":`+id+`,`+yes+`}`, session...)
		}, `not any more`, false},
		"another policy meanwhile": {func(s *site, session []string, id string, _ context.CancelFunc) {
			s.rule(false, policy.Ruling{Effect: policy.Ask, Revision: "r2", Reasons: []policy.Reason{{Rule: "ask", Message: "sure?"}}})
			s.post(context.Background(), `{"jsonrpc":"2.0","id":`+id+`,`+yes+`}`, session...)
		}, `has changed`, false},
		"another question's id": {func(s *site, session []string, _ string, _ context.CancelFunc) {
			a, over := s.post(context.Background(), `{"jsonrpc":"2.0","id":"guessed",`+yes+`}`, session...)
			<-over
			if a.status != http.StatusBadRequest {
				s.t.Errorf("a guessed answer gets %d", a.status)
			}
			time.Sleep(6 * time.Minute)
		}, `not answered in time`, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := startSite(t, false)
				session := s.open()
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				conn, over, id := s.asks(ctx, session)
				asked := len(conn.String())
				c.then(s, session, id, leave)
				ends(t, over)
				rest := conn.String()[asked:]
				if c.wants == "" && (strings.Contains(rest, `"error"`) || strings.Contains(rest, `"result"`)) || !strings.Contains(rest, c.wants) {
					t.Errorf("then the client reads %q", rest)
				}
				if answered := c.called || strings.Contains(name, "decline") || strings.Contains(name, "error") || strings.Contains(name, "meanwhile"); !answered != strings.Contains(rest, `"method":"notifications/cancelled","params":{"requestId":`+id) {
					t.Errorf("the question is taken back in %q", rest)
				}
				if calls := s.called(); (len(calls) == 1) != c.called || c.called && !strings.Contains(calls[0], `"arguments":{"n":1.0}`) {
					t.Errorf("the server received %q", calls)
				}
				if n := s.store.Len(); n != 0 {
					t.Errorf("%d questions are left", n)
				}
				if s.mu.Lock(); len(s.sessions) != 0 {
					t.Errorf("%d sessions are held", len(s.sessions))
				}
				s.mu.Unlock()
				if !strings.Contains(s.log.String(), "msg=confirmation") || strings.Contains(s.log.String(), "approved_by=user") != c.called {
					t.Errorf("the log says %s", &s.log)
				}
			})
		})
	}
}

// TestConfirmKeepsTheStream: while a human thinks the stream shows life, and one id asks once.
func TestConfirmKeepsTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startSite(t, false)
		session := s.open()
		ctx, leave := context.WithCancel(t.Context())
		conn, over, _ := s.asks(ctx, session)
		time.Sleep(time.Minute + time.Second)
		if n := strings.Count(conn.String(), ":\n\n"); n != 2 {
			t.Errorf("%d signs of life in a minute", n)
		}
		twice, end := s.post(t.Context(), push, session...)
		<-end
		if !strings.Contains(twice.String(), "a request with this id is under way") || s.store.Len() != 1 {
			t.Errorf("the same id twice: %s", twice)
		}
		leave()
		ends(t, over)
	})
}

// TestModernRounds: what a modern server answers to a confirmed call reaches the client unchanged, and its rounds are kept.
func TestModernRounds(t *testing.T) {
	meta := `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}}`
	header := []string{"mcp-protocol-version", "2026-07-28", "mcp-method", "tools/call", "mcp-name", "s_push"}
	input := `{"jsonrpc":"2.0","id":7,"result":{"resultType":"input_required","inputRequests":{"a":{}},"requestState":"S"}}`
	stream := func(events ...string) *http.Response {
		r := responds("data: " + strings.Join(events, "\n\ndata: ") + "\n\n")
		r.Header.Set("Content-Type", "text/event-stream")
		return r
	}
	progress := `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`
	for name, c := range map[string]struct {
		answer func() *http.Response
		status int
		want   string
		kept   int
	}{
		"complete":         {func() *http.Response { return responds(done) }, 200, done, 0},
		"input required":   {func() *http.Response { return responds(input) }, 200, input, 1},
		"complete, stream": {func() *http.Response { return stream(progress, done) }, 200, "event: message\ndata: " + progress + "\n\nevent: message\ndata: " + done + "\n\n", 0},
		"input, stream":    {func() *http.Response { return stream(input) }, 200, "event: message\ndata: " + input + "\n\n", 1},
		"a server's question": {func() *http.Response {
			return stream(`{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{}}`, done)
		}, 200, "event: message\ndata: " + done + "\n\n", 0},
		"cut": {func() *http.Response { return stream(progress) }, 200, `"reason":"unavailable"`, 0},
		"an error": {func() *http.Response {
			r := responds(`{"jsonrpc":"2.0","id":7,"error":{"code":-32050,"message":"no"}}`)
			r.StatusCode = 400
			return r
		}, 400, `"code":-32050`, 0},
		"another id": {func() *http.Response { return responds(strings.Replace(input, "7", "8", 1)) }, 200, `"reason":"not_mcp"`, 0},
		"no JSON":    {func() *http.Response { return responds(`<html>`) }, 200, `"reason":"not_mcp"`, 0},
		"503": {func() *http.Response {
			r := responds(input)
			r.StatusCode = 503
			return r
		}, 200, `"reason":"unavailable"`, 0},
		"401": {func() *http.Response {
			r := responds(input)
			r.StatusCode = 401
			return r
		}, 200, `"reason":"unauthorized"`, 0},
		"HTML": {func() *http.Response {
			r := responds(input)
			r.Header.Set("Content-Type", "text/html")
			return r
		}, 200, `"reason":"not_mcp"`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := startSite(t, true)
				s.serve = func(*http.Request, string) *http.Response { return c.answer() }
				asked, _ := s.post(t.Context(), `{"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"s_push","arguments":{},`+meta+`}}`, header...)
				_, state, _ := strings.Cut(asked.String(), `"requestState":"`)
				state, _, ok := strings.Cut(state, `"`)
				if !ok || len(s.called()) != 0 {
					t.Fatalf("asked with %s", asked)
				}
				got, over := s.post(t.Context(), fmt.Sprintf(`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"s_push","arguments":{},"requestState":%q,"inputResponses":{"mcpgw_confirm":{"action":"accept","content":{"confirm":true}}},%s}}`, state, meta), header...)
				<-over
				if got.status != c.status || !strings.Contains(got.String(), c.want) || strings.Contains(c.want, done) && got.String() != c.want {
					t.Errorf("the client reads %d %s", got.status, got)
				}
				if calls := s.called(); len(calls) != 1 || calls[0] != `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"push","arguments":{},`+meta+`}}` {
					t.Errorf("the server received %q", calls)
				}
				if n := s.store.Len(); n != c.kept {
					t.Errorf("%d calls are kept", n)
				}
			})
		})
	}
}
