package stdio

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/pkg/sse"
)

const initialize = `{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"roots":{}},"clientInfo":{"name":"c","version":"1"}}}`

// open initializes a session.
func (b *bridge) open() string {
	b.t.Helper()
	r := b.request(context.Background(), initialize, "none")
	r.Header.Del("Mcp-Session-Id")
	got := b.send(r)
	b.want(got, 200, `"id":"i"`, `"protocolVersion":"2025-11-25"`)
	id := got.header.Get("Mcp-Session-Id")
	if len(id) != 32 {
		b.t.Fatalf("session id %q; %d %s", id, got.status, got.body)
	}
	return id
}

// legacy is a request of a session.
func legacy(id, method, params string) string {
	return `{"jsonrpc":"2.0","id":` + id + `,"method":"` + method + `","params":` + params + `}`
}

func legacyTool(id, name string) string { return legacy(id, "tools/call", `{"name":"`+name+`"}`) }

// listen opens the GET stream of a session; it is open when listen returns. The channel is closed when the stream ends.
func (b *bridge) listen(ctx context.Context, session string) <-chan string {
	b.t.Helper()
	r := b.request(ctx, "", session)
	r.Method = http.MethodGet
	res, err := b.c.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	if res.StatusCode != 200 {
		b.t.Fatalf("GET: status %d", res.StatusCode)
	}
	return b.events(res)
}

// events reads a stream event by event. The channel is closed when the stream ends.
func (b *bridge) events(res *http.Response) <-chan string {
	events := make(chan string, 100)
	go func() {
		defer close(events)
		defer res.Body.Close()
		in := sse.NewReader(res.Body, 1<<20)
		for {
			e, err := in.Next()
			if err != nil {
				return
			}
			if !e.Comment {
				events <- string(e.Data)
			}
		}
	}()
	return events
}

// next is the next event; "" stands for the stream's end.
func (b *bridge) next(events <-chan string) string {
	b.t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(patience):
		b.t.Fatal("no event in time")
		return ""
	}
}

