package decision

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// fake rules as it is told.
type fake struct {
	policy.Engine
	revision string
	decide   func(q *policy.Question) policy.Ruling
}

func (f *fake) Revision() string { return f.revision }

func (f *fake) Decide(_ context.Context, q *policy.Question) policy.Ruling {
	r := f.decide(q)
	r.Revision = f.revision
	return r
}

// running compares until the test ends; wait returns once n questions have been compared.
func running(t testing.TB, o ShadowOptions) (s *Shadow, wait func(n uint64)) {
	t.Helper()
	if o.Log == nil {
		o.Log = quiet
	}
	s = NewShadow(o)
	ctx, stop := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = s.Run(ctx) })
	t.Cleanup(func() { stop(); done.Wait() })
	return s, func(n uint64) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); s.Counts().Compared < n; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("compared %d, want %d", s.Counts().Compared, n)
			}
		}
	}
}

func TestShadowCountsDisagreements(t *testing.T) {
	old, next := compiled(t, oldRules), compiled(t, newRules)
	var heard []Disagreement
	s, wait := running(t, ShadowOptions{Samples: 10, Disagreed: func(d Disagreement) { heard = append(heard, d) }})
	s.Set(next, "", 10)
	questions, denied, redacted := traffic(500)
	for i, q := range questions {
		s.Put(Entry{q, old.Decide(t.Context(), q)})
		if i%100 == 99 {
			wait(uint64(i + 1))
		}
	}
	r := s.Report()
	if r.Compared != 500 || r.Disagreed != uint64(denied+redacted) || r.Failed+r.Skipped != 0 || r.Live != old.Revision() || r.Shadow != next.Revision() {
		t.Fatalf("%+v", r)
	}
	want := map[Disagreement]uint64{
		{"tools/call", "git", "tool", "git_log", "allow", "deny"}:        uint64(denied),
		{"tools/call", "git", "tool", "status", "allow", "allow+redact"}: uint64(redacted),
	}
	got := map[Disagreement]uint64{}
	for _, row := range r.Rows {
		got[row.Disagreement] = row.Count
		if !reflect.DeepEqual(row.Callers, []Caller{{"user ann", row.Count}}) || !reflect.DeepEqual(row.Roles, []Caller{{"reader", row.Count}}) {
			t.Errorf("asked by %v, %v", row.Callers, row.Roles)
		}
		if len(row.Samples) != maxRowSamples {
			t.Errorf("%d examples", len(row.Samples))
		}
		sample := row.Samples[0]
		if row.Shadow == "deny" && !strings.Contains(string(sample.Shadow), "git_log shows 1 to 20") {
			t.Errorf("the example does not say why: %s", sample.Shadow)
		}
		if !strings.Contains(string(sample.Question), `"password":"[hidden]"`) || !strings.Contains(string(sample.Question), sample.DecisionID) {
			t.Errorf("the example's question is %s", sample.Question)
		}
	}
	if !reflect.DeepEqual(got, want) || len(heard) != denied+redacted {
		t.Errorf("got %v, want %v; heard %d", got, want, len(heard))
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
	s.Reset()
	if r := s.Report(); r.Compared != 0 || len(r.Rows) != 0 || r.Shadow == "" {
		t.Errorf("after a reset: %+v", r)
	}
	// Another live policy: what was found before is about something else.
	s.Put(Entry{questions[1], old.Decide(t.Context(), questions[1])})
	wait(501)
	s.Put(Entry{questions[1], next.Decide(t.Context(), questions[1])})
	wait(502)
	if r := s.Report(); r.Compared != 1 || r.Disagreed != 0 || r.Live != next.Revision() {
		t.Errorf("after a change of the live policy: %+v", r)
	}
	s.Set(nil, "policy.rego:1:1: bad", 10)
	if r := s.Report(); r.Shadow != "" || r.Fault == "" {
		t.Errorf("without a shadow: %+v", r)
	}
}

// TestShadowIsContained: a shadow that panics, fails or hangs is counted, and Put never waits for it.
func TestShadowIsContained(t *testing.T) {
	var said bytes.Buffer
	s, wait := running(t, ShadowOptions{Samples: 1, Queue: 8, Log: slog.New(slog.NewTextHandler(&said, nil))})
	let := make(chan struct{})
	var once sync.Once
	defer once.Do(func() { close(let) })
	n := 0
	s.Set(&fake{revision: "s", decide: func(*policy.Question) policy.Ruling {
		n++
		switch n {
		case 1:
			panic("boom")
		case 2:
			return policy.Ruling{Effect: policy.Deny, Err: policy.ErrTimeout}
		}
		<-let
		return policy.Ruling{Effect: policy.Allow}
	}}, "", 1)
	live := policy.Ruling{Effect: policy.Allow, Revision: "l"}
	s.Put(Entry{call(1, "r", "x", 1), live})
	s.Put(Entry{call(2, "r", "x", 1), live})
	wait(2)
	r := s.Report()
	if r.Failed != 2 || r.Disagreed != 2 || len(r.Rows) != 1 || r.Rows[0].Shadow != "error" {
		t.Errorf("%+v", r)
	}
	begin := time.Now()
	for i := range 1000 {
		s.Put(Entry{call(i, "r", "x", 1), live})
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("Put waited for the shadow: %v", took)
	}
	if n := s.Counts().Skipped; n < 990 || s.Report().Skipped != n {
		t.Errorf("skipped %d of 1000 with a queue of 8", n)
	}
	once.Do(func() { close(let) })
	wait(3)
	big := call(1, "r", "x", 1)
	big.Arguments = make([]byte, maxCompare)
	before := s.Counts().Skipped
	if s.Put(Entry{big, live}); s.Counts().Skipped != before+1 {
		t.Error("the bound in bytes does not hold")
	}
	if !strings.Contains(said.String(), "could not rule") {
		t.Errorf("said %q", &said)
	}
}

func TestShadowIsBounded(t *testing.T) {
	const samples = 50
	s, _ := running(t, ShadowOptions{Samples: samples})
	s.Set(&fake{revision: "s", decide: func(*policy.Question) policy.Ruling { return policy.Ruling{Effect: policy.Deny} }}, "", samples)
	for i := range 2 * maxRows {
		q := call(i, fmt.Sprintf("role%d", i), fmt.Sprintf("item%d", i%(maxRows+100)), 1)
		q.Subject.ID = fmt.Sprintf("user%d", i)
		if i%2 == 0 {
			q.Arguments = fmt.Appendf(nil, `{"text":%q}`, strings.Repeat("x", 2*maxSampleBytes))
		}
		s.compare(t.Context(), &Entry{q, policy.Ruling{Effect: policy.Allow, Revision: "l"}})
	}
	r := s.Report()
	kept, rest := 0, uint64(0)
	for _, row := range r.Rows {
		kept += len(row.Samples)
		for _, sample := range row.Samples {
			if len(sample.Question) > maxSampleBytes {
				t.Errorf("an example of %d bytes", len(sample.Question))
			}
		}
		if len(row.Callers) > maxRowCallers+1 || len(row.Roles) > maxRowCallers+1 {
			t.Errorf("%d callers", len(row.Callers))
		}
		if row.Item == other {
			rest = row.Count
		}
	}
	if len(r.Rows) != maxRows+1 || kept > samples || kept < samples/2 || rest == 0 {
		t.Errorf("%d rows, %d examples, %d in the rest", len(r.Rows), kept, rest)
	}
	s.Set(s.engine, "", 0)
	s.compare(t.Context(), &Entry{call(1, "r", "x", 1), policy.Ruling{Effect: policy.Allow}})
	if r := s.Report(); len(r.Rows) != 1 || len(r.Rows[0].Samples) != 0 {
		t.Errorf("no examples are wanted: %+v", r.Rows)
	}
}

func TestSame(t *testing.T) {
	label := &policy.Obligations{Label: []string{"a"}}
	for _, tc := range []struct {
		a, b policy.Ruling
		same bool
	}{
		{policy.Ruling{Effect: policy.Deny}, policy.Ruling{Effect: policy.Deny, Reasons: []policy.Reason{{Rule: "deny", Message: "x"}}}, true},
		{policy.Ruling{Effect: policy.Deny}, policy.Ruling{Effect: policy.Deny, Err: errors.New("x")}, false},
		{policy.Ruling{Effect: policy.Deny, Err: policy.ErrTimeout}, policy.Ruling{Effect: policy.Deny, Err: errors.New("x")}, true},
		{policy.Ruling{Effect: policy.Allow}, policy.Ruling{Effect: policy.Ask}, false},
		{policy.Ruling{Effect: policy.Allow, Obligations: label}, policy.Ruling{Effect: policy.Allow}, false},
		{policy.Ruling{Effect: policy.Allow, Obligations: label}, policy.Ruling{Effect: policy.Allow, Obligations: &policy.Obligations{Label: []string{"b"}}}, false},
		{policy.Ruling{Effect: policy.Allow, Obligations: label}, policy.Ruling{Effect: policy.Allow, Obligations: &policy.Obligations{Label: []string{"a"}}}, true},
		{policy.Ruling{Effect: policy.Allow, Obligations: &policy.Obligations{}}, policy.Ruling{Effect: policy.Allow}, true},
	} {
		a, b := resultOf(&tc.a), resultOf(&tc.b)
		if a.same(&b) != tc.same || b.same(&a) != tc.same {
			t.Errorf("%+v and %+v: same is not %t", tc.a, tc.b, tc.same)
		}
	}
}

// conditions of random rules: some read nothing, some fail.
var conditions = []string{
	`"r1" in input.subject.roles`, `input.arguments.a > 1`, `input.resource.name == "t1"`, `not input.arguments.b`, `to_number(input.arguments.a) > 0`,
	`startswith(input.resource.name, "t")`, `input.subject.id != "u"`, `count(input.arguments) > 1`, `object.get(input, ["arguments", "a"], 5) == 5`, `input.context.time > "2024"`,
}

func drawPolicy(t *rapid.T, label string) string {
	var b strings.Builder
	for i := range rapid.IntRange(0, 5).Draw(t, label+" rules") {
		head := rapid.SampledFrom([]string{"allow", `deny contains "d"`, `ask contains "a"`, `label contains "l"`, `redact contains {"path": "/x"}`}).Draw(t, fmt.Sprint(label, " head ", i))
		fmt.Fprintf(&b, "%s if {\n", head)
		for j := range rapid.IntRange(1, 2).Draw(t, "conditions") {
			fmt.Fprintf(&b, "\t%s\n", rapid.SampledFrom(conditions).Draw(t, fmt.Sprint("condition ", j)))
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// TestPropertyShadowNeverChangesARuling: with a shadow beside it, whatever that is, a policy rules as it does alone; and each question
// on which the two differ is counted, no other. One check is 25 questions.
func TestPropertyShadowNeverChangesARuling(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		text := drawPolicy(rt, "live")
		load := func(text string) *opa.Engine {
			e, err := opa.Load(opa.Options{Modules: []opa.File{{Name: "p.rego", Text: []byte("package mcpgw.policy\n" + text)}}})
			if err != nil {
				rt.Fatal(err)
			}
			return e
		}
		alone, live, shadow := load(text), load(text), load(drawPolicy(rt, "shadow"))
		items := []*catalog.Item{{Server: "s", Name: "t1"}, {Server: "s", Name: "x2"}}
		s := NewShadow(ShadowOptions{Samples: 5, Log: quiet})
		s.Set(shadow, "", 5)
		ctx, stop := context.WithCancel(context.Background())
		var done sync.WaitGroup
		done.Go(func() { _ = s.Run(ctx) }) // asks at the same time, of the same items
		differ, n := uint64(0), rapid.IntRange(20, 30).Draw(rt, "questions")
		for i := range n {
			q := &policy.Question{
				Subject: &identity.Principal{ID: rapid.SampledFrom([]string{"u", "v"}).Draw(rt, "id"), Roles: rapid.SliceOfN(rapid.SampledFrom([]string{"r1", "r2"}), 0, 2).Draw(rt, "roles")},
				Action:  "tools/call", Item: rapid.SampledFrom(items).Draw(rt, "item"),
				Arguments: []byte(rapid.SampledFrom([]string{`{}`, `{"a":1}`, `{"a":5,"b":true}`, `{"a":"x"}`, `{"b":null}`}).Draw(rt, "arguments")),
				Context:   policy.Context{RequestID: fmt.Sprint(i), Time: time.Unix(1800000000, 0)},
			}
			want := alone.Decide(ctx, q.Clone())
			got := live.Decide(ctx, q)
			s.Put(Entry{q.Clone(), got})
			again := live.Decide(ctx, q)
			for _, r := range []policy.Ruling{got, again} {
				if r.Effect != want.Effect || !reflect.DeepEqual(r.Reasons, want.Reasons) || !reflect.DeepEqual(r.Obligations, want.Obligations) || (r.Err == nil) != (want.Err == nil) {
					rt.Fatalf("with a shadow %+v, alone %+v", r, want)
				}
			}
			a, b := resultOf(&got), func() result { r := shadow.Decide(ctx, q); return resultOf(&r) }()
			if !a.same(&b) {
				differ++
			}
		}
		for end := time.Now().Add(10 * time.Second); s.Counts().Compared < uint64(n) && time.Now().Before(end); {
			time.Sleep(50 * time.Microsecond)
		}
		stop()
		done.Wait()
		if c := s.Counts(); c.Compared != uint64(n) || c.Disagreed != differ || c.Skipped != 0 {
			rt.Fatalf("counted %+v of %d questions, %d of which differ", c, n, differ)
		}
	})
}

// TestQueuesCountWhatRulesMake: a rewrite or a message may repeat long arguments, and waits as they do.
func TestQueuesCountWhatRulesMake(t *testing.T) {
	long := strings.Repeat("x", 8<<20)
	for name, r := range map[string]policy.Ruling{
		"rewrite": {Obligations: &policy.Obligations{Rewrite: []policy.Change{{Path: "/q", Value: []byte(long)}}}},
		"redact":  {Obligations: &policy.Obligations{Redact: []policy.Change{{Pattern: "a", With: long}}}},
		"message": {Reasons: []policy.Reason{{Rule: "deny", Message: long}}},
		"error":   {Err: errors.New(long)},
	} {
		s := NewShadow(ShadowOptions{Log: slog.New(slog.DiscardHandler)})
		l, err := NewLog(LogOptions{Console: io.Discard, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		for n := range 20 {
			e := entry(n, "{}", r)
			s.Put(e)
			l.Put(e, nil)
		}
		if len(s.queue) != 1 || s.skipped.Load() != 19 {
			t.Errorf("%s: %d wait for the shadow", name, len(s.queue))
		}
		if len(l.queue) != 7 || l.Lost() != 13 {
			t.Errorf("%s: %d wait for the log", name, len(l.queue))
		}
	}
}
