package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client closes its idle connections at the end, so that goleak sees only what is ours.
func client(t *testing.T, url string) *Client {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return NewClient(Options{
		Server: "s", URL: url, Transport: tr, Timeout: 5 * time.Second, Version: "test",
		Header: http.Header{"X-Mcpgw-Backend": {"s"}},
	})
}

// everything starts go-sdk's everything-server and returns its URL.
func everything(t *testing.T, stateless bool) string {
	t.Helper()
	binary, err := filepath.Abs("../../.tools/bin/everything-server")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("%v: run `make tools`, which builds it", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close() // the port is wanted free
	cmd := exec.Command(binary, "-http="+address, fmt.Sprintf("-stateless=%v", stateless))
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		cmd.Wait()         //nolint:errcheck // it was killed
		if t.Failed() {
			t.Log(log.String())
		}
	})
	for range 500 {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return "http://" + address + "/"
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("everything-server does not listen")
	return ""
}

func TestFetchRealServer(t *testing.T) {
	for _, c := range []struct {
		stateless, modern, sessions bool
		revisions                   []mcp.Revision
	}{
		{true, true, false, []mcp.Revision{mcp.R20260728, mcp.R20251125, mcp.R20250618, mcp.R20250326}},
		{false, false, true, []mcp.Revision{mcp.R20251125, mcp.R20250618, mcp.R20250326}},
	} {
		t.Run(fmt.Sprintf("stateless=%v", c.stateless), func(t *testing.T) {
			s, err := client(t, everything(t, c.stateless)).Fetch(t.Context())
			if err != nil {
				t.Fatal(err, causes(err))
			}
			if s.Modern != c.modern || !s.Legacy || s.Sessions != c.sessions || s.Fetched.IsZero() || len(s.Quarantined) > 0 {
				t.Errorf("%+v", s)
			}
			if diff := cmp.Diff(c.revisions, s.Revisions); diff != "" {
				t.Error(diff)
			}
			for kind, want := range map[catalog.Kind]string{
				catalog.Tool: "test_simple_text", catalog.Resource: "test://static-text",
				catalog.Template: "test://template/{id}/data", catalog.Prompt: "test_simple_prompt",
			} {
				if !slices.ContainsFunc(s.Items[kind], func(i *catalog.Item) bool { return i.Name == want }) {
					t.Errorf("no %s %s", kind, want)
				}
			}
			if !strings.Contains(string(s.Capabilities), `"listChanged":true`) {
				t.Errorf("capabilities %s", s.Capabilities)
			}
		})
	}
}

