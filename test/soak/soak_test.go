package main

import (
	"context"
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

// lines sends what the run prints to the test's log.
type lines struct{ t *testing.T }

func (l *lines) Write(b []byte) (int, error) {
	l.t.Logf("%s", b)
	return len(b), nil
}