func TestSharedLegacyChild(t *testing.T) {
	b := start(t, "legacy", nil)
	one, two := b.open(), b.open()
	if one == two {
		t.Fatal("two sessions have one id")
	}
	r := b.request(t.Context(), initialize, one)
	b.want(b.send(r), 200, `"subscribe":false`, `"tasks":{}`, `"x":9007199254740993`, `"listChanged":true`)

	b.want(b.post(legacyTool(`7`, "raw"), one), 200, `"id":7,`, `9007199254740993`)
	b.want(b.post(legacy(`1`, "ping", `{}`), one), 200, `{"jsonrpc":"2.0","id":1,"result":{}}`)
	b.want(b.post(legacy(`1`, "logging/setLevel", `{"level":"debug"}`), one), 200, `"result":{}`)
	for _, method := range []string{"resources/subscribe", "tasks/list", "x/y"} {
		b.want(b.post(legacy(`1`, method, `{}`), one), 200, `-32601`)
	}
	b.want(b.post(`{"jsonrpc":"2.0","method":"notifications/initialized"}`, one), 202)
	b.want(b.post(legacyTool(`7`, "raw"), "0123456789abcdef0123456789abcdef"), 404, `-32001`, `"id":7`)
	r = b.request(t.Context(), legacyTool(`7`, "raw"), one)
	r.Header.Del("Mcp-Session-Id")
	b.want(b.send(r), 400, `-32600`)
	b.want(b.post(`{"jsonrpc":"2.0","id":3,"method":"server/discover","params":{`+meta+`}}}`, ""), 400, `-32022`, `"supported":["2025-11-25"],"requested":"2026-07-28"`)

	r = b.request(t.Context(), legacyTool(`7`, "raw"), one)
	r.Header.Set("MCP-Protocol-Version", "2026-07-28")
	b.want(b.send(r), 400, `-32022`, `"id":7`)
	r.Header.Set("MCP-Protocol-Version", "2025-06-18")
	r.Body = io.NopCloser(strings.NewReader(legacyTool(`7`, "raw")))
	b.want(b.send(r), 200, `"id":7,`)

	// What the child asks is answered at once, whoever is there.
	b.want(b.post(legacyTool(`1`, "ask"), one), 200, `"id":1`)
	answers := structured[struct{ Answers []json.RawMessage }](t, b.post(legacyTool(`1`, "answers"), one)).Answers
	if len(answers) != 2 || string(answers[0]) != `{"jsonrpc":"2.0","id":"p","result":{}}` || !strings.Contains(string(answers[1]), `"id":1,"error":{"code":-32601`) {
		t.Errorf("answers %s", answers)
	}

	// Every listener hears of changed lists, and of nothing else.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	heard := []<-chan string{b.listen(ctx, one), b.listen(ctx, two)}
	again := b.listen(ctx, two) // takes over
	if e := b.next(heard[1]); e != "" {
		t.Errorf("the older stream goes on: %s", e)
	}
	heard[1] = again
	b.want(b.post(legacyTool(`1`, "changed"), one), 200)
	b.want(b.post(legacyTool(`1`, "changed"), one), 200)
	for _, events := range heard {
		for range 2 {
			if e := b.next(events); e != `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}` {
				t.Errorf("event %s", e)
			}
		}
	}

	// A child that was replaced may offer something else; the sessions outlive it.
	b.want(b.post(legacyTool(`"c"`, "crash"), one), 200, `"id":"c"`, `-32603`)
	var changes []string
	for range 3 {
		changes = append(changes, b.next(heard[0]))
	}
	for _, what := range []string{"tools", "resources", "prompts"} {
		if !slices.Contains(changes, `{"jsonrpc":"2.0","method":"notifications/`+what+`/list_changed"}`) {
			t.Errorf("after the restart: %q", changes)
		}
	}
	b.want(b.post(legacyTool(`8`, "raw"), one), 200, `"id":8,`)

	del := b.request(t.Context(), "", two)
	del.Method = http.MethodDelete
	b.want(b.send(del), 200)
	if e := b.next(heard[1]); e != "" && !strings.Contains(e, "list_changed") {
		t.Errorf("event %s", e)
	}
	b.want(b.send(del), 404)
	b.want(b.post(legacyTool(`7`, "raw"), two), 404, `-32001`)
}

// A cancellation reaches only the session's own call.
func TestLegacyCancellation(t *testing.T) {
	b := start(t, "legacy", nil)
	one, two := b.open(), b.open()
	ended := make(chan reply, 1)
	go func() { ended <- b.post(legacyTool(`"same"`, "never"), one) }()
	b.wait("open call", func(State) bool { return b.sent() })
	cancelled := `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"same"}}`
	b.want(b.post(cancelled, two), 202)
	if st := b.s.State(); st.Calls != 1 {
		t.Errorf("a foreign session cancelled the call")
	}
	b.want(b.post(cancelled, one), 202)
	b.want(<-ended, 200, `"id":"same"`, `"reason":"cancelled"`)
	got := structured[struct{ Cancelled []string }](t, b.post(legacyTool(`1`, "cancelled"), two)).Cancelled
	if len(got) != 1 || got[0] == `"same"` {
		t.Errorf("the child saw %q", got)
	}
}

// In the legacy era a caller who leaves does not end the call.
func TestLegacyCallerLeaves(t *testing.T) {
	b := start(t, "legacy", func(o *Options) { o.CallTimeout = 500 * time.Millisecond })
	session := b.open()
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan reply)
	go func() { left <- b.send(b.request(ctx, legacyTool(`1`, "never"), session)) }()
	b.wait("open call", func(State) bool { return b.sent() })
	cancel()
	<-left
	if st := b.s.State(); st.Calls != 1 {
		t.Error("the call ended with its caller")
	}
	b.wait("end of the call by its timeout", func(st State) bool { return st.Calls == 0 })
	if got := structured[struct{ Cancelled []string }](t, b.post(legacyTool(`1`, "cancelled"), session)).Cancelled; len(got) != 1 {
		t.Errorf("the child saw %q", got)
	}
}