// Both eras of a real server are called: the modern one with a bridged request, the legacy one in a session.
func TestCallRealServer(t *testing.T) {
	call := []byte(`{"jsonrpc":"2.0","id":"c1","method":"tools/call","params":{"name":"test_simple_text","arguments":{}}}`)
	t.Run("modern", func(t *testing.T) {
		c := client(t, everything(t, true))
		m, err := jsonrpc.Read(call, jsonrpc.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		h, err := ModernHeaders(m, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(t.Context(), AddMeta(m, Meta{}), h)
		if err != nil {
			t.Fatal(err)
		}
		defer drain(resp.Body)
		a, err := read(resp, `"c1"`)
		if err != nil {
			t.Fatal(err, causes(err))
		}
		got, err := ToLegacyResult(a.raw, mcp.R20251125)
		if err != nil || bytes.Contains(got, []byte("resultType")) || !bytes.Contains(got, []byte(`"type":"text"`)) {
			t.Errorf("%s %v", got, err)
		}
	})
	t.Run("legacy", func(t *testing.T) {
		c := client(t, everything(t, false))
		s, err := c.Initialize(t.Context(), c.initializeParams())
		if err != nil {
			t.Fatal(err, causes(err))
		}
		resp, err := s.Do(t.Context(), call, http.Header{"Traceparent": {"00-1"}})
		if err != nil {
			t.Fatal(err)
		}
		if a, err := read(resp, `"c1"`); err != nil || !bytes.Contains(a.raw, []byte(`"type":"text"`)) {
			t.Error(err)
		}
		drain(resp.Body)
		for range 2 { // the second is harmless
			if err := s.Delete(t.Context()); err != nil {
				t.Error(err, causes(err))
			}
		}
		resp, err = s.Do(t.Context(), call, nil)
		if err != nil || resp.StatusCode != http.StatusNotFound {
			t.Errorf("a deleted session: %v %v", resp.StatusCode, err)
		}
		drain(resp.Body)
	})
}

// fake answers by method; an absent method gets 404 with -32601.
type fake map[string]func(w http.ResponseWriter, r *http.Request, id string, params map[string]any)

func (f fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := f[r.Method]; h != nil {
		h(w, r, "", nil)
		return
	}
	var m struct {
		ID     json.RawMessage
		Method string
		Params map[string]any
	}
	json.NewDecoder(r.Body).Decode(&m) //nolint:errcheck // an unreadable request has no method
	if h := f[m.Method]; h != nil {
		h(w, r, string(m.ID), m.Params)
		return
	}
	if m.ID == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	answerJSON(w, http.StatusNotFound, fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no such method"}}`, m.ID))
}

type handler = func(w http.ResponseWriter, r *http.Request, id string, params map[string]any)

func answerJSON(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	io.WriteString(w, body) //nolint:errcheck // the client may be gone
}

func result(text string) handler {
	return func(w http.ResponseWriter, _ *http.Request, id string, _ map[string]any) {
		answerJSON(w, 200, fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, id, text))
	}
}

func reply(status int, contentType, body string) handler {
	return func(w http.ResponseWriter, _ *http.Request, id string, _ map[string]any) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		io.WriteString(w, strings.ReplaceAll(body, "ID", id)) //nolint:errcheck // the client may be gone
	}
}

const (
	discovered  = `{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":60000}`
	initialized = `{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"x","version":"1"}}`
	oneTool     = `{"tools":[{"name":"t","inputSchema":{"type":"object"}}],"ttlMs":30000}`
)

func serve(t *testing.T, h http.Handler) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return client(t, s.URL)
}

