package decision

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// engine is told apart by its address; nobody asks it.
type engine struct {
	policy.Engine
	_ byte
}

func question(id string, arguments string) *policy.Question {
	return &policy.Question{
		Subject: &identity.Principal{Type: identity.Service, ID: "ann"}, Action: "tools/call", Item: &catalog.Item{Server: "git", Name: "git_log"},
		Arguments: []byte(arguments), Context: policy.Context{RequestID: id},
	}
}

func TestRecentKeepsWhatRuled(t *testing.T) {
	var r Recent
	before, after := &engine{}, &engine{}
	r.Add(question("never", "{}"), &policy.Ruling{}, before, "v")
	if r.Keeps() || r.Get("never") != nil {
		t.Error("the zero value keeps something")
	}
	r.Bound(10, time.Minute)
	r.Add(question("a", `{"a":1}`), &policy.Ruling{Effect: policy.Deny, Revision: "r1"}, before, "v1")
	r.Add(question("b", `{"b":1}`), &policy.Ruling{Effect: policy.Allow, Revision: "r2"}, after, "v2")
	r.Add(question("", `{}`), &policy.Ruling{}, after, "v2")
	a := r.Get("a")
	if a == nil || a.Engine != policy.Engine(before) || a.Snapshot != "v1" || a.Ruling.Revision != "r1" || string(a.Question.Arguments) != `{"a":1}` || !a.Whole() {
		t.Errorf("got %+v", a)
	}
	r.Add(question("a", `{"a":2}`), &policy.Ruling{Effect: policy.Allow}, after, "v2")
	if a := r.Get("a"); a == nil || string(a.Question.Arguments) != `{"a":2}` {
		t.Errorf("the later ruling does not count: %+v", a)
	}
	if n, _ := r.Len(); n != 2 || len(r.engines) != 1 {
		t.Errorf("%d rulings of %d engines", n, len(r.engines))
	}
	if r.Get("nobody") != nil || r.Get("") != nil {
		t.Error("found what was never there")
	}
	r.Bound(0, time.Minute)
	if n, bytes := r.Len(); n != 0 || bytes != 0 || r.Get("a") != nil || len(r.engines) != 0 || r.Keeps() {
		t.Errorf("%d rulings, %d bytes are kept", n, bytes)
	}
}

func TestRecentBounds(t *testing.T) {
	add := func(r *Recent, i int, arguments string, e policy.Engine) {
		r.Add(question(fmt.Sprint(i), arguments), &policy.Ruling{}, e, "v")
	}
	one := &engine{}
	t.Run("number", func(t *testing.T) {
		var r Recent
		r.Bound(3, time.Minute)
		for i := range 200 {
			add(&r, i, "{}", one)
		}
		if n, _ := r.Len(); n != 3 || r.Get("196") != nil || r.Get("197") == nil || r.Get("199") == nil {
			t.Errorf("%d are kept", n)
		}
		r.Bound(1, time.Minute)
		if n, _ := r.Len(); n != 1 || r.Get("199") == nil {
			t.Errorf("%d are kept", n)
		}
	})
	t.Run("time", func(t *testing.T) {
		var r Recent
		now := time.Unix(0, 0)
		r.now = func() time.Time { return now }
		r.Bound(10, time.Minute)
		add(&r, 1, "{}", one)
		now = now.Add(59 * time.Second)
		add(&r, 2, "{}", one)
		if r.Get("1") == nil {
			t.Error("gone too early")
		}
		now = now.Add(time.Second)
		if r.Get("1") != nil || r.Get("2") == nil {
			t.Error("gone too late, or too early")
		}
	})
	t.Run("bytes", func(t *testing.T) {
		var r Recent
		r.Bound(1_000_000, time.Hour)
		long := `{"a":"` + strings.Repeat("x", MaxArguments-8) + `"}`
		for i := range 2 * MaxBytes / len(long) {
			add(&r, i, long, one)
		}
		if n, bytes := r.Len(); bytes > MaxBytes || n < MaxBytes/len(long)/2 {
			t.Errorf("%d rulings take %d bytes", n, bytes)
		}
	})
	t.Run("one question", func(t *testing.T) {
		var r Recent
		r.Bound(10, time.Minute)
		add(&r, 1, `{"a":"`+strings.Repeat("x", MaxArguments)+`"}`, one)
		x := r.Get("1")
		if x == nil || x.Whole() || x.Question.Arguments != nil || x.ArgumentBytes != MaxArguments+8 {
			t.Errorf("got %+v", x)
		}
	})
	t.Run("one id", func(t *testing.T) {
		var r Recent
		r.Bound(10, time.Hour)
		add(&r, 1, "{}", one)
		for range 10_000 { // a stream that asks for each thing its server says
			add(&r, 2, "{}", one)
		}
		if n, _ := r.Len(); n != 2 || len(r.queue) > 64 || r.Get("1") == nil || r.Get("2") == nil {
			t.Errorf("%d rulings in %d places", n, len(r.queue))
		}
	})
	t.Run("what rules make of arguments", func(t *testing.T) {
		var r Recent
		r.Bound(10, time.Minute)
		o := &policy.Obligations{Rewrite: []policy.Change{{Path: "/q", Value: make([]byte, MaxBytes)}}}
		r.Add(question("1", "{}"), &policy.Ruling{Effect: policy.Allow, Obligations: o, Err: errors.New(strings.Repeat("x", MaxBytes))}, one, "v")
		if x := r.Get("1"); x == nil || x.Ruling.Effect != policy.Allow || x.Ruling.Obligations != nil || x.Ruling.Err != nil {
			t.Error("more is kept than counts")
		}
	})
	t.Run("items that change", func(t *testing.T) {
		var r Recent
		r.Bound(10_000, time.Hour)
		definition := make([]byte, 256<<10) // the same text for all, so that the test need not hold them
		for i := range 1000 {
			for j := range 2 {
				q := question(fmt.Sprint(2*i+j), "{}")
				if q.Item = (&catalog.Item{Definition: definition}); j == 1 {
					q.Item = r.Get(fmt.Sprint(2 * i)).Question.Item
				}
				r.Add(q, &policy.Ruling{}, one, "v")
			}
		}
		if n, bytes := r.Len(); bytes > MaxBytes || len(r.items) > MaxBytes/len(definition) || n < MaxBytes/len(definition) {
			t.Errorf("%d rulings on %d items take %d bytes", n, len(r.items), bytes)
		}
		r.Bound(0, 0)
		if n, bytes := r.Len(); n != 0 || bytes != 0 || len(r.items) != 0 {
			t.Errorf("%d rulings, %d items, %d bytes are kept", n, len(r.items), bytes)
		}
	})
	t.Run("engines", func(t *testing.T) {
		var r Recent
		r.Bound(1000, time.Hour)
		for i := range 10 {
			e := &engine{}
			for j := range 5 {
				add(&r, 10*i+j, "{}", e)
			}
		}
		if n, _ := r.Len(); len(r.engines) != MaxEngines || n != 5*MaxEngines || r.Get("94") == nil || r.Get("54") != nil {
			t.Errorf("%d rulings of %d engines are kept", n, len(r.engines))
		}
	})
}

