package stdio

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
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/sse"
)

func TestMain(m *testing.M) {
	if part := os.Getenv(playEnv); part != "" {
		play(part)
		return
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait of a test; nothing ever waits for it to pass.
const patience = 30 * time.Second

// bridge is a running Server and a client of its socket.
type bridge struct {
	t    testing.TB
	s    *Server
	c    *http.Client
	stop func() // ends Run and waits for it
	log  *logBook
}

// logBook keeps what was logged.
type logBook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs a server over a child that the test binary plays, unless change sets another command.
func start(t testing.TB, part string, change func(*Options)) *bridge {
	t.Helper()
	dir, err := os.MkdirTemp("", "stdio") // t.TempDir is too long for a socket's path on macOS
	if err != nil {
		t.Fatal(err)
	}
	b := &bridge{t: t, log: &logBook{}}
	o := Options{
		Name: "test", Command: os.Args[0], Env: map[string]string{playEnv: part}, Socket: filepath.Join(dir, "s"),
		Log: slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&o)
	}
	b.s = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.s.Run(ctx) }()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", o.Socket)
	}}
	b.c = &http.Client{Transport: tr}
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		tr.CloseIdleConnections()
		os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("log:\n%s", b.log)
		}
	})
	t.Cleanup(b.stop)
	b.wait("something to serve", func(st State) bool { return st.Running })
	return b
}

// wait returns once the state satisfies ok. State has no signal for most of what it tells, so this looks again and again.
func (b *bridge) wait(what string, ok func(State) bool) State {
	b.t.Helper()
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	end := time.Now().Add(patience)
	for {
		st := b.s.State()
		if ok(st) {
			return st
		}
		if time.Now().After(end) {
			b.t.Fatalf("no %s in time; state %+v\n%s", what, st, b.log)
		}
		<-look.C
	}
}