// What a server may do to a probe, and what is made of it.
func TestProbe(t *testing.T) {
	legacy := result(initialized)
	for name, c := range map[string]struct {
		f    fake
		want string // modern, legacy, both, or a reason
	}{
		"modern only":              {fake{mcp.MethodDiscover: result(discovered)}, "modern"},
		"both":                     {fake{mcp.MethodDiscover: result(discovered), "initialize": legacy}, "both"},
		"legacy, 404 -32601":       {fake{"initialize": legacy}, "legacy"},
		"legacy, 200 -32601":       {fake{mcp.MethodDiscover: reply(200, "application/json", `{"jsonrpc":"2.0","id":ID,"error":{"code":-32601,"message":"x"}}`), "initialize": legacy}, "legacy"},
		"TypeScript v1, stateful":  {fake{mcp.MethodDiscover: reply(400, "application/json", `{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}`), "initialize": legacy}, "legacy"},
		"TypeScript v1, stateless": {fake{mcp.MethodDiscover: reply(400, "application/json", `{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Unsupported protocol version: 2026-07-28"}}`), "initialize": legacy}, "legacy"},
		"-32022 with a list":       {fake{mcp.MethodDiscover: reply(400, "application/json", `{"jsonrpc":"2.0","id":ID,"error":{"code":-32022,"message":"x","data":{"supported":["2025-11-25"]}}}`), "initialize": legacy}, "legacy"},
		"legacy, 400 text":         {fake{mcp.MethodDiscover: reply(400, "text/plain", "Bad Request"), "initialize": legacy}, "legacy"},
		"legacy, 500 HTML":         {fake{mcp.MethodDiscover: reply(500, "text/html", "<html>"), "initialize": legacy}, "legacy"},
		"only future versions":     {fake{mcp.MethodDiscover: reply(400, "application/json", `{"jsonrpc":"2.0","id":ID,"error":{"code":-32022,"message":"x","data":{"supported":["2030-01-01"]}}}`)}, "version"},
		"2024-11-05":               {fake{"initialize": result(`{"protocolVersion":"2024-11-05","capabilities":{}}`)}, "version"},
		"HTML":                     {fake{mcp.MethodDiscover: reply(200, "text/html", "<html>"), "initialize": reply(200, "text/html", "<html>")}, "not_mcp"},
		"broken JSON":              {fake{mcp.MethodDiscover: reply(200, "application/json", "{"), "initialize": reply(200, "application/json", `{"jsonrpc":"2.0"`)}, "not_mcp"},
		"two results":              {fake{"initialize": reply(200, "application/json", `{"jsonrpc":"2.0","id":ID,"result":`+initialized+`,"result":{}}`)}, "not_mcp"},
		"another id":               {fake{"initialize": reply(200, "application/json", `{"jsonrpc":"2.0","id":"ID","result":`+initialized+`}`)}, "not_mcp"},
		"500":                      {fake{mcp.MethodDiscover: reply(500, "text/plain", "x"), "initialize": reply(500, "text/plain", "x")}, "unavailable"},
		"503":                      {fake{mcp.MethodDiscover: reply(503, "text/plain", "x"), "initialize": reply(503, "text/plain", "x")}, "unavailable"},
		"504":                      {fake{mcp.MethodDiscover: reply(504, "text/plain", "x")}, "timeout"},
		"401":                      {fake{mcp.MethodDiscover: reply(401, "text/plain", "x"), "initialize": legacy}, "unauthorized"},
		"403":                      {fake{mcp.MethodDiscover: reply(403, "text/plain", "x"), "initialize": legacy}, "unauthorized"},
		"a redirect":               {fake{mcp.MethodDiscover: reply(307, "text/plain", "x"), "initialize": reply(302, "text/plain", "x")}, "not_mcp"},
		"neither":                  {fake{}, "refused"},
		"202":                      {fake{mcp.MethodDiscover: reply(202, "", ""), "initialize": reply(202, "", "")}, "not_mcp"},
		"initialized is refused":   {fake{"initialize": legacy, mcp.NotifyInitialized: reply(500, "text/plain", "x")}, "not_mcp"},
		"a cut stream":             {fake{"initialize": reply(200, "text/event-stream", "data: {\"jsonrpc\":")}, "unavailable"},
		"bad session id": {fake{"initialize": func(w http.ResponseWriter, r *http.Request, id string, _ map[string]any) {
			w.Header().Set("Mcp-Session-Id", "a b")
			legacy(w, r, id, nil)
		}}, "not_mcp"},
		"discover without versions": {fake{mcp.MethodDiscover: result(`{}`), "initialize": legacy}, "legacy"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := serve(t, c.f).Probe(t.Context())
			got := ""
			switch {
			case err != nil:
				got = string(ReasonOf(err))
				if strings.Contains(err.Error(), "127.0.0.1") {
					t.Errorf("an address in %q", err)
				}
			case s.Modern && s.Legacy:
				got = "both"
			case s.Modern:
				got = "modern"
			case s.Legacy:
				got = "legacy"
			}
			if got != c.want {
				t.Errorf("%s, want %s (%v)", got, c.want, err)
			}
		})
	}
}

func TestUnreachableAndHung(t *testing.T) {
	c := client(t, "http://127.0.0.1:1/")
	if _, err := c.Fetch(t.Context()); ReasonOf(err) != Unavailable || strings.Contains(err.Error(), "127") {
		t.Error(err)
	}
	release := make(chan struct{})
	defer close(release) // before the servers' cleanup, which waits for their handlers
	c = serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	c.Timeout = 50 * time.Millisecond
	if _, err := c.Fetch(t.Context()); ReasonOf(err) != Timeout {
		t.Error(err)
	}
	c = serve(t, fake{mcp.MethodDiscover: func(w http.ResponseWriter, _ *http.Request, _ string, _ map[string]any) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		<-release
	}})
	c.Timeout = 50 * time.Millisecond
	if _, err := c.Fetch(t.Context()); ReasonOf(err) != Timeout {
		t.Error(err)
	}
}

