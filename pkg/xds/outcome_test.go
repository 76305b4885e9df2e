package xds

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// said is what a server says, in the pieces in which it says it.
type said struct {
	sse, held bool // held: with a content-length, so that the guard holds it
	pieces    []string
}

func (a said) serve(w http.ResponseWriter, pause time.Duration) {
	w.Header().Set("content-type", "application/json")
	if a.sse {
		w.Header().Set("content-type", "text/event-stream")
	}
	if a.held {
		w.Header().Set("content-length", strconv.Itoa(len(strings.Join(a.pieces, ""))))
	}
	rc := http.NewResponseController(w)
	_ = rc.Flush()
	for _, p := range a.pieces {
		if _, err := w.Write([]byte(p)); err != nil || rc.Flush() != nil {
			return
		}
		time.Sleep(pause) // else Envoy reads several at once
	}
}

// speaker is an Envoy with one worker in front of a server that gives the answers by number.
func speaker(t testing.TB, answers []said, pause time.Duration) (*proxy, *house, func(n int) string) {
	t.Helper()
	w := plain(short(t), upstream(t, "says", func(w http.ResponseWriter, r *http.Request) {
		var n int
		_, _ = fmt.Sscanf(r.UserAgent(), "case-%d", &n)
		answers[n].serve(w, pause)
	}))
	config, err := Static(w)
	if err != nil {
		t.Fatal(err)
	}
	h := newHouse(t, w)
	p := startEnvoy(t, w, config).live()
	url := p.at("main") + "/direct/says"
	c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}, Timeout: 60 * time.Second}
	t.Cleanup(c.CloseIdleConnections)
	post1(t, c, url, "user-agent", "case-0") // the access log's stream connects
	eventually(t, "the first record", func() bool { return h.logs.entries.Load() > 0 })
	h.logs.byAgent.Clear()
	return p, h, func(n int) string {
		_, body, _, err := try(c, url, "user-agent", fmt.Sprint("case-", n))
		if err != nil {
			t.Errorf("case %d: %v", n, err)
		}
		return body
	}
}

// writer makes random JSON-RPC answers that are hard to read by halves.
type writer struct {
	*rand.Rand
	sse bool
	b   strings.Builder
}

func (w *writer) one(of ...string) string { return of[w.IntN(len(of))] }

// space is white space between two tokens; in an event stream a line may end there.
func (w *writer) space() string {
	if w.IntN(4) > 0 {
		return ""
	}
	end := w.one("", "\n", "\r\n")
	if end != "" && w.sse {
		end += w.one("", "event: message\n", ": a comment \"isError\":true\n", "id:7\r\n") + "data:"
	}
	return strings.Repeat(w.one(" ", "\t"), w.IntN(40)) + end + w.one("", " ", "  ")
}

func (w *writer) put(s string) { w.b.WriteString(s + w.space()) }

func (w *writer) str() string {
	return `"` + w.one("", "result", "error", "isError", "code", "x", "{", "}}", "]", ":", ",", "data:", "é\U0001F600", `\n`, `\u0022isError\u0022:true`, `\"isError\":true,\"code\":1`,
		strings.Repeat(`\\`, w.IntN(100)), strings.Repeat(`\\`, w.IntN(9))+`\"`, strings.Repeat(`\"`, w.IntN(50)), strings.Repeat("y", w.IntN(300)), strings.Repeat(`result`, w.IntN(40))) + `"`
}

func (w *writer) literal() string {
	return w.one("true", "false", "null", "0", "-32602", "1.5e+10", "-0.25", "12345678901234567890", "11111111111111111111111111111111")
}

func (w *writer) value(depth int) {
	switch k := w.IntN(8); {
	case k == 0 && depth > 0:
		w.object(depth-1, nil)
	case k == 1 && depth > 0:
		w.put("[")
		for i := range w.IntN(4) {
			if i > 0 {
				w.put(",")
			}
			w.value(depth - 1)
		}
		w.put("]")
	case k < 5:
		w.put(w.literal())
	default:
		w.put(w.str())
	}
}

// object writes the members that must be, among others.
func (w *writer) object(depth int, must [][2]string) {
	w.put("{")
	n := 0
	comma := func() {
		if n++; n > 1 {
			w.put(",")
		}
	}
	others := func() {
		for range w.IntN(3) {
			comma()
			k := w.str()
			if k == `"result"` || k == `"error"` { // whether there is one is for must to say
				k = `"other"`
			}
			w.put(k)
			w.put(":")
			w.value(depth)
		}
	}
	others()
	for _, m := range must {
		comma()
		w.put(m[0])
		w.put(":")
		switch m[1] {
		case "result":
			w.object(depth, w.some([2]string{`"isError"`, w.one("true", "true", "false", "null", `"true"`, "{}", "[]", "any")}))
		case "error":
			w.object(depth, w.some([2]string{`"code"`, w.one("-32602", "-32602", "1", "any")}))
		case "any":
			w.value(depth)
		default:
			w.put(m[1])
		}
		others()
	}
	w.put("}")
}