const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}`

// request makes a POST of a modern message with the headers that mirror it, or of a legacy one with a session.
func (b *bridge) request(ctx context.Context, body, session string) *http.Request {
	b.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://test/mcp", strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	if session != "" {
		r.Header.Set("Mcp-Session-Id", session)
		return r
	}
	var m struct {
		Method string
		Params struct{ Name, URI string }
	}
	_ = json.Unmarshal([]byte(body), &m)
	r.Header.Set("MCP-Protocol-Version", "2026-07-28")
	r.Header.Set("Mcp-Method", m.Method)
	if n := m.Params.Name + m.Params.URI; n != "" {
		r.Header.Set("Mcp-Name", n)
	}
	return r
}

type reply struct {
	status int
	header http.Header
	events []string // of a stream, the last is the answer
	body   string   // the answer
}

// send sends and reads to the end. It may be called from any goroutine.
func (b *bridge) send(r *http.Request) reply {
	res, err := b.c.Do(r)
	if err != nil {
		return reply{body: err.Error()}
	}
	defer res.Body.Close()
	out := reply{status: res.StatusCode, header: res.Header}
	if res.Header.Get("Content-Type") != "text/event-stream" {
		body, err := io.ReadAll(res.Body)
		if out.body = string(body); err != nil {
			out.body = err.Error()
		}
		return out
	}
	events := sse.NewReader(res.Body, 32<<20)
	for {
		e, err := events.Next()
		if err != nil {
			return out
		}
		if !e.Comment {
			out.body = string(e.Data)
			out.events = append(out.events, out.body)
		}
	}
}

func (b *bridge) post(body, session string) reply {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return b.send(b.request(ctx, body, session))
}

// tool is a modern tools/call.
func tool(id, name, more string) string {
	return `{"jsonrpc":"2.0","id":` + id + `,"method":"tools/call","params":{"name":"` + name + `","arguments":{},` + meta + more + `}}}`
}

func (b *bridge) want(got reply, status int, parts ...string) {
	b.t.Helper()
	if got.status != status {
		b.t.Errorf("status %d, want %d; body %.500s", got.status, status, got.body)
	}
	for _, p := range parts {
		if !strings.Contains(got.body, p) {
			b.t.Errorf("body lacks %s:\n%.2000s", p, got.body)
		}
	}
}

// structured is result.structuredContent of an answer.
func structured[T any](t testing.TB, r reply) (v T) {
	t.Helper()
	var m struct {
		Result struct{ StructuredContent T }
	}
	if err := json.Unmarshal([]byte(r.body), &m); err != nil {
		t.Fatalf("%v in %s", err, r.body)
	}
	return m.Result.StructuredContent
}

// The bytes that are not an id or a token are the same on both sides, whatever JSON allows.
func TestBytesTravelUnchanged(t *testing.T) {
	b := start(t, "modern", nil)
	for _, id := range []string{`1`, `"1"`, `9007199254740993`, `"\u00e9\/"`, `-7`} {
		body := "{\n \"params\" : {\"arguments\":{\"n\":9007199254740993,\"f\":1.0,\"e\":\"\\u0041\"}, \"name\":\"raw\",\r\n" +
			meta + `,"progressToken":"tok","vendor/x":[1.50]}} ,"x":1e2,"id":` + id + `,"method":"tools/call","jsonrpc":"2.0"}`
		got := b.post(body, "")
		b.want(got, 200)
		seen := structured[struct{ Raw string }](t, got).Raw
		var m message
		if err := json.Unmarshal([]byte(seen), &m); err != nil {
			t.Fatal(err)
		}
		ours := string(m.ID)
		back := strings.Replace(strings.Replace(seen, `"id":`+ours+`,"method"`, `"id":`+id+`,"method"`, 1), `"progressToken":`+ours, `"progressToken":"tok"`, 1)
		if want := strings.NewReplacer("\n", " ", "\r", " ").Replace(body); back != want {
			t.Errorf("the child got\n%s\nwant\n%s", back, want)
		}
		quoted, _ := json.Marshal(seen)
		want := `{ "result" : {` + done + `,"n":9007199254740993,"f":1.0,"structuredContent":{"raw":` + string(quoted) + "}} ,  \"id\":" + id + `,"jsonrpc":"2.0"}`
		if got.body != want {
			t.Errorf("the caller got\n%s\nwant\n%s", got.body, want)
		}
	}
}

func TestProgressIsRestoredAndStrayWordsGoToTheLog(t *testing.T) {
	b := start(t, "modern", nil)
	var wg sync.WaitGroup
	for i := range 20 { // callers that all use the same id and token
		wg.Go(func() {
			got := b.post(tool(`1`, "progress", `,"progressToken":"same"`), "")
			if got.status != 200 || len(got.events) != 4 {
				t.Errorf("call %d: %d, events %q", i, got.status, got.events)
				return
			}
			for n, e := range got.events[:3] {
				if want := fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":%d,"progressToken":"same","x":1.0}}`, n); e != want {
					t.Errorf("event %s, want %s", e, want)
				}
			}
			b.want(got, 200, `"id":1,`)
		})
	}
	wg.Wait()
	if got := b.post(tool(`2`, "progress", ``), ""); len(got.events) != 0 {
		t.Errorf("a call without a token got events %q", got.events)
	}
	if !strings.Contains(b.log.String(), "whose is this?") {
		t.Error("the log notification is not in the log")
	}
}

// listenRequest asks for everything that can be listened to.
func listenRequest(id string) string {
	return `{"jsonrpc":"2.0","id":` + id + `,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},` + meta + `}}}`
}

func TestListeners(t *testing.T) {
	b := start(t, "modern", nil)
	ids := []string{`"a"`, `1`, `1`} // equal ids of two callers
	var streams []<-chan string
	for _, id := range ids {
		streams = append(streams, b.stream(b.request(t.Context(), listenRequest(id), "")))
	}
	for i, events := range streams {
		want := `{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":` + ids[i] + `},"notifications":{}}}`
		if e := b.next(events); e != want {
			t.Errorf("event %s, want %s", e, want)
		}
	}
	b.want(b.post(tool(`5`, "tell", ``), ""), 200, `"id":5`)
	for i, events := range streams {
		want := `{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":` + ids[i] + `}}}`
		if e := b.next(events); e != want {
			t.Errorf("event %s, want %s", e, want)
		}
	}
	// The child ends the first as stdio wants it and the second with a result; the third loses its child.
	b.want(b.post(tool(`6`, "teardown", ``), ""), 200, `"id":6`)
	b.want(b.post(tool(`7`, "crash", ``), ""), 200, `"id":7`, `-32603`)
	for i, parts := range [][]string{
		{`"id":"a","result":{"resultType":"complete"`, `"io.modelcontextprotocol/subscriptionId":"a"`},
		{`"id":1}`, `"io.modelcontextprotocol/subscriptionId":1}`},
		{`"id":1,"error"`, `-32603`},
	} {
		e := b.next(streams[i])
		for _, p := range parts {
			if !strings.Contains(e, p) {
				t.Errorf("stream %d ends with %s, which lacks %s", i, e, p)
			}
		}
		if e := b.next(streams[i]); e != "" {
			t.Errorf("stream %d goes on with %s", i, e)
		}
	}
}

