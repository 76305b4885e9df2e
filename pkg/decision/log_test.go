package decision

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// entry is a ruling on a call of pay with arguments; its id is n.
func entry(n int, arguments string, r policy.Ruling) Entry {
	r.Revision = "r1"
	if r.Effect == "" {
		r.Effect = policy.Allow
	}
	return Entry{
		Question: &policy.Question{
			Subject: &identity.Principal{Type: "user", ID: "ann", Roles: []string{"reader"}, Claims: []byte(`{"big":9007199254740993}`)},
			Action:  "tools/call", Item: &catalog.Item{Server: "shop", Name: "pay"}, Arguments: []byte(arguments),
			Context: policy.Context{RequestID: fmt.Sprintf("d%d", n), Time: time.Unix(1700000000, 0)},
		},
		Ruling: r,
	}
}

// rules compiles a module of package system.log; an empty one is none.
func rules(t *testing.T, body string) *Rules {
	t.Helper()
	o := RulesOptions{Path: "mcpgw/main/ruling", ID: "here", Labels: map[string]string{"site": "test"}}
	if body != "" {
		o.Modules = map[string]string{"log.rego": "package system.log\n" + body}
	}
	r, err := NewRules(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLine(t *testing.T) {
	value := []byte(`5`)
	e := entry(1, `{"amount":9007199254740993,"rate":1.0}`, policy.Ruling{
		Effect: policy.Ask, Reasons: []policy.Reason{{Rule: "ask", Message: "much"}}, Cached: true, Duration: 1500,
		Obligations: &policy.Obligations{Rewrite: []policy.Change{{Path: "/a", Value: value}}, Redact: []policy.Change{{Pattern: "x", With: ""}}, Label: []string{"paid"}},
	})
	for name, r := range map[string]*Rules{"plain": rules(t, ""), "through OPA's plugin": rules(t, "drop := false")} {
		t.Run(name, func(t *testing.T) {
			line, err := r.line(&e)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{
				`"decision_id":"d1"`, `"path":"mcpgw/main/ruling"`, `"bundles":{"policy":{"revision":"r1"}}`, `"site":"test"`, `"id":"here"`,
				`"amount":9007199254740993`, `"rate":1.0`, `"big":9007199254740993`, `"timestamp":"2023-11-14T22:13:20Z"`,
				`"timer_server_handler_ns":1500`, `"counter_server_query_cache_hit":1`, `"effect":"ask"`,
			} {
				if !strings.Contains(string(line), want) {
					t.Errorf("no %s in %s", want, line)
				}
			}
			var got struct {
				Input  json.RawMessage
				Result result
			}
			if err := json.Unmarshal(line, &got); err != nil {
				t.Fatal(err)
			}
			if want := resultOf(&e.Ruling); !got.Result.same(&want) || got.Result.because() != want.because() {
				t.Errorf("the ruling came back as %+v", got.Result)
			}
			if q, err := policy.ParseQuestion(got.Input); err != nil || q.Item.Name != "pay" {
				t.Errorf("the question came back as %+v, %v", q, err)
			}
		})
	}
	for err, want := range map[error]string{policy.ErrTimeout: `"error":"timeout"`, errors.New("secret"): `"error":"policy"`} {
		e := entry(1, `{}`, policy.Ruling{Effect: policy.Deny, Err: err})
		if line, err := rules(t, "").line(&e); err != nil || !strings.Contains(string(line), want) || strings.Contains(string(line), "secret") {
			t.Errorf("want %s: %s, %v", want, line, err)
		}
	}
}

// TestMask: no secret is ever written, whatever becomes of mask and drop.
func TestMask(t *testing.T) {
	const secret = "hunter2-the-secret"
	arguments := `{"password":"` + secret + `","n":"five","my key":"` + secret + `"}`
	hide := `mask contains "/input/arguments/password"
mask contains "/input/arguments" if input.input.arguments["my key"]
`
	for _, tc := range []struct {
		name, body, arguments string
		wants                 string // in the line; "" for no line
		lost                  bool
	}{
		{"removed", hide, arguments, `"erased":["/input/arguments"]`, false},
		{"one member removed", `mask contains "/input/arguments/password"`, `{"password":"` + secret + `","n":5}`, `"erased":["/input/arguments/password"]`, false},
		{"replaced", `mask contains {"op": "upsert", "path": "/input/arguments/password", "value": "**"}`, `{"password":"` + secret + `"}`, `"masked":["/input/arguments/password"]`, false},
		{"dropped", "drop if input.input.resource.name == \"pay\"", arguments, "", false},
		{"a built-in fails", `mask contains "/input/arguments/password" if to_number(input.input.arguments.n) > 1`, arguments, "", true},
		{"a built-in fails in drop", hide + "drop if to_number(input.input.arguments.n) > 1", arguments, "", true},
		{"a conflict", "mask := [\"/input/arguments\"] if true\nmask := [] if input.path", arguments, "", true},
		{"no path", `mask contains "input/arguments"`, arguments, "", true},
		{"no text", `mask contains 5`, arguments, "", true},
		{"no set", `mask := "/input/arguments"`, arguments, "", true},
		{"another operation", `mask contains {"op": "hide", "path": "/input/arguments"}`, arguments, "", true},
		{"a name that OPA does not reach", `mask contains "/input/arguments/my key"`, `{"my key":"` + secret + `"}`, "", true},
		{"endless", "mask contains \"/input/arguments\" if count([1 | some x in numbers.range(1, 100000000); x > 0]) > 5", arguments, "", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out, said bytes.Buffer
			l, err := NewLog(LogOptions{Console: &out, Log: slog.New(slog.NewTextHandler(&said, nil))})
			if err != nil {
				t.Fatal(err)
			}
			l.Put(entry(1, tc.arguments, policy.Ruling{}), rules(t, tc.body))
			ctx, stop := context.WithCancel(t.Context())
			stop()
			if err := l.Run(ctx); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(out.String()+said.String(), "hunter2") {
				t.Errorf("the secret is out: %s %s", &out, &said)
			}
			if tc.wants == "" != (out.Len() == 0) || !strings.Contains(out.String(), tc.wants) {
				t.Errorf("wrote %q, want %q", &out, tc.wants)
			}
			if want := map[bool]uint64{true: 1}[tc.lost]; l.Lost() != want {
				t.Errorf("lost %d, want %d", l.Lost(), want)
			}
			if tc.lost != strings.Contains(said.String(), "entries are lost") {
				t.Errorf("said %q", &said)
			}
		})
	}
}

// stuck is an output that takes nothing until it is let.
type stuck struct{ let chan struct{} }

func (s stuck) Write(b []byte) (int, error) {
	<-s.let
	return len(b), nil
}

func TestFullQueueDropsAndCounts(t *testing.T) {
	out := stuck{make(chan struct{})}
	var said bytes.Buffer
	l, err := NewLog(LogOptions{Console: out, Log: slog.New(slog.NewTextHandler(&said, nil)), Queue: 4, Flush: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()
	r := rules(t, "")
	begin := time.Now()
	for n := range 100 {
		l.Put(entry(n, `{}`, policy.Ruling{}), r)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("Put waited: %v", took)
	}
	if n := l.Lost(); n < 95 || n > 96 { // 4 wait, 1 may be on its way
		t.Errorf("lost %d of 100 with a queue of 4", n)
	}
	l.Put(entry(0, strings.Repeat(" ", maxQueued), policy.Ruling{}), r) // the bound in bytes
	if n := l.Lost(); n < 96 {
		t.Errorf("lost %d", n)
	}
	stop()
	select {
	case err := <-ended: // though the output hangs
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Run does not end")
	}
	if n := strings.Count(said.String(), "entries are lost"); n != 1 {
		t.Errorf("said it %d times:\n%s", n, &said)
	}
	close(out.let)
}

func TestFileRotates(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "decisions.log")
	if err := os.WriteFile(path, []byte(`{"decision_id":"half`), 0o644); err != nil { // whoever wrote it was killed
		t.Fatal(err)
	}
	l, err := NewLog(LogOptions{File: path, FileBytes: 4096, Files: 3, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	const count = 30
	for n := range count {
		l.Put(entry(n, `{}`, policy.Ruling{}), rules(t, ""))
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := l.Run(ctx); err != nil || l.Lost() != 0 {
		t.Fatal(err, l.Lost())
	}
	seen := map[string]bool{}
	for _, name := range []string{"", ".1", ".2", ".3"} {
		info, err := os.Stat(path + name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 || info.Size() > 4096 {
			t.Errorf("%s: mode %o, %d bytes", info.Name(), info.Mode(), info.Size())
		}
		text, err := os.ReadFile(path + name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			var e struct {
				ID string `json:"decision_id"`
			}
			if json.Unmarshal([]byte(line), &e) == nil {
				seen[e.ID] = true
			}
		}
	}
	if !seen[fmt.Sprintf("d%d", count-1)] || len(seen) < 8 {
		t.Errorf("found %v", seen)
	}
	if _, err := os.Stat(path + ".4"); !os.IsNotExist(err) {
		t.Error("a fourth old file is kept")
	}
	if _, err := NewLog(LogOptions{File: filepath.Join(dir, "none", "x"), Log: quiet}); err == nil {
		t.Error("a directory that is not there was taken")
	}
	if _, err := NewLog(LogOptions{File: dir, Log: quiet}); err == nil {
		t.Error("a directory was taken")
	}
}

func TestFileComesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := openFile(path, 1<<20, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	if err := f.write([]byte("1\n")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".gone"); err != nil { // another program's rotation
		t.Fatal(err)
	}
	f.looked = time.Time{}
	if err := f.write([]byte("2\n")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); string(b) != "2\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// sink is a server of OPA's /logs interface that fails on demand.
type sink struct {
	*httptest.Server
	status atomic.Int32
	tries  atomic.Int32
	mu     sync.Mutex
	ids    []string
	faults []string
}

func newSink(t *testing.T) *sink {
	s := &sink{}
	s.status.Store(http.StatusOK)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.tries.Add(1)
		if status := int(s.status.Load()); status != http.StatusOK {
			w.WriteHeader(status)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if r.Method != http.MethodPost || r.URL.Path != "/base/logs" || r.Header.Get("authorization") != "Bearer t0ken" || r.Header.Get("content-encoding") != "gzip" {
			s.faults = append(s.faults, r.Method+" "+r.URL.Path)
		}
		z, err := gzip.NewReader(r.Body)
		var b []byte
		if err == nil {
			b, err = io.ReadAll(z)
		}
		var events []struct {
			ID string `json:"decision_id"`
		}
		if err == nil {
			err = json.Unmarshal(b, &events)
		}
		if err != nil {
			s.faults = append(s.faults, err.Error())
		}
		for _, e := range events {
			s.ids = append(s.ids, e.ID)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *sink) got() (ids, faults []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.ids...), s.faults
}

func TestUploadSurvivesAServerThatFails(t *testing.T) {
	s := newSink(t)
	s.status.Store(http.StatusServiceUnavailable)
	l, err := NewLog(LogOptions{URL: s.URL + "/base/", Token: func() (identity.Secret, error) { return identity.NewSecret("t0ken"), nil }, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	const count = 300
	for n := range count {
		l.Put(entry(n, `{"text":"`+strings.Repeat("x", 10000)+`"}`, policy.Ruling{}), rules(t, ""))
	}
	for s.tries.Load() < 3 {
		time.Sleep(10 * time.Millisecond)
	}
	s.status.Store(http.StatusOK)
	stop() // what waits is sent before the end
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	ids, faults := s.got()
	if len(faults) > 0 || len(ids) != count || l.Lost() != 0 {
		t.Fatalf("the server has %d of %d entries, lost %d, faults %v", len(ids), count, l.Lost(), faults)
	}
	for n, id := range ids {
		if id != fmt.Sprintf("d%d", n) {
			t.Fatalf("entry %d is %s", n, id)
		}
	}
}

func TestUploadCountsWhatIsLost(t *testing.T) {
	for name, status := range map[string]int{"refused for good": http.StatusRequestEntityTooLarge, "down until the end": http.StatusBadGateway} {
		t.Run(name, func(t *testing.T) {
			s := newSink(t)
			s.status.Store(int32(status))
			l, err := NewLog(LogOptions{URL: s.URL, Log: quiet, Flush: 300 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			for n := range 10 {
				l.Put(entry(n, `{}`, policy.Ruling{}), rules(t, ""))
			}
			ctx, stop := context.WithCancel(t.Context())
			stop()
			begin := time.Now()
			if err := l.Run(ctx); err != nil || l.Lost() != 10 {
				t.Errorf("lost %d of 10, %v", l.Lost(), err)
			}
			if took := time.Since(begin); took > 3*time.Second {
				t.Errorf("the end took %v", took)
			}
		})
	}
}

func TestUploadIsBounded(t *testing.T) {
	u := newUploader(&LogOptions{URL: "http://127.0.0.1:1"}, &losses{n: new(atomic.Uint64), log: quiet})
	line := bytes.Repeat([]byte{'x'}, 1<<20)
	for range maxPending >> 20 {
		if err := u.put(line); err != nil {
			t.Fatal(err)
		}
	}
	if err := u.put(line); err == nil {
		t.Error("took more than the bound")
	}
	if n := len(u.take()); n != 1 {
		t.Errorf("a batch of %d entries of 1 MiB", n)
	}
}

// BenchmarkLine is what the log's worker does for one entry.
func BenchmarkLine(b *testing.B) {
	for name, modules := range map[string]map[string]string{"plain": nil, "masked": {"log.rego": "package system.log\nmask contains \"/input/arguments/password\""}} {
		b.Run(name, func(b *testing.B) {
			r, err := NewRules(b.Context(), RulesOptions{Modules: modules, Path: "mcpgw/main/ruling", ID: "here"})
			if err != nil {
				b.Fatal(err)
			}
			e := entry(1, `{"password":"x","repo_path":"/r/1","max_count":5}`, policy.Ruling{})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.line(&e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
