package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/test/harness"
)

// answer is how one call of a load ended.
type answer struct {
	text    string // the argument, which no other call has
	kind    string // ok, denied, unknown, refused, other
	status  int
	detail  string // of other
	began   time.Time
	ended   time.Time
	refused int // the status where kind is refused
}

// load calls echo again and again over connections that it keeps. Every fourth call is one that policy refuses.
type load struct {
	tool   string
	url    string
	client *http.Client
	dials  atomic.Int64
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex
	answers []answer
	changed chan struct{}
}

const workers = 4

// pace keeps a load from taking the machine from those it tests.
const pace = 8 * time.Millisecond

// startLoad begins a load on a tool that returns its text. It ends with stop, or with the test.
func startLoad(t testing.TB, url, tool string) *load {
	t.Helper()
	l := &load{tool: tool, url: url, changed: make(chan struct{})}
	var d net.Dialer
	l.client = &http.Client{Transport: &http.Transport{
		DisableCompression: true, MaxIdleConnsPerHost: workers,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			l.dials.Add(1)
			return d.DialContext(ctx, network, address)
		},
	}}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	for w := range workers {
		l.done.Go(func() {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for n := 0; ; n++ {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				text := fmt.Sprintf("allowed-%d-%d", w, n)
				if n%4 == 3 {
					text = fmt.Sprintf("forbidden-%d-%d", w, n)
				}
				l.add(l.call(text))
			}
		})
	}
	t.Cleanup(l.stop)
	return l
}

// stop ends the load once the calls in flight have been answered.
func (l *load) stop() {
	l.cancel()
	l.done.Wait()
	l.client.CloseIdleConnections()
}

func (l *load) add(a answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers = append(l.answers, a)
	close(l.changed)
	l.changed = make(chan struct{})
}

// all is what came back so far.
func (l *load) all() []answer {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.answers)
}

// await waits until n more calls, counted from now, ended in a way.
func (l *load) await(t testing.TB, n int, kind string) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	have := -1
	for {
		l.mu.Lock()
		changed, now := l.changed, 0
		for _, a := range l.answers {
			if a.kind == kind {
				now++
			}
		}
		l.mu.Unlock()
		if have < 0 {
			have = now
		}
		if now-have >= n {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			t.Fatalf("%d of %d calls ended as %s within %v; all: %v; the last: %+v", now-have, n, kind, patience, l.kinds(), last(l.all()))
		}
	}
}

func last(all []answer) any {
	if len(all) == 0 {
		return "none"
	}
	return all[len(all)-1]
}

// kinds counts the answers by kind.
func (l *load) kinds() map[string]int {
	n := map[string]int{}
	for _, a := range l.all() {
		n[a.kind]++
	}
	return n
}

// only fails the test where a call ended otherwise than in the given ways, and shows some of them.
func (l *load) only(t testing.TB, kinds ...string) {
	t.Helper()
	shown := 0
	for _, a := range l.all() {
		if !slices.Contains(kinds, a.kind) {
			if shown++; shown <= 5 {
				t.Errorf("a call ended as %s (%d) after %v: %s", a.kind, a.status, a.ended.Sub(a.began), a.detail)
			}
		}
	}
	if shown > 0 {
		t.Errorf("all: %v", l.kinds())
	}
}

// gap is the time from the first refusal to the last.
func (l *load) gap() time.Duration {
	var from, to time.Time
	for _, a := range l.all() {
		if a.kind == "refused" {
			if from.IsZero() || a.began.Before(from) {
				from = a.began
			}
			if a.ended.After(to) {
				to = a.ended
			}
		}
	}
	return to.Sub(from)
}

// slowest is the longest that a call took.
func (l *load) slowest() time.Duration {
	var longest time.Duration
	for _, a := range l.all() {
		longest = max(longest, a.ended.Sub(a.began))
	}
	return longest
}