// TestRecentProperty holds the books against what is there, whatever comes in which order.
func TestRecentProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r Recent
		now := time.Unix(0, 0)
		r.now = func() time.Time { return now }
		number, age := rapid.IntRange(1, 20).Draw(t, "number"), time.Duration(rapid.IntRange(1, 20).Draw(t, "age"))*time.Second
		r.Bound(number, age)
		engines := []*engine{{}, {}, {}, {}, {}, {}}
		at := map[string]time.Time{}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			id := fmt.Sprint(rapid.IntRange(0, 40).Draw(t, "id"))
			r.Add(question(id, strings.Repeat(" ", rapid.IntRange(0, 100).Draw(t, "length"))), &policy.Ruling{}, rapid.SampledFrom(engines).Draw(t, "engine"), "v")
			at[id] = now
			if r.Get(id) == nil {
				t.Fatalf("%s is not kept", id)
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "wait")) * time.Second)
			rulings, bytes, seen := 0, 0, map[policy.Engine]int{}
			for id, when := range at {
				x := r.Get(id)
				if x == nil {
					continue
				}
				if now.Sub(when) >= age || !x.At.Equal(when) {
					t.Fatalf("%s of %v is kept at %v", id, when, now)
				}
				rulings, bytes, seen[x.Engine] = rulings+1, bytes+x.size(), seen[x.Engine]+1
			}
			n, b := r.Len()
			if n != rulings || b != bytes || n > number || len(seen) != len(r.engines) || len(seen) > MaxEngines {
				t.Fatalf("%d rulings, %d bytes, %d engines; counted %d, %d, %d", rulings, bytes, len(seen), n, b, len(r.engines))
			}
		}
	})
}

func TestRecentLetsGoWhenNothingComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Recent
		r.Bound(10, time.Minute)
		r.Add(question("a", "{}"), &policy.Ruling{}, &engine{}, "v")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(71 * time.Second)
		if n, bytes := r.Len(); n != 0 || bytes != 0 || r.queue != nil {
			t.Errorf("%d rulings, %d bytes are kept", n, bytes)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestRecentConcurrently(t *testing.T) {
	var r Recent
	r.Bound(100, time.Minute)
	e := &engine{}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 1000 {
				id := fmt.Sprint(g, i)
				r.Add(question(id, "{}"), &policy.Ruling{}, e, "v")
				r.Get(id)
			}
		})
	}
	wg.Wait()
	if n, _ := r.Len(); n != 100 {
		t.Errorf("%d are kept", n)
	}
}

// addAllocs is what keeping a ruling costs beside the clone of its question: the ruling and its place, and once in a while a bucket of
// the map.
const addAllocs = 3

func TestRecentIsCheap(t *testing.T) {
	var r Recent
	r.Bound(1000, time.Minute)
	e := &engine{}
	ids := make([]*policy.Question, 10_000)
	for i := range ids {
		ids[i] = question(fmt.Sprint(i), `{"max_count": 5}`)
	}
	i := 0
	if n := testing.AllocsPerRun(9_000, func() { r.Add(ids[i], &policy.Ruling{}, e, "v"); i++ }); n > addAllocs {
		t.Errorf("%v allocations, want at most %d", n, addAllocs)
	}
}

func BenchmarkRecent(b *testing.B) {
	var r Recent
	r.Bound(10_000, 15*time.Minute)
	e := &engine{}
	ids := make([]*policy.Question, 100_000)
	for i := range ids {
		ids[i] = question(fmt.Sprintf("%026d", i), `{"max_count": 5, "repo_path": "."}`)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		r.Add(ids[i%len(ids)].Clone(), &policy.Ruling{}, e, "v")
		i++
	}
}