func (w *writer) some(m [2]string) [][2]string { return [][2]string{m}[:min(1, w.IntN(5))] }

// message is one JSON-RPC message.
func (w *writer) message(sure bool) string {
	w.b.Reset()
	must := [][2]string{{`"jsonrpc"`, `"2.0"`}, {`"id"`, "any"}}
	switch k := w.IntN(6); {
	case k == 0 && !sure:
		must = append(must, [2]string{`"method"`, `"notifications/message"`}, [2]string{`"params"`, "any"})
	case k < 3:
		must = append(must, [2]string{`"error"`, "error"})
	default:
		must = append(must, [2]string{`"result"`, "result"})
	}
	if k := w.IntN(3); k > 0 {
		must[0], must[k] = must[k], must[0]
	}
	w.object(3, must)
	return w.b.String()
}

// cut divides an answer into pieces.
func (w *writer) cut(s string) (pieces []string) {
	most := []int{1, 3, 20, 200, len(s) + 1}[w.IntN(5)]
	most = max(most, len(s)/60)
	for len(s) > 0 {
		n := min(len(s), 1+w.IntN(most))
		pieces, s = append(pieces, s[:n]), s[n:]
	}
	return pieces
}

// verdict is how a reader that has the whole answer understands it.
type verdict struct {
	Outcome, Type string
	Messages      int
}

// read is that reader: it knows nothing of pieces or lines.
func read(t testing.TB, messages []string, cut bool) (v verdict) {
	var response bool
	var code, isError string
	for i, m := range messages {
		if cut && i == len(messages)-1 {
			return verdict{"truncated", "", i}
		}
		response, code, isError = false, "", ""
		members(t, json.RawMessage(m), func(name string, value json.RawMessage) {
			switch name {
			case "result":
				response = true
				members(t, value, func(name string, value json.RawMessage) {
					if name == "isError" && bare(value) {
						isError = string(value)
					}
				})
			case "error":
				members(t, value, func(name string, value json.RawMessage) {
					if name == "code" && bare(value) {
						code, response = string(value), true
					}
				})
			}
		})
	}
	v.Messages = len(messages)
	switch {
	case code != "":
		v.Outcome, v.Type = "rpc_error", code
	case isError == "true":
		v.Outcome, v.Type = "tool_error", "tool_error"
	case response:
		v.Outcome = "ok"
	default:
		v.Outcome = "no_response"
	}
	return v
}

func bare(v json.RawMessage) bool { return !strings.ContainsAny(string(v[:1]), `"{[`) }

func members(t testing.TB, object json.RawMessage, f func(string, json.RawMessage)) {
	d := json.NewDecoder(strings.NewReader(string(object)))
	if first, err := d.Token(); err != nil || first != json.Delim('{') {
		return
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			t.Fatalf("%v in %s", err, object)
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%v in %s", err, object)
		}
		f(name.(string), v)
	}
}

// data takes the lines of an event apart again, as the standard says it (HTML, 9.2.6).
func data(event string) string {
	var lines []string
	for l := range strings.Lines(event) {
		if d, ok := strings.CutPrefix(strings.TrimRight(l, "\r\n"), "data:"); ok {
			lines = append(lines, strings.TrimPrefix(d, " "))
		}
	}
	return strings.Join(lines, "\n")
}

