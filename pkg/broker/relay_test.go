package broker

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

// calling is a call in the broker's hands, as far as these tests look at it.
func calling(t *testing.T, body string, idle time.Duration) *call {
	t.Helper()
	m, err := jsonrpc.Read([]byte(body), jsonrpc.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	x := &gateway.Exchange{Snapshot: &gateway.Snapshot{Settings: &gateway.Settings{Servers: map[string]*gateway.Server{"s": {Name: "s", CallIdle: idle}}}}}
	x.Server = "s"
	return &call{p: &gateway.Parked{Exchange: x, Message: m}}
}

const aCall = `{"jsonrpc":"2.0","id":9007199254740993,"method":"tools/call","params":{"name":"echo"}}`

// TestPatience: a server may take its time as long as it says something, and not a moment longer.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := calling(t, aCall, time.Minute)
		ctx, p := c.patient(t.Context())
		defer p.stop()
		time.Sleep(59 * time.Second)
		r, w := io.Pipe()
		resp := &http.Response{Body: r}
		p.hear(resp) // the head of the answer came in time
		go func() {
			for range 10 {
				time.Sleep(59 * time.Second)
				_, _ = w.Write([]byte("x"))
			}
		}()
		if _, err := io.ReadFull(resp.Body, make([]byte, 10)); err != nil || ctx.Err() != nil {
			t.Fatalf("a server that speaks was given up: %v, %v", err, context.Cause(ctx))
		}
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if !errors.Is(context.Cause(ctx), errSilent) || ended(ctx) != "timeout" || cancelled(ctx) {
			t.Errorf("a silent server ends the call with %v", context.Cause(ctx))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := calling(t, aCall, time.Minute)
		c.st = &state{pending: map[string]pending{}}
		ctx, p := c.patient(t.Context())
		defer p.stop()
		id, _ := c.st.ask(pending{server: "s", id: []byte("1"), call: c.key()})
		time.Sleep(time.Hour)
		if ctx.Err() != nil {
			t.Fatal("a server that waits for the client was given up")
		}
		c.st.answered(id)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if !errors.Is(context.Cause(ctx), errSilent) {
			t.Errorf("a server that is silent after the client's answer ends the call with %v", context.Cause(ctx))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithCancel(t.Context())
		ctx, p := calling(t, aCall, 0).patient(parent)
		defer p.stop()
		if p.idle != defaultIdle {
			t.Errorf("without a configuration it waits %v", p.idle)
		}
		if ended(ctx) != "unavailable" {
			t.Errorf("a cut under way is %q", ended(ctx))
		}
		cancel() // the client's notifications/cancelled
		if !cancelled(ctx) {
			t.Errorf("a cancelled call ends with %v", context.Cause(ctx))
		}
	})
}

// TestMine: only the response to the call answers it.
func TestMine(t *testing.T) {
	c := calling(t, aCall, 0)
	for answer, want := range map[string]string{
		`{"jsonrpc":"2.0","id":9007199254740993,"result":{"n":1.0}}`:                          `{"jsonrpc":"2.0","id":9007199254740993,"result":{"n":1.0}}`,
		`{"jsonrpc":"2.0","id":9007199254740993,"error":{"code":-1,"message":"x"}}`:           `{"jsonrpc":"2.0","id":9007199254740993,"error":{"code":-1,"message":"x"}}`,
		`{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no","data":{"n":1.0}}}`: `{"jsonrpc":"2.0","id":9007199254740993,"error":{"code":-32000,"message":"no","data":{"n":1.0}}}`,
		`{"jsonrpc":"2.0","id":9007199254740992,"result":{}}`:                                 "",
		`{"jsonrpc":"2.0","id":"9007199254740993","result":{}}`:                               "",
		`{"jsonrpc":"2.0","id":9007199254740993,"method":"sampling/createMessage"}`:           "",
		`{"jsonrpc":"2.0","method":"notifications/progress"}`:                                 "",
	} {
		m, err := jsonrpc.Read([]byte(answer), jsonrpc.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.mine(m)
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("%s\ngives %s (%v)\nwant  %s", answer, got, err, want)
		}
	}
}