func TestFetchPages(t *testing.T) {
	tool := func(n int) string { return fmt.Sprintf(`{"name":"t%d", "inputSchema":{"type":"object"},"x":1.0}`, n) }
	pages := func(next func(n int) string, perPage int) fake {
		n := 0
		var mu sync.Mutex
		return fake{mcp.MethodDiscover: result(discovered), mcp.MethodToolsList: func(w http.ResponseWriter, r *http.Request, id string, params map[string]any) {
			mu.Lock()
			defer mu.Unlock()
			if r.Header.Get("Mcp-Method") != "tools/list" || r.Header.Get("Mcp-Protocol-Version") != "2026-07-28" || r.Header.Get("X-Mcpgw-Backend") != "s" {
				t.Errorf("headers %v", r.Header)
			}
			if got := fmt.Sprint(params["cursor"]); n > 0 && strconvQuote(got) != next(n-1) {
				t.Errorf("cursor %s, want %s", got, next(n-1))
			}
			var tools []string
			for k := range perPage {
				tools = append(tools, tool(n*perPage+k))
			}
			more := ""
			if c := next(n); c != "" {
				more = `,"nextCursor":` + c
			}
			n++
			result(`{"tools":[`+strings.Join(tools, ",")+`]`+more+`}`)(w, r, id, params)
		}}
	}
	for name, c := range map[string]struct {
		next    func(int) string
		perPage int
		items   int
		note    string
	}{
		"three pages, one cursor empty": {func(n int) string { return []string{`""`, `"b"`, ""}[n] }, 2, 6, ""},
		"a cursor repeats":              {func(int) string { return `"a"` }, 1, 2, "repeats a cursor"},
		"endless empty pages":           {func(n int) string { return fmt.Sprintf(`"%d"`, n) }, 0, 0, "more than 1000 pages"},
		"too many items":                {func(n int) string { return fmt.Sprintf(`"%d"`, n) }, 3000, catalog.MaxItems, "more than 10000 of a kind"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := serve(t, pages(c.next, c.perPage)).Fetch(t.Context())
			if err != nil {
				t.Fatal(err, causes(err))
			}
			if len(s.Items[catalog.Tool]) != c.items || len(s.Quarantined) != min(len(c.note), 1) {
				t.Errorf("%d items, quarantined %v", len(s.Items[catalog.Tool]), s.Quarantined)
			}
			if c.note != "" && !strings.Contains(s.Quarantined[0].Reason, c.note) {
				t.Errorf("%v, want %s", s.Quarantined, c.note)
			}
			if c.items > 0 && string(s.Items[catalog.Tool][1].Definition) != tool(1) {
				t.Errorf("definition %s", s.Items[catalog.Tool][1].Definition)
			}
		})
	}
}

func strconvQuote(s string) string { b, _ := json.Marshal(s); return string(b) }

func TestFetchKeepsTheGoodItems(t *testing.T) {
	s, err := serve(t, fake{
		mcp.MethodDiscover: result(discovered),
		mcp.MethodToolsList: result(`{"tools":[{"name":"good","inputSchema":{"type":"object"}},
			{"name":"twice","name":"x","inputSchema":{"type":"object"}},
			{"name":"head","inputSchema":{"type":"object","properties":{"a":{"type":"number","x-mcp-header":"A"}}}},
			{"name":"deep","inputSchema":{"type":"object","x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}}, 7],"ttlMs":30000}`),
	}).Fetch(t.Context())
	if err != nil {
		t.Fatal(err, causes(err))
	}
	if len(s.Items[catalog.Tool]) != 1 || len(s.Quarantined) != 4 || s.TTL != 30*time.Second {
		t.Errorf("%d items, ttl %v, quarantined %v", len(s.Items[catalog.Tool]), s.TTL, s.Quarantined)
	}
}