// agree holds what clients were told against what servers received.
func (l *load) agree(t testing.TB, backends ...*harness.Backend) {
	t.Helper()
	var all []harness.Recorded
	for _, b := range backends {
		all = append(all, b.Requests("tools/call")...)
	}
	l.hold(t, all)
}

// hold is agree for any record: what was answered ran once, what was refused never, and nothing that policy forbids has arrived.
func (l *load) hold(t testing.TB, received []harness.Recorded) {
	t.Helper()
	arrived := map[string]int{}
	for _, r := range received {
		var m struct {
			Params struct {
				Arguments struct {
					Text string `json:"text"`
				} `json:"arguments"`
			} `json:"params"`
		}
		if err := json.Unmarshal(r.Body, &m); err != nil {
			t.Errorf("a server received %.200q: %v", r.Body, err)
		}
		arrived[m.Params.Arguments.Text]++
	}
	for text, n := range arrived {
		if strings.HasPrefix(text, "forbidden") {
			t.Errorf("%s reached a server: nobody has judged it", text)
		}
		if n > 1 {
			t.Errorf("%s reached servers %d times", text, n)
		}
	}
	for _, a := range l.all() {
		switch n := arrived[a.text]; {
		case a.kind == "ok" && n != 1:
			t.Errorf("%s was answered and reached a server %d times", a.text, n)
		case a.kind == "refused" && n != 0:
			t.Errorf("%s was refused with %d and reached a server", a.text, a.status)
		}
	}
}

func (l *load) call(text string) (a answer) {
	a = answer{text: text, kind: "other", began: time.Now()}
	defer func() { a.ended = time.Now() }()
	c := harness.NewModern(l.url, key)
	params := map[string]any{"name": l.tool, "arguments": map[string]any{"text": text}}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url, bytes.NewReader(c.Body(`"`+text+`"`, "tools/call", params)))
	if err != nil {
		a.detail = err.Error()
		return a
	}
	r.GetBody = nil // no silent second try of Go's own
	for _, line := range append(c.Lines("tools/call", params), "Content-Type: application/json", "Accept: application/json, text/event-stream", "Authorization: Bearer "+key) {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
	}
	response, err := l.client.Do(r)
	if err != nil {
		a.detail = err.Error()
		return a
	}
	defer response.Body.Close()
	a.status = response.StatusCode
	body, err := io.ReadAll(response.Body)
	if err != nil {
		a.detail = fmt.Sprintf("cut after %q: %v", body, err)
		return a
	}
	a.detail = fmt.Sprintf("%d %.600s", response.StatusCode, body)
	if strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream") {
		for line := range strings.Lines(string(body)) {
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				body = []byte(data)
			}
		}
	}
	var m struct {
		ID     json.RawMessage `json:"id"`
		Result *struct {
			Content []struct {
				Text string `json:"text"`
			} `json:"content"`
		} `json:"result"`
		Error *struct {
			Code int `json:"code"`
		} `json:"error"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return a
	}
	own := string(m.ID) == `"`+text+`"`
	switch {
	case a.status == 200 && own && m.Result != nil && len(m.Result.Content) == 1 && m.Result.Content[0].Text == text:
		a.kind = "ok"
	case a.status == 200 && own && m.Error != nil && m.Error.Code == 403 && strings.HasPrefix(text, "forbidden"):
		a.kind = "denied"
	case a.status == 200 && own && m.Error != nil && m.Error.Code == -32602:
		a.kind = "unknown"
	case (a.status == 503 || a.status == 504) && string(m.ID) == "null" && m.Error != nil && m.Error.Code == -32603:
		a.kind, a.refused = "refused", a.status
	}
	return a
}

// page is one answer, whole.
type page struct {
	status int
	header http.Header
	body   []byte
}

func get(c *http.Client, url string) (page, error) {
	r, err := c.Get(url)
	if err != nil {
		return page{}, err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	return page{r.StatusCode, r.Header, body}, err
}

func dialUnix(path string) func(context.Context, string, string) (net.Conn, error) {
	var d net.Dialer
	return func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) }
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