// TestQuestionsOfTwoServers: servers choose their ids without knowing of each other, so the client must see others.
func TestQuestionsOfTwoServers(t *testing.T) {
	st := &state{pending: map[string]pending{}, calls: map[string]running{}, changed: make(chan struct{})}
	one, ok1 := st.ask(pending{server: "one", id: []byte("1"), token: []byte(`"p"`)})
	two, ok2 := st.ask(pending{server: "two", id: []byte("1")})
	if !ok1 || !ok2 || string(one) == string(two) {
		t.Fatalf("asked under %s and %s", one, two)
	}
	if s, ok := st.asker([]byte(`"p"`)); !ok || s != "one" {
		t.Errorf("the token is of %q", s)
	}
	if id, ok := st.withdraw("two", []byte("1")); !ok || string(id) != string(two) {
		t.Errorf("withdrew %s", id)
	}
	if _, ok := st.answered(two); ok {
		t.Error("a question that was withdrawn is answered")
	}
	if p, ok := st.answered(one); !ok || p.server != "one" || string(p.id) != "1" {
		t.Errorf("answered %+v", p)
	}
	if _, ok := st.answered(one); ok {
		t.Error("a question is answered twice")
	}
	for range maxPending {
		st.ask(pending{server: "one", id: []byte("1")})
	}
	if _, ok := st.ask(pending{server: "one", id: []byte("1")}); ok {
		t.Error("questions are without bound")
	}
}

func TestCallsUnderWay(t *testing.T) {
	st := &state{pending: map[string]pending{}, calls: map[string]running{}}
	end, ok := st.begin([]byte("1"), running{server: "s"})
	if _, twice := st.begin([]byte("1"), running{}); !ok || twice {
		t.Error("one id is under way twice")
	}
	if _, ok := st.begin([]byte(`"1"`), running{}); !ok {
		t.Error(`1 and "1" are one id`)
	}
	st.ask(pending{server: "s", id: []byte("1"), call: "1"})
	st.ask(pending{server: "s", id: []byte("1"), call: "2"})
	end()
	if _, ok := st.call([]byte("1")); ok {
		t.Error("a call that has ended is under way")
	}
	if st.waits("s", "1") || !st.waits("s", "2") {
		t.Error("a question outlives its call, or another call's does not")
	}
	if s := strings.TrimSpace(string(withID(&jsonrpc.Message{Body: []byte(`{"id": "mcpgw-1" ,"jsonrpc":"2.0","result":{"n":1.0}}`)}, []byte("7")))); s != `{"id": 7 ,"jsonrpc":"2.0","result":{"n":1.0}}` {
		t.Errorf("got %s", s)
	}
}

// TestLetters: what waits for a server is sent in order, once, and has a bound.
func TestLetters(t *testing.T) {
	st := &state{letters: map[string][]letter{}}
	put := func(server, body string) (first, ok bool) { return st.put(server, letter{body: []byte(body)}) }
	if first, ok := put("s", "a"); !first || !ok {
		t.Errorf("the first message: %v, %v", first, ok)
	}
	for n := range maxLetters + 8 {
		if first, ok := put("s", strconv.Itoa(n)); first || ok != (n < maxLetters-1) {
			t.Errorf("message %d: %v, %v", n, first, ok)
		}
	}
	if first, ok := put("s", "a"); first || !ok {
		t.Errorf("a message that waits already: %v, %v", first, ok)
	}
	if first, ok := put("other", strings.Repeat("x", 2*maxLetterBytes)); !first || !ok {
		t.Errorf("one long message for another server: %v, %v", first, ok)
	}
	if _, ok := put("other", "x"); ok {
		t.Error("bytes are without bound")
	}
	want := "a"
	for n := range maxLetters {
		if l, ok := st.next("s"); !ok || string(l.body) != want {
			t.Errorf("next is %s (%v), want %s", l.body, ok, want)
		}
		want = strconv.Itoa(n)
	}
	if _, ok := st.next("s"); ok {
		t.Error("more messages than were put")
	}
	if first, _ := put("s", "b"); !first {
		t.Error("nobody sends what comes after a pause")
	}
}

// slowReader is a connection whose client reads piece by piece; it counts the writes that no deadline bounds.
type slowReader struct {
	http.ResponseWriter
	deadline  bool
	unbounded int
}

func (s *slowReader) SetWriteDeadline(d time.Time) error {
	s.deadline = time.Until(d) > 0
	return nil
}

func (s *slowReader) Write(b []byte) (int, error) {
	if !s.deadline {
		s.unbounded++
	}
	s.deadline = false
	return s.ResponseWriter.Write(b)
}

// TestEveryWriteHasADeadline: a client that reads nothing must not hold an answer for ever.
func TestEveryWriteHasADeadline(t *testing.T) {
	for _, size := range []int{0, 1, 256 << 10, 1<<20 + 1} {
		body := strings.Repeat("x", size)
		rec := httptest.NewRecorder()
		w := &slowReader{ResponseWriter: rec}
		writeJSON(w, http.StatusOK, []byte(body))
		if w.unbounded != 0 || rec.Body.String() != body || rec.Header().Get("content-length") != strconv.Itoa(size) {
			t.Errorf("%d bytes: %d writes without a deadline, %d bytes written", size, w.unbounded, rec.Body.Len())
		}
	}
}