func TestFetchFails(t *testing.T) {
	for name, c := range map[string]struct {
		list handler
		want Reason
	}{
		"tools is no array":    {result(`{"tools":{}}`), NotMCP},
		"no tools":             {result(`{}`), NotMCP},
		"cursor is a number":   {result(`{"tools":[],"nextCursor":1}`), NotMCP},
		"an error":             {reply(400, "application/json", `{"jsonrpc":"2.0","id":ID,"error":{"code":-32020,"message":"x"}}`), Refused},
		"an error without id":  {reply(400, "application/json", `{"jsonrpc":"2.0","error":{"code":-32020,"message":"x"}}`), Refused},
		"endless body":         {reply(200, "application/json", `{"jsonrpc":"2.0","id":ID,"x":"`+strings.Repeat("x", maxAnswer)+`"`), TooLarge},
		"endless event":        {reply(200, "text/event-stream", "data: "+strings.Repeat("x", maxAnswer)), TooLarge},
		"endless other events": {reply(200, "text/event-stream", strings.Repeat("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\n", maxAnswer/50)), TooLarge},
		"a stream of nothing":  {reply(200, "text/event-stream", ": hello\n\n"), Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := serve(t, fake{mcp.MethodDiscover: result(discovered), mcp.MethodToolsList: c.list}).Fetch(t.Context())
			if ReasonOf(err) != c.want || err == nil {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
}

func TestFetchReadsEventStreams(t *testing.T) {
	s, err := serve(t, fake{
		mcp.MethodDiscover: result(discovered),
		mcp.MethodToolsList: reply(200, "text/event-stream; charset=utf-8", ": hi\r\n\r\nid: 1\ndata:\n\nevent: other\ndata: {\n\n"+
			`data: {"jsonrpc":"2.0","method":"notifications/message","params":{}}`+"\n\n"+
			`data: {"jsonrpc":"2.0","id":ID,"method":"ping"}`+"\n\n"+
			`data: {"jsonrpc":"2.0","id":999,"result":{}}`+"\n\n"+
			"event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":ID,\ndata: \"result\":"+oneTool+"}\n\n"),
	}).Fetch(t.Context())
	if err != nil || len(s.Items[catalog.Tool]) != 1 {
		t.Fatal(err, causes(err))
	}
}

// A server with sessions that forgets one in the middle of a reading gets a second one, and no third.
func TestFetchRemakesALostSession(t *testing.T) {
	for losses, want := range map[int]string{0: "", 1: "", 2: "refused"} {
		var made, deleted, lost atomic.Int64
		c := serve(t, fake{
			mcp.MethodInitialize: func(w http.ResponseWriter, r *http.Request, id string, p map[string]any) {
				w.Header().Set("Mcp-Session-Id", fmt.Sprintf("s%d", made.Add(1)))
				result(initialized)(w, r, id, p)
			},
			http.MethodDelete: func(http.ResponseWriter, *http.Request, string, map[string]any) { deleted.Add(1) },
			mcp.MethodToolsList: func(w http.ResponseWriter, r *http.Request, id string, p map[string]any) {
				if r.Header.Get("Mcp-Session-Id") != fmt.Sprintf("s%d", made.Load()) || r.Header.Get("Mcp-Protocol-Version") != "2025-06-18" {
					t.Errorf("headers %v", r.Header)
				}
				if lost.Add(1) <= int64(losses) {
					reply(404, "application/json", `{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}`)(w, r, id, p)
					return
				}
				result(oneTool)(w, r, id, p)
			},
		})
		s, err := c.Fetch(t.Context())
		if want == "" && (err != nil || !s.Sessions || len(s.Items[catalog.Tool]) != 1) || want != "" && string(ReasonOf(err)) != want {
			t.Errorf("%d losses: %v", losses, err)
		}
		if made.Load() != int64(min(losses, 1)+1) || deleted.Load() != 1 {
			t.Errorf("%d losses: %d sessions made, %d deleted", losses, made.Load(), deleted.Load())
		}
	}
}

func TestOwnHeadersWin(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("X-Mcpgw-Backend"), r.Header.Get("Mcp-Session-Id"), r.Header.Get("Mcp-Protocol-Version"))
	}))
	s := c.Resume("mine", mcp.R20250326)
	resp, err := s.Do(t.Context(), []byte("{}"), http.Header{"x-mcpgw-backend": {"other"}, "mcp-session-id": {"theirs"}, "Mcp-Protocol-Version": {"x"}})
	if err != nil {
		t.Fatal(err)
	}
	defer drain(resp.Body)
	if b, _ := io.ReadAll(resp.Body); string(b) != "smine" {
		t.Errorf("%s", b)
	}
}