func TestChildForEachSession(t *testing.T) {
	b := start(t, "legacy", func(o *Options) { o.Share, o.MaxProcesses = ShareSession, 2 })
	if st := b.s.State(); st.PID != 0 || st.Processes != 0 {
		t.Errorf("before a session: %+v", st)
	}
	one, two := b.open(), b.open()
	r := b.request(t.Context(), initialize, "none")
	b.want(b.send(r), 503, `"id":"i"`, `-32603`, `"reason":"overload"`)

	b.want(b.post(legacyTool(`7`, "raw"), one), 200, `"id":7,`)
	b.want(b.post(legacy(`7`, "x/y", `{}`), one), 200, `no such method`) // the child's own words

	// The child asks on the stream of the call; the client's answer reaches it, another's does not.
	got := b.post(legacyTool(`1`, "ask"), one)
	if len(got.events) != 2 || got.events[0] != `{"jsonrpc":"2.0","id":1,"method":"roots/list"}` {
		t.Errorf("events %q", got.events)
	}
	reply := `{"jsonrpc":"2.0","id":1,"result":{"roots":[]}}`
	b.want(b.post(reply, two), 202)
	b.want(b.post(`{"jsonrpc":"2.0","id":2,"result":{}}`, one), 202)
	b.want(b.post(reply, one), 202)
	b.want(b.post(reply, one), 202) // a second time: dropped
	answers := structured[struct{ Answers []json.RawMessage }](t, b.post(legacyTool(`1`, "answers"), one)).Answers
	if len(answers) != 2 || string(answers[1]) != reply { // the first is our answer to its ping
		t.Errorf("answers %s", answers)
	}
	if answers := structured[struct{ Answers []json.RawMessage }](t, b.post(legacyTool(`1`, "answers"), two)).Answers; len(answers) != 0 {
		t.Errorf("the other child got answers %s", answers)
	}

	// Words about the session wait for the GET stream.
	b.want(b.post(legacyTool(`1`, "changed"), one), 200)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := b.listen(ctx, one)
	for _, what := range []string{"tools/list_changed", "resources/updated"} {
		if e := b.next(events); !strings.Contains(e, what) {
			t.Errorf("event %s, want %s", e, what)
		}
	}

	// A child that ends takes its session with it, and no other.
	b.want(b.post(legacyTool(`1`, "crash"), one), 200, `-32603`)
	if e := b.next(events); e != "" {
		t.Errorf("event %s", e)
	}
	b.want(b.post(legacyTool(`1`, "raw"), one), 404, `-32001`)
	b.want(b.post(legacyTool(`1`, "raw"), two), 200)
	b.wait("freed process", func(st State) bool { return st.Processes == 1 })
	three := b.open()
	del := b.request(t.Context(), "", three)
	del.Method = http.MethodDelete
	b.want(b.send(del), 200)
	b.wait("freed process", func(st State) bool { return st.Processes == 1 && st.Sessions == 1 })
}

func TestIdleSessionsEnd(t *testing.T) {
	b := start(t, "legacy", func(o *Options) { o.Share, o.SessionIdle = ShareSession, 200*time.Millisecond })
	kept, lost := b.open(), b.open()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events := b.listen(ctx, kept)
	b.wait("end of the idle session", func(st State) bool { return st.Sessions == 1 && st.Processes == 1 })
	b.want(b.post(legacyTool(`1`, "raw"), lost), 404)
	b.want(b.post(legacyTool(`1`, "changed"), kept), 200)
	if e := b.next(events); !strings.Contains(e, "list_changed") {
		t.Errorf("event %s", e)
	}
}

// Many callers with the same ids at one child: nobody gets another's answer.
func TestManyCallersOneChild(t *testing.T) {
	b := start(t, "legacy", nil)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			session := b.open()
			for n := range 20 {
				mark := fmt.Sprintf("m-%d-%d", i, n)
				got := b.post(legacy(`1`, "tools/call", `{"name":"raw","arguments":{"mark":"`+mark+`"}}`), session)
				if got.status != 200 || !strings.Contains(got.body, mark) || !strings.Contains(got.body, `"id":1,`) {
					t.Errorf("%s: %d %s", mark, got.status, got.body)
				}
			}
		})
	}
	wg.Wait()
}
