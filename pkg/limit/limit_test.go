package limit

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBytes(t *testing.T) {
	b := NewBytes(100)
	for _, tc := range []struct {
		n    int64
		want bool
	}{{60, true}, {41, false}, {40, true}, {1, false}, {0, true}, {-1, false}, {101, false}, {1 << 62, false}} {
		if got := b.TryAcquire(tc.n); got != tc.want {
			t.Errorf("TryAcquire(%d) with %d in use = %v", tc.n, b.InUse(), got)
		}
	}
	b.Release(60)
	if b.InUse() != 40 || !b.TryAcquire(60) {
		t.Errorf("after Release: %d in use", b.InUse())
	}
}

func TestBytesNeverExceedTheirBound(t *testing.T) {
	b := NewBytes(10)
	var over atomic.Bool
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for range 2000 {
				n := int64(g + 1)
				if b.TryAcquire(n) {
					if b.InUse() > 10 {
						over.Store(true)
					}
					b.Release(n)
				}
			}
		})
	}
	wg.Wait()
	if over.Load() || b.InUse() != 0 {
		t.Errorf("over %v, left %d", over.Load(), b.InUse())
	}
}

func TestSlots(t *testing.T) {
	s := NewSlots(2)
	r1, ok1 := s.TryAcquire("alice")
	_, ok2 := s.TryAcquire("alice")
	_, ok3 := s.TryAcquire("alice")
	rb, okb := s.TryAcquire("bob")
	if !ok1 || !ok2 || ok3 || !okb || s.InUse() != 3 {
		t.Fatalf("acquired %v %v %v %v, in use %d", ok1, ok2, ok3, okb, s.InUse())
	}
	r1()
	r1() // once is enough
	rb()
	if s.InUse() != 1 || len(s.held) != 1 {
		t.Errorf("in use %d, keys %v", s.InUse(), s.held)
	}
	if _, ok := s.TryAcquire("alice"); !ok {
		t.Error("a released slot cannot be taken")
	}
}

func TestFailureLimiter(t *testing.T) {
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	f := NewFailureLimiter(FailureOptions{Burst: 3, Every: 10 * time.Second, Addresses: 4, Now: func() time.Time { return now }})
	blocked := func(address string) bool { _, b := f.Blocked(address); return b }

	for i := range 3 {
		if blocked("192.0.2.1") {
			t.Fatalf("blocked after %d failures", i)
		}
		f.Failed("192.0.2.1:4711")
	}
	wait, b := f.Blocked("192.0.2.1")
	if !b || wait <= 9*time.Second || wait > 10*time.Second {
		t.Errorf("after three failures: blocked %v, wait %v", b, wait)
	}
	if !blocked("::ffff:192.0.2.1") {
		t.Error("the mapped form of the address is another")
	}
	if blocked("192.0.2.2") {
		t.Error("a neighbour is blocked")
	}
	f.Failed("192.0.2.1") // knocking on does not lengthen the wait
	now = now.Add(10 * time.Second)
	if blocked("192.0.2.1") {
		t.Error("still blocked after the wait")
	}

	for i := range 3 {
		f.Failed(fmt.Sprintf("[2001:db8::%d]:1", i))
	}
	if !blocked("2001:db8::ffff") || blocked("2001:db8:0:1::1") {
		t.Error("a /64 counts as one client, and no more than that")
	}

	for _, a := range []string{"", "unix", "@", "not an address"} {
		for range 10 {
			f.Failed(a)
		}
		if blocked(a) {
			t.Errorf("%q is blocked", a)
		}
	}

	for i := range 100 {
		f.Failed(fmt.Sprintf("198.51.100.%d", i))
	}
	if len(f.byAddr) != 4 || f.recent.Len() != 4 {
		t.Errorf("remembers %d and %d addresses, want 4", len(f.byAddr), f.recent.Len())
	}
}

func BenchmarkBlocked(b *testing.B) {
	f := NewFailureLimiter(FailureOptions{})
	f.Failed("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		f.Blocked("192.0.2.1:4711")
	}
}

func BenchmarkBytes(b *testing.B) {
	l := NewBytes(1 << 20)
	b.ReportAllocs()
	for b.Loop() {
		if l.TryAcquire(300) {
			l.Release(300)
		}
	}
}