// quick is a pace for tests.
var quick = pace{
	least: 2 * time.Millisecond, most: 20 * time.Millisecond, steady: time.Second,
	settle: time.Millisecond, spacing: time.Millisecond, floor: 5 * time.Millisecond,
}

// watch runs a watcher until the test ends and returns what it publishes.
func watch(t *testing.T, c *Client, refresh time.Duration) (*Watcher, <-chan *catalog.Source) {
	t.Helper()
	published := make(chan *catalog.Source, 100)
	w := NewWatcher(c, func(s *catalog.Source) { published <- s }, refresh, slog.New(slog.DiscardHandler))
	w.pace = quick
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w, published
}

func next(t *testing.T, published <-chan *catalog.Source) *catalog.Source {
	t.Helper()
	select {
	case s := <-published:
		return s
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was published")
		return nil
	}
}

func TestWatcherKeepsItemsOfAServerThatIsDown(t *testing.T) {
	var down atomic.Pointer[string]
	up := ""
	down.Store(&up)
	f := fake{mcp.MethodDiscover: result(discovered), mcp.MethodToolsList: result(oneTool)}
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch *down.Load() {
		case "":
			f.ServeHTTP(w, r)
		case "html":
			reply(200, "text/html", "<html>")(w, r, "", nil)
		case "401":
			reply(401, "text/plain", "")(w, r, "", nil)
		}
	}))
	w, published := watch(t, c, time.Hour)
	first := next(t, published)
	if first.Degraded != "" || len(first.Items[catalog.Tool]) != 1 {
		t.Fatalf("%+v", first)
	}
	for state, want := range map[string]Reason{"html": NotMCP, "401": Unauthorized} {
		down.Store(&state)
		w.Refresh()
		s := next(t, published)
		if s.Degraded != string(want) || len(s.Items[catalog.Tool]) != 1 || !s.Modern {
			t.Errorf("%s: %+v", state, s)
		}
		down.Store(&up)
		if s = next(t, published); s.Degraded != "" || s.Items[catalog.Tool][0] != first.Items[catalog.Tool][0] {
			t.Errorf("back from %s: %+v", state, s)
		}
	}
}

func TestWatcherStartsWithAServerThatIsDown(t *testing.T) {
	_, published := watch(t, client(t, "http://127.0.0.1:1/"), 0)
	if s := next(t, published); s.Degraded != string(Unavailable) || !s.Fetched.IsZero() || s.Server != "s" {
		t.Errorf("%+v", s)
	}
}

func TestWatcherPublishesOnlyWhatChanged(t *testing.T) {
	var reads atomic.Int64
	changed := make(chan struct{})
	c := serve(t, fake{
		mcp.MethodDiscover: result(strings.Replace(discovered, "60000", "1", 1)),
		mcp.MethodToolsList: func(w http.ResponseWriter, r *http.Request, id string, p map[string]any) {
			if reads.Add(1) == 5 {
				close(changed)
			}
			select {
			case <-changed:
				result(`{"tools":[]}`)(w, r, id, p)
			default:
				result(oneTool)(w, r, id, p)
			}
		},
	})
	_, published := watch(t, c, time.Hour)
	if s := next(t, published); len(s.Items[catalog.Tool]) != 1 {
		t.Errorf("%+v", s)
	}
	if s := next(t, published); len(s.Items[catalog.Tool]) != 0 || reads.Load() < 5 {
		t.Errorf("published after %d readings: %+v", reads.Load(), s)
	}
}