func TestModernRefusals(t *testing.T) {
	b := start(t, "modern", func(o *Options) { o.MaxRequest = 4096 })
	for name, c := range map[string]struct {
		body   string
		change func(*http.Request)
		status int
		parts  []string
	}{
		"legacy initialize":   {`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}`, nil, 400, []string{`-32022`, `"supported":["2026-07-28"],"requested":"2025-11-25"`, `"id":1`}},
		"legacy call":         {`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, nil, 400, []string{`-32602`}},
		"modern initialize":   {`{"jsonrpc":"2.0","id":"a","method":"initialize","params":{` + meta + `}}}`, nil, 404, []string{`-32601`, `"id":"a"`}},
		"unknown method":      {`{"jsonrpc":"2.0","id":1,"method":"x/y","params":{` + meta + `}}}`, nil, 404, []string{`-32601`, `no such method`}},
		"notification":        {`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`, nil, 202, nil},
		"response":            {`{"jsonrpc":"2.0","id":1,"result":{}}`, nil, 400, []string{`-32600`}},
		"not JSON":            {`{`, nil, 400, []string{`-32700`, `"id":null`}},
		"duplicate key":       {`{"jsonrpc":"2.0","id":5,"method":"a","method":"b"}`, nil, 400, []string{`-32600`, `"id":5`}},
		"too large":           {tool("1", "raw", `,"x":"`+strings.Repeat("x", 5000)+`"`), nil, 413, []string{`-32600`}},
		"too large, chunked":  {tool("1", "raw", `,"x":"`+strings.Repeat("x", 5000)+`"`), func(r *http.Request) { r.ContentLength = -1 }, 413, []string{`-32600`}},
		"content type":        {tool("1", "raw", ``), func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, 415, nil},
		"version header":      {tool("1", "raw", ``), func(r *http.Request) { r.Header.Del("MCP-Protocol-Version") }, 400, []string{`-32020`}},
		"method header":       {tool("1", "raw", ``), func(r *http.Request) { r.Header.Set("Mcp-Method", "TOOLS/CALL") }, 400, []string{`-32020`}},
		"two method headers":  {tool("1", "raw", ``), func(r *http.Request) { r.Header.Add("Mcp-Method", "tools/call") }, 400, []string{`-32020`}},
		"name header":         {tool("1", "raw", ``), func(r *http.Request) { r.Header.Set("Mcp-Name", "crash") }, 400, []string{`-32020`}},
		"encoded name header": {tool("1", "raw", ``), func(r *http.Request) { r.Header.Set("Mcp-Name", "=?base64?cmF3?=") }, 200, []string{`"id":1`}},
		"GET":                 {``, func(r *http.Request) { r.Method = "GET" }, 405, nil},
		"DELETE":              {``, func(r *http.Request) { r.Method = "DELETE" }, 405, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := b.request(t.Context(), c.body, "")
			if c.change != nil {
				c.change(r)
			}
			got := b.send(r)
			(&bridge{t: t}).want(got, c.status, c.parts...)
		})
	}
}

func TestCrashMidCall(t *testing.T) {
	b := start(t, "modern", nil)
	first := b.s.State().PID
	b.want(b.post(tool(`"x"`, "crash", ``), ""), 200, `"id":"x"`, `-32603`, `"data":{"server":"test","reason":"down"}`)
	b.want(b.post(tool(`2`, "raw", ``), ""), 200, `"id":2`, `9007199254740993`) // waits for the next child
	st := b.s.State()
	if st.PID == first || st.Restarts != 1 || !strings.Contains(st.LastError, "exit status 3") {
		t.Errorf("state %+v", st)
	}
}

// A caller's probe must not take an outage for an answer about the era.
func TestCrashDuringDiscover(t *testing.T) {
	m, err := jsonrpc.Read([]byte(`{"jsonrpc":"2.0","id":1,"method":"server/discover"}`), jsonrpc.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	c := newCall(m, nil)
	c.fail = unserved("test", reasonDown, nil)
	w := &recorder{}
	(&answer{w: w}).end(c)
	if w.status != http.StatusServiceUnavailable {
		t.Errorf("status %d", w.status)
	}
}

func TestChildThatNeverStarts(t *testing.T) {
	dir := t.TempDir()
	s := New(Options{Name: "none", Command: filepath.Join(dir, "none"), Socket: filepath.Join(dir, "s")})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	w := &recorder{}
	r, _ := http.NewRequest("POST", "/", strings.NewReader(tool(`"q"`, "raw", ``)))
	r.Header.Set("Content-Type", "application/json")
	began := time.Now()
	s.ServeHTTP(w, r)
	if w.status != 503 || !strings.Contains(w.body.String(), `"id":"q"`) || !strings.Contains(w.body.String(), `"reason":"down"`) {
		t.Errorf("%d %s", w.status, w.body.String())
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("the refusal took %v", d)
	}
	if st := s.State(); st.Running || !strings.Contains(st.LastError, "no such file") {
		t.Errorf("state %+v", st)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestLineWithoutEnd(t *testing.T) {
	b := start(t, "modern", nil)
	b.want(b.post(tool(`1`, "long-line", ``), ""), 200, `"id":1`, `-32603`)
	b.want(b.post(tool(`2`, "raw", ``), ""), 200, `"id":2`, `9007199254740993`)
	if st := b.s.State(); st.Restarts != 1 || !strings.Contains(st.LastError, "exceeds the bound") {
		t.Errorf("state %+v", st)
	}
}

func TestNonsenseOnStdout(t *testing.T) {
	b := start(t, "modern", nil)
	b.want(b.post(tool(`1`, "nonsense", ``), ""), 200, `"id":1`, `-32603`, `"reason":"malformed"`)
	if st := b.s.State(); st.Malformed != 4 || st.Late != 1 || st.Restarts != 0 {
		t.Errorf("state %+v", st)
	}
}

func TestFloodOfStderr(t *testing.T) {
	b := start(t, "modern", nil)
	b.want(b.post(tool(`1`, "flood", ``), ""), 200, `"id":1,`)
	b.stop() // the log is complete
	if st := b.s.State(); st.StderrDropped < 15000 {
		t.Errorf("state %+v", st)
	}
	if n := len(b.log.String()); n > 200<<10 {
		t.Errorf("the log has %d bytes", n)
	}
}

func TestCallThatIsNeverAnswered(t *testing.T) {
	b := start(t, "modern", func(o *Options) { o.CallTimeout = 300 * time.Millisecond })
	b.want(b.post(tool(`1`, "never", ``), ""), 200, `"id":1`, `-32603`, `"reason":"timeout"`)
	got := b.post(tool(`2`, "cancelled", ``), "")
	if c := structured[struct{ Cancelled []string }](t, got).Cancelled; len(c) != 1 {
		t.Errorf("cancelled %q; %s", c, got.body)
	}
}

func TestCallerLeaves(t *testing.T) {
	b := start(t, "modern", nil)
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan reply)
	go func() { left <- b.send(b.request(ctx, tool(`1`, "never", ``), "")) }()
	b.wait("open call that reached the child", func(st State) bool { return st.Calls == 1 && b.arrived() })
	cancel()
	<-left
	b.wait("end of the call", func(st State) bool { return st.Calls == 0 })
	got := b.post(tool(`2`, "cancelled", ``), "")
	if c := structured[struct{ Cancelled []string }](t, got).Cancelled; len(c) != 1 {
		t.Errorf("cancelled %q", c)
	}
}

// arrived reports whether "never" has told that its call has come.
func (b *bridge) arrived() bool { return b.s.count.notifications.Load() > 0 || b.sent() }

func (b *bridge) sent() bool {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	if b.s.face == nil || b.s.face.link == nil {
		return false
	}
	l := b.s.face.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.calls {
		if c.sent {
			return true
		}
	}
	return false
}

func TestChildThatDoesNotRead(t *testing.T) {
	b := start(t, "deaf", func(o *Options) { o.CallTimeout = 500 * time.Millisecond; o.MaxCalls = 8 })
	big := strings.Repeat("x", 300<<10)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var statuses []int
	for i := range 30 {
		wg.Go(func() {
			got := b.post(tool(fmt.Sprint(i), "raw", `,"x":"`+big+`"`), "")
			mu.Lock()
			defer mu.Unlock()
			statuses = append(statuses, got.status)
			if !strings.Contains(got.body, `-32603`) || !strings.Contains(got.body, fmt.Sprintf(`"id":%d,`, i)) {
				t.Errorf("call %d: %d %.300s", i, got.status, got.body)
			}
		})
	}
	wg.Wait()
	if slices.ContainsFunc(statuses, func(s int) bool { return s != 200 && s != 503 }) || !slices.Contains(statuses, 200) || !slices.Contains(statuses, 503) {
		t.Errorf("statuses %v", statuses)
	}
	b.wait("replacement of a child that is stuck", func(st State) bool { return st.Restarts > 0 && st.Running })
	if !b.s.bodies.TryAcquire(maxBodies) {
		t.Error("bytes of requests are still booked")
	}
}

func TestStubbornChildAndItsFamily(t *testing.T) {
	t.Run("ignores SIGTERM and the end of stdin", func(t *testing.T) {
		b := start(t, "stubborn", nil)
		pid := b.s.State().PID
		b.stop()
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("the child lives: %v", err)
		}
	})
	for _, how := range []string{"crash", "stop"} {
		t.Run("grandchild dies with a child's "+how, func(t *testing.T) {
			fifo := filepath.Join(t.TempDir(), "fifo")
			if err := syscall.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			opened := make(chan *os.File, 1)
			go func() {
				f, err := os.Open(fifo) // blocks until the grandchild opens its end
				if err != nil {
					t.Error(err)
				}
				opened <- f
			}()
			b := start(t, "family", func(o *Options) { o.Env[fifoEnv] = fifo })
			f := <-opened
			defer f.Close()
			if line, err := io.ReadAll(io.LimitReader(f, 6)); err != nil || string(line) != "alive\n" {
				t.Fatalf("%q %v", line, err)
			}
			if how == "crash" {
				b.want(b.post(tool(`1`, "crash", ``), ""), 200, `-32603`)
			} else {
				b.stop()
			}
			if _, err := f.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("read %v, want the end of the pipe", err)
			}
		})
	}
}

func TestEra(t *testing.T) {
	for part, want := range map[string]struct{ era, revision string }{
		"modern":     {"modern", "2026-07-28"},
		"late":       {"modern", "2026-07-28"}, // starts slowly and answers both
		"sdk":        {"modern", "2026-07-28"},
		"legacy":     {"legacy", "2025-11-25"},
		"sdk-legacy": {"legacy", "2025-11-25"},
		"silent":     {"legacy", "2025-11-25"},
		"fragile":    {"legacy", "2025-11-25"}, // dies of the probe
	} {
		t.Run(part, func(t *testing.T) {
			b := start(t, part, func(o *Options) {
				if part == "late" || part == "silent" {
					o.ProbeTimeout = 300 * time.Millisecond
				}
			})
			st := b.s.State()
			if st.Era != want.era || st.Revision != want.revision {
				t.Errorf("state %+v\n%s", st, b.log)
			}
			if n := map[string]int{"fragile": 1}[part]; st.Restarts != n {
				t.Errorf("%d restarts, want %d", st.Restarts, n)
			}
		})
	}
}

// A child that speaks both eras must not come back in the other one because a start went wrong in between.
func TestEraSurvivesAStartThatGoesWrong(t *testing.T) {
	b := start(t, "hasty", func(o *Options) { o.Env[hastyEnv] = filepath.Join(t.TempDir(), "starts") })
	if st := b.s.State(); st.Era != "modern" {
		t.Fatalf("state %+v", st)
	}
	b.post(tool(`1`, "crash", ``), "")
	if st := b.wait("third start", func(st State) bool { return st.Running && st.Restarts == 2 }); st.Era != "modern" {
		t.Errorf("the child came back as %s\n%s", st.Era, b.log)
	}
}

func TestChildOfAnotherProtocol(t *testing.T) {
	dir := t.TempDir()
	s := New(Options{Name: "other", Command: os.Args[0], Env: map[string]string{playEnv: "other"}, Socket: filepath.Join(dir, "s")})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	threads := make(starter)
	ended := make(chan struct{})
	go func() { threads.run(); close(ended) }()
	s.threads = threads
	if _, _, _, err := s.start(ctx, true); err == nil || !strings.Contains(err.Error(), "2031-01-01") {
		t.Errorf("error %v", err)
	}
	close(threads)
	<-ended
}

func TestEnvironmentIsAnAllowList(t *testing.T) {
	t.Setenv("STDIO_SECRET", "s3cret")
	t.Setenv("STDIO_WANTED", "yes")
	names := func(change func(*Options)) []string {
		b := start(t, "modern", change)
		env := structured[struct{ Environment []string }](t, b.post(tool(`1`, "environment", ``), "")).Environment
		b.stop()
		slices.Sort(env)
		return env
	}
	for _, e := range names(nil) {
		name, _, _ := strings.Cut(e, "=")
		if name != playEnv && !slices.Contains(DefaultPassthrough, name) {
			t.Errorf("the child has %s", e)
		}
	}
	got := names(func(o *Options) { o.Passthrough = []string{"STDIO_WANTED"}; o.Env["A"] = "b" })
	if want := []string{"A=b", playEnv + "=modern", "STDIO_WANTED=yes"}; !slices.Equal(got, want) {
		t.Errorf("environment %q, want %q", got, want)
	}
}

func TestOptions(t *testing.T) {
	if err := (Options{Share: "some", User: "nobody-of-that-name"}).Check(); err == nil ||
		!strings.Contains(err.Error(), "command") || !strings.Contains(err.Error(), "socket") || !strings.Contains(err.Error(), "share") || !strings.Contains(err.Error(), "nobody-of-that-name") {
		t.Errorf("error %v", err)
	}
	if err := (Options{Command: "true", Socket: "s", MaxCalls: -1, MaxRequest: maxBodies + 1}).Check(); err == nil ||
		!strings.Contains(err.Error(), "negative") || !strings.Contains(err.Error(), "max request") {
		t.Errorf("error %v", err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, socket := range []string{file, filepath.Join(dir, "none", "s"), filepath.Join(dir, strings.Repeat("x", 200))} {
		if err := New(Options{Command: "true", Socket: socket}).Run(t.Context()); err == nil {
			t.Errorf("no error for the socket %s", socket)
		}
	}
}

func TestUser(t *testing.T) {
	if os.Geteuid() != 0 {
		if err := (Options{Command: "true", Socket: "s", User: "root"}).Check(); err == nil || !strings.Contains(err.Error(), "only root") {
			t.Errorf("error %v", err)
		}
		return
	}
	b := start(t, "", func(o *Options) {
		o.User, o.Dir, o.Command = "nobody", "/", "sh"
		o.Args = []string{"-c", `read x; echo '{"jsonrpc":"2.0","id":1,"result":{"supportedVersions":["2026-07-28"]}}'
			read x; echo '{"jsonrpc":"2.0","id":2,"result":{"user":"'$(id -un) $USER'","groups":"'$(id -Gn)'"}}'; read x`}
	})
	got := b.post(tool(`1`, "raw", ``), "")
	if b.want(got, 200, `"user":"nobody nobody"`); strings.Contains(got.body, "root") {
		t.Errorf("our groups went to the child: %s", got.body)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	b := start(t, "modern", func(o *Options) { o.PeerPID = func() int { return 0 } })
	b.want(b.post(tool(`1`, "raw", ``), ""), 200) // our own process
	stranger := exec.Command(os.Args[0])
	stranger.Env = append(os.Environ(), playEnv+"=stranger", socketEnv+"="+b.s.o.Socket)
	if out, err := stranger.CombinedOutput(); err != nil || string(out) != "closed" {
		t.Errorf("the stranger saw %q, %v", out, err)
	}
	if n := b.s.State().PeersRefused; n != 1 {
		t.Errorf("%d refused", n)
	}
}

// recorder is a ResponseWriter that remembers.
type recorder struct {
	h      http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header {
	if r.h == nil {
		r.h = http.Header{}
	}
	return r.h
}
func (r *recorder) WriteHeader(s int)           { r.status = s }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