// However an answer is cut into pieces, the response script in the real Envoy says of it what a reader of the whole says, and passes
// it byte for byte.
func TestOutcomeProperty(t *testing.T) {
	const cases = 300
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = s
	}
	w := &writer{Rand: rand.New(rand.NewPCG(seed, 0))}
	var answers []said
	var want []verdict
	var whole []string
	for range cases {
		var a said
		var messages []string
		text, cut := "", false
		switch w.IntN(4) {
		case 0:
			a.held, w.sse = true, false
			messages = []string{w.message(true)}
			text = messages[0]
		case 1:
			w.sse = false
			messages = []string{w.message(false)}
			text = messages[0]
			cut = w.IntN(4) == 0
		default:
			a.sse, w.sse = true, true
			for i := range 1 + w.IntN(3) {
				if i > 0 {
					text += w.one("", ":\n\n", ": alive\r\n\r\n", "data:\n\n", "event: ping\ndata: \n\n", "id: 1\ndata:\nretry: 5\n\n")
				}
				event := w.one("", "event: message\n", "id: 3\r\n") + "data:" + w.one("", " ") + w.message(false) + "\n"
				messages = append(messages, data(event))
				text += event + w.one("\n", "\r\n")
			}
			cut = w.IntN(6) == 0
		}
		v := read(t, messages, cut)
		if cut { // somewhere in the last message
			last := text[:strings.LastIndexByte(text, '}')]
			begin := strings.LastIndex(text, "data:{")
			begin = max(begin, strings.LastIndex(text, "data: {")) + 1
			if !a.sse {
				begin = 0
			}
			if open := begin + strings.IndexByte(text[begin:], '{') + 1; open < len(last) {
				last = text[:open+w.IntN(len(last)-open)]
			}
			text = last
		}
		if a.held && (v.Outcome == "no_response" || v.Outcome == "truncated") {
			v = verdict{Outcome: "not_mcp", Type: "not_mcp"}
		}
		a.pieces = w.cut(text)
		answers, want, whole = append(answers, a), append(want, v), append(whole, text)
	}
	_, h, call := speaker(t, answers, 100*time.Microsecond)
	next := make(chan int)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for n := range next {
				if body := call(n); body != whole[n] && want[n].Outcome != "not_mcp" {
					t.Errorf("case %d: %q was said, %q arrived", n, whole[n], body)
				}
			}
		})
	}
	for n := range cases {
		next <- n
	}
	close(next)
	callers.Wait()
	wrong, seen := 0, map[string]int{}
	for n := range cases {
		var m map[string]any
		eventually(t, "the record of a call", func() bool {
			v, ok := h.logs.byAgent.Load(fmt.Sprint("case-", n))
			if ok {
				m = v.(map[string]any)
			}
			return ok
		})
		var got verdict
		got.Outcome, _ = m["outcome"].(string)
		got.Type, _ = m["error_type"].(string)
		count, _ := m["messages"].(float64)
		got.Messages = int(count)
		seen[got.Outcome]++
		if bytes, _ := m["bytes"].(float64); got != want[n] || got.Outcome != "not_mcp" && int(bytes) != len(whole[n]) {
			if wrong++; wrong < 4 {
				t.Errorf("SEED=%d, case %d: got %+v %v, want %+v\n%+q", seed, n, got, m, want[n], answers[n].pieces)
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d outcomes are wrong", wrong, cases)
	}
	for _, o := range []string{"ok", "tool_error", "rpc_error", "no_response", "truncated"} {
		if seen[o] < cases/100 {
			t.Errorf("too few answers with outcome %s: %v", o, seen)
		}
	}
}

// Beyond the limit an answer is only scanned; a value that stands in two pieces is still read whole.
func TestOutcomeScanned(t *testing.T) {
	var answers []said
	var want []string
	for end, outcome := range map[string]string{
		`"isError":false}}`: "ok", `"isError":true}}`: "tool_error", `"isError" :  false,"x":"isError"}}`: "tool_error", `"x":1}}`: "ok",
	} {
		pieces := []string{`{"jsonrpc":"2.0","id":1,"result":{"content":"`, strings.Repeat("x", 70_000) + `",`}
		for _, c := range end {
			pieces = append(pieces, string(c))
		}
		answers, want = append(answers, said{pieces: pieces}), append(want, outcome)
	}
	_, h, call := speaker(t, answers, time.Millisecond)
	for n := range answers {
		call(n)
		eventually(t, "the record of a call", func() bool { _, ok := h.logs.byAgent.Load(fmt.Sprint("case-", n)); return ok })
		v, _ := h.logs.byAgent.Load(fmt.Sprint("case-", n))
		if m := v.(map[string]any); m["outcome"] != want[n] || m["exact"] != false {
			t.Errorf("%s: got %v, want %s", strings.Join(answers[n].pieces[2:], ""), m, want[n])
		}
	}
}

// The script's cost grows with an answer's length alone: no choice of bytes and pieces makes one server's answer hold up those of others.
func TestOutcomeCost(t *testing.T) {
	const size = 1_000_000
	say := func(begin, unit string, piece int) said {
		a := said{sse: true, pieces: []string{`data: {"jsonrpc":"2.0","id":1,` + begin}}
		for range size / piece {
			a.pieces = append(a.pieces, strings.Repeat(unit, piece/len(unit)))
		}
		return a
	}
	names := []string{"plain", "backslashes", "a number", "white space", "a key", "an object", "lines in a string", "quotes"}
	answers := []said{
		say(`"result":{"x":"`, "x", 128), say(`"result":{"x":"`, `\`, 128), say(`"error":{"code":`, "1", 128), say(`"error":{"code":`, " ", 128),
		say(`"`, "k", 128), say(`"result":{"isError":{"x":"`, "x", 128), say(`"result":{"x":"`, "\ndata: x", 500_000), say(`"result":{"`, `\"`, 128),
	}
	p, _, call := speaker(t, append([]said{{sse: true}}, answers...), 20*time.Microsecond)
	var base time.Duration
	for n, name := range names {
		before, begin := p.cpu(), time.Now()
		call(n + 1)
		spent := p.cpu() - before
		t.Logf("%-18s %v of Envoy's CPU, %v in all", name, spent, time.Since(begin).Round(time.Millisecond))
		if n == 0 {
			base = spent
		} else if spent > 2*base+300*time.Millisecond {
			t.Errorf("%s: %v, where a plain answer of the same length costs %v", name, spent, base)
		}
	}
}

// cpu is the processor time that Envoy has used, to 10 ms.
func (p *proxy) cpu() time.Duration {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "stat"))
	if err != nil {
		p.t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}