// A change is heard on the stream that the era has for it, and after the stream broke.
func TestWatcherHearsChanges(t *testing.T) {
	for _, era := range []string{"modern", "legacy"} {
		t.Run(era, func(t *testing.T) {
			var version atomic.Int64
			send := make(chan string)
			stream := func(w http.ResponseWriter, r *http.Request, _ string, _ map[string]any) {
				w.Header().Set("Content-Type", "text/event-stream")
				w.(http.Flusher).Flush()
				for {
					select {
					case <-r.Context().Done():
						return
					case e := <-send:
						if e == "" {
							return
						}
						fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"method\":%q}\n\n", e)
						w.(http.Flusher).Flush()
					}
				}
			}
			f := fake{mcp.MethodToolsList: func(w http.ResponseWriter, r *http.Request, id string, p map[string]any) {
				result(fmt.Sprintf(`{"tools":[{"name":"v%d","inputSchema":{"type":"object"}}]}`, version.Load()))(w, r, id, p)
			}}
			if era == "modern" {
				f[mcp.MethodDiscover] = result(`{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true}}}`)
				f[mcp.MethodListen] = stream
			} else {
				f[mcp.MethodInitialize] = result(`{"protocolVersion":"2025-03-26","capabilities":{"tools":{"listChanged":true}}}`)
				f[http.MethodGet] = stream
			}
			_, published := watch(t, serve(t, f), time.Hour)
			next(t, published)
			for _, event := range []string{mcp.NotifyToolsChanged, "", mcp.NotifyToolsChanged} {
				send <- "notifications/other" // the stream is open
				version.Add(1)
				send <- event
				if s := next(t, published); s.Items[catalog.Tool][0].Name != fmt.Sprintf("v%d", version.Load()) {
					t.Errorf("after %q: %s", event, s.Items[catalog.Tool][0].Name)
				}
			}
		})
	}
}

// The real server adds a tool while it is watched, in either era.
func TestWatcherOfARealServer(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		t.Run(fmt.Sprintf("stateless=%v", stateless), func(t *testing.T) {
			c := client(t, everything(t, stateless))
			_, published := watch(t, c, time.Hour)
			before := next(t, published)
			trigger := trigger(t, c, stateless)
			deadline := time.After(10 * time.Second)
			for { // the first change may come before the stream is open
				trigger()
				select {
				case after := <-published:
					if len(after.Items[catalog.Tool]) != len(before.Items[catalog.Tool])+1 {
						t.Errorf("%d tools, then %d", len(before.Items[catalog.Tool]), len(after.Items[catalog.Tool]))
					}
					return
				case <-time.After(50 * time.Millisecond):
				case <-deadline:
					t.Fatal("the change was not heard")
				}
			}
		})
	}
}

// trigger returns a function that lets the everything-server add a tool.
func trigger(t *testing.T, c *Client, modern bool) func() {
	m := message(t, `{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{"name":"test_trigger_tool_change","arguments":{}}}`)
	send := func() (*http.Response, error) {
		h, err := ModernHeaders(m, nil)
		if err != nil {
			return nil, err
		}
		return c.Do(t.Context(), AddMeta(m, Meta{}), h)
	}
	if !modern {
		s, err := c.Initialize(t.Context(), c.initializeParams())
		if err != nil {
			t.Fatal(err)
		}
		send = func() (*http.Response, error) { return s.Do(t.Context(), m.Body, nil) }
	}
	return func() {
		resp, err := send()
		if err != nil {
			t.Fatal(err)
		}
		defer drain(resp.Body)
		if _, err := read(resp, `"c"`); err != nil {
			t.Fatal(err, causes(err))
		}
	}
}

func TestErrorsSayNoAddress(t *testing.T) {
	e := &Error{Reason: Timeout, Step: "tools/list", Cause: errors.New("dial 10.0.0.1")}
	if e.Error() != "tools/list: timeout" || !strings.Contains(causes(e), "10.0.0.1") || ReasonOf(fmt.Errorf("x: %w", e)) != Timeout {
		t.Error(e)
	}
}
