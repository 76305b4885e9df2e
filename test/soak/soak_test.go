package main

import (
	"context"
	"slices"
	"testing"
	"time"
)

// TestShort is a short run: it proves that all operations and disturbances work, not that nothing leaks slowly.
func TestShort(t *testing.T) {
	t.Parallel()
	out := &lines{t}
	r := soak(context.Background(), 20*time.Second, out)
	if r.status() != 0 {
		t.Errorf("the run ended with status %d", r.status())
	}
	for _, o := range operations() {
		if len(r.ByOperation[o.name]) == 0 {
			t.Errorf("%q was never done", o.name)
		}
	}
	if len(r.Disturbances) < 8 {
		t.Errorf("only these disturbances: %v", r.Disturbances)
	}
}

// TestVerdict: what has grown beyond its slack is named, and nothing else.
func TestVerdict(t *testing.T) {
	t.Parallel()
	at := func(name string, v float64) sample { return sample{Values: map[string]float64{name: v}} }
	for _, c := range []struct {
		name          string
		before, after float64
		bad           int
	}{
		{sessions, 0, 0, 0},
		{sessions, 0, 1, 1},
		{goroutines, 90, 90 + slack[goroutines], 0},
		{goroutines, 90, 91 + slack[goroutines], 1},
		{mcpgwRSS, 60 << 20, 200 << 20, 1},
		{mcpgwRSS, 60 << 20, 50 << 20, 0},
		{processes, 4, 3, 1},
	} {
		if got := grown(at(c.name, c.before), at(c.name, c.after)); len(got) != c.bad {
			t.Errorf("%s from %v to %v: %q", c.name, c.before, c.after, got)
		}
	}
	if got := counted(at("envoy:cluster.refuse.upstream_cx_none_healthy", 1)); len(got) != 1 {
		t.Errorf("a counter that must stay 0: %q", got)
	}
	x := &watcher{}
	for i := range 100 {
		x.samples = append(x.samples, at(heap, float64(i)*float64(1<<20)))
	}
	if got := x.trends(); len(got) != 1 {
		t.Errorf("a heap that rises by 1 MiB a second: %q", got)
	}
}

// TestScope: a fatal failure ends the function, cleanups run all the same, and the program lives on.
func TestScope(t *testing.T) {
	t.Parallel()
	var order []string
	failures := within(func(s *scope) {
		s.Cleanup(func() { order = append(order, "first") })
		s.Cleanup(func() { order = append(order, "last"); s.Fatalf("in a cleanup") })
		s.Fatalf("%s", "gone")
		order = append(order, "never")
	})
	if want := []string{"gone", "in a cleanup"}; !slices.Equal(failures, want) {
		t.Errorf("failures %q, want %q", failures, want)
	}
	if want := []string{"last", "first"}; !slices.Equal(order, want) {
		t.Errorf("ran %q, want %q", order, want)
	}
}

// lines sends what the run prints to the test's log.
type lines struct{ t *testing.T }

func (l *lines) Write(b []byte) (int, error) {
	l.t.Logf("%s", b)
	return len(b), nil
}
