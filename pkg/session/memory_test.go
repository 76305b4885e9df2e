package session

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/mcp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type clock struct{ now time.Time }

func (c *clock) Now() time.Time          { return c.now }
func (c *clock) advance(d time.Duration) { c.now = c.now.Add(d) }

func newClock() *clock { return &clock{time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)} }

type ended struct {
	sync.Mutex
	list []string
}

func (e *ended) hook(s *Session, r Reason) {
	e.Lock()
	defer e.Unlock()
	e.list = append(e.list, string(s.ClientInfo)+" "+string(r))
}

func (e *ended) take() []string {
	e.Lock()
	defer e.Unlock()
	l := e.list
	e.list = nil
	slices.Sort(l)
	return l
}

func alice(endpoint string) Owner { return Owner{Principal: "alice", Endpoint: endpoint} }

func TestSessionBelongsToOnePrincipalAndOneEndpoint(t *testing.T) {
	ctx, c := t.Context(), newClock()
	m := NewMemory(MemoryOptions{Now: c.Now})
	s := New(alice("/mcp"), mcp.R20251125, c.now, 24*time.Hour)
	if err := m.Create(ctx, s); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		id    string
		owner Owner
		want  bool
	}{
		{"its own", s.ID, alice("/mcp"), true},
		{"another endpoint", s.ID, alice("/mcp/dev"), false},
		{"another principal", s.ID, Owner{Principal: "bob", Endpoint: "/mcp"}, false},
		{"nobody", s.ID, Owner{Endpoint: "/mcp"}, false},
		{"unknown id", NewID(), alice("/mcp"), false},
		{"empty id", "", alice("/mcp"), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := m.Get(ctx, tc.id, tc.owner)
			if err != nil || (got != nil) != tc.want {
				t.Errorf("Get = %v, %v, want found %v", got, err, tc.want)
			}
			called := false
			up, err := m.Update(ctx, tc.id, tc.owner, func(s *Session) *Session { called = true; return s })
			if err != nil || (up != nil) != tc.want || called != tc.want {
				t.Errorf("Update = %v, %v, called %v, want found %v", up, err, called, tc.want)
			}
			if tc.want {
				return
			}
			if ok, err := m.Delete(ctx, tc.id, tc.owner); ok || err != nil {
				t.Errorf("Delete = %v, %v, want nothing deleted", ok, err)
			}
		})
	}
	if err := m.Create(ctx, s); !errors.Is(err, ErrExists) {
		t.Errorf("second Create = %v, want ErrExists", err)
	}
	if ok, _ := m.Delete(ctx, s.ID, s.Owner); !ok {
		t.Error("Delete of its own session found none")
	}
	if ok, _ := m.Delete(ctx, s.ID, s.Owner); ok {
		t.Error("second Delete found one")
	}
	if got, _ := m.Get(ctx, s.ID, s.Owner); got != nil {
		t.Error("a deleted session is still there")
	}
}

func TestUpdateMakesANewValue(t *testing.T) {
	ctx, c := t.Context(), newClock()
	m := NewMemory(MemoryOptions{Now: c.Now})
	s := New(alice("/mcp"), mcp.R20251125, c.now, time.Hour)
	if err := m.Create(ctx, s); err != nil {
		t.Fatal(err)
	}
	u, err := m.Update(ctx, s.ID, s.Owner, func(s *Session) *Session {
		n := s.With("time", Upstream{ID: "up-1", Revision: mcp.R20250618})
		n.Initialized, n.LogLevel = true, "info"
		n.ID, n.Principal, n.Expires = "stolen", "mallory", c.now.Add(1000*time.Hour)
		return n
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.Initialized || s.Upstream != nil {
		t.Error("Update altered the value a reader held")
	}
	if u.ID != s.ID || u.Owner != s.Owner || u.Expires != s.Expires {
		t.Errorf("Update changed what cannot change: %+v", u)
	}
	got, _ := m.Get(ctx, s.ID, s.Owner)
	if got != u || !got.Initialized || got.Upstream["time"].ID != "up-1" {
		t.Errorf("Get after Update = %+v", got)
	}
	u, _ = m.Update(ctx, s.ID, s.Owner, func(s *Session) *Session { return s.Without("time") })
	if len(u.Upstream) != 0 || len(got.Upstream) != 1 {
		t.Errorf("Without: new %v, old %v", u.Upstream, got.Upstream)
	}
	_, err = m.Update(ctx, s.ID, s.Owner, func(s *Session) *Session {
		return s.With("time", Upstream{ID: string(make([]byte, MaxSize))})
	})
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large an Update = %v", err)
	}
	if got, _ := m.Get(ctx, s.ID, s.Owner); len(got.Upstream) != 0 {
		t.Error("a refused Update left traces")
	}
}

func TestExpiry(t *testing.T) {
	ctx := t.Context()
	for _, tc := range []struct {
		name  string
		sweep bool
		steps []time.Duration // a Get after each but the last
		alive bool
		why   string
	}{
		{"fresh", false, []time.Duration{59 * time.Minute}, true, ""},
		{"idle", false, []time.Duration{time.Hour}, false, "x idle"},
		{"idle, swept", true, []time.Duration{time.Hour}, false, "x idle"},
		{"used", false, []time.Duration{50 * time.Minute, 50 * time.Minute, 50 * time.Minute}, true, ""},
		{"over, though used", false, []time.Duration{50 * time.Minute, 50 * time.Minute, 50 * time.Minute, 30 * time.Minute}, false, "x expired"},
		{"over, swept", true, []time.Duration{50 * time.Minute, 50 * time.Minute, 50 * time.Minute, 30 * time.Minute}, false, "x expired"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, e := newClock(), &ended{}
			m := NewMemory(MemoryOptions{Now: c.Now, Ended: e.hook})
			s := New(alice("/mcp"), mcp.R20251125, c.now, 3*time.Hour)
			s.ClientInfo = []byte("x")
			if err := m.Create(ctx, s); err != nil {
				t.Fatal(err)
			}
			for i, d := range tc.steps {
				c.advance(d)
				// A stranger's knock keeps nothing alive.
				if got, _ := m.Get(ctx, s.ID, Owner{Principal: "bob", Endpoint: "/mcp"}); got != nil {
					t.Fatal("foreign session found")
				}
				if i == len(tc.steps)-1 {
					break
				}
				if got, _ := m.Get(ctx, s.ID, s.Owner); got == nil {
					t.Fatalf("gone after step %d", i)
				}
			}
			if tc.sweep {
				m.Sweep()
				if n := m.Len(); n != 0 {
					t.Errorf("Len after Sweep = %d", n)
				}
			}
			if got, _ := m.Get(ctx, s.ID, s.Owner); (got != nil) != tc.alive {
				t.Errorf("alive %v, want %v", got != nil, tc.alive)
			}
			if got := e.take(); tc.why == "" && len(got) != 0 || tc.why != "" && (len(got) != 1 || got[0] != tc.why) {
				t.Errorf("ended %v, want %q", got, tc.why)
			}
		})
	}
}

func TestFullStoreEvictsFairly(t *testing.T) {
	ctx, c, e := t.Context(), newClock(), &ended{}
	m := NewMemory(MemoryOptions{Max: 5, MaxPerPrincipal: 4, Now: c.Now, Ended: e.hook})
	create := func(principal, name string) *Session {
		t.Helper()
		s := New(Owner{Principal: principal, Endpoint: "/mcp"}, mcp.R20251125, c.now, 24*time.Hour)
		s.ClientInfo = []byte(name)
		if err := m.Create(ctx, s); err != nil {
			t.Fatal(err)
		}
		c.advance(time.Second)
		return s
	}
	expect := func(want ...string) {
		t.Helper()
		if got := e.take(); !slices.Equal(got, want) {
			t.Errorf("ended %v, want %v", got, want)
		}
	}
	b := create("bob", "b1")
	a1 := create("alice", "a1")
	for _, n := range []string{"a2", "a3", "a4"} {
		create("alice", n)
	}
	expect()
	if _, err := m.Get(ctx, a1.ID, a1.Owner); err != nil { // now a2 is alice's longest unused
		t.Fatal(err)
	}
	create("alice", "a5")
	expect("a2 evicted")
	create("carol", "c1") // the store is full: alice, who holds most, pays
	expect("a3 evicted")
	if got, _ := m.Get(ctx, b.ID, b.Owner); got == nil {
		t.Error("bob lost the only session he had")
	}

	// One slot in all: a principal's own last session makes room for its next.
	m = NewMemory(MemoryOptions{Max: 1, Now: c.Now, Ended: e.hook})
	create("alice", "x1")
	create("alice", "x2")
	expect("x1 evicted")
	create("bob", "y1")
	expect("x2 evicted")
	if n := m.Len(); n != 1 {
		t.Errorf("Len = %d", n)
	}
}

func TestBytesAreBounded(t *testing.T) {
	ctx, c, e := t.Context(), newClock(), &ended{}
	m := NewMemory(MemoryOptions{MaxBytes: 4 * MaxSize, Max: 100, MaxPerPrincipal: 50, Now: c.Now, Ended: e.hook})
	var last *Session
	for i := range 10 {
		last = New(alice("/mcp"), mcp.R20251125, c.now, time.Hour)
		last.ClientCapabilities = make([]byte, 40<<10)
		last.ClientInfo = []byte(fmt.Sprint(i))
		if err := m.Create(ctx, last); err != nil {
			t.Fatal(err)
		}
	}
	if n := m.Len(); n != 3 { // a share of half: 128 KiB holds three of 40 KiB
		t.Errorf("%d sessions of 40 KiB fit a share of %d", n, m.share)
	}
	e.take()
	if _, err := m.Update(ctx, last.ID, last.Owner, func(s *Session) *Session {
		return s.With("a", Upstream{ID: string(make([]byte, 20<<10))})
	}); err != nil {
		t.Fatal(err)
	}
	if got := e.take(); !slices.Equal(got, []string{"7 evicted"}) {
		t.Errorf("growth ended %v", got)
	}
	big := New(alice("/mcp"), mcp.R20251125, c.now, time.Hour)
	big.ClientInfo = make([]byte, MaxSize)
	if err := m.Create(ctx, big); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Create of %d bytes = %v", big.Size(), err)
	}
}

// TestBookkeeping: whatever is done in whatever order, the bounds hold and the sums agree with what is there.
func TestBookkeeping(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx, c := context.Background(), newClock()
		live := map[string]bool{}
		m := NewMemory(MemoryOptions{Max: 8, MaxPerPrincipal: 4, MaxBytes: 3 * MaxSize, Now: c.Now, Ended: func(s *Session, _ Reason) {
			if !live[s.ID] {
				t.Fatalf("%s ended twice or never lived", s.ID)
			}
			delete(live, s.ID)
		}})
		var all []*Session
		pick := func() *Session { return all[rapid.IntRange(0, len(all)-1).Draw(t, "which")] }
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			op := rapid.IntRange(0, 5).Draw(t, "op")
			if len(all) == 0 {
				op = 0
			}
			switch op {
			case 0, 1:
				s := New(Owner{Principal: rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "p"), Endpoint: "/mcp"}, mcp.R20251125, c.now, 3*time.Hour)
				s.ClientInfo = make([]byte, rapid.IntRange(0, 60<<10).Draw(t, "size"))
				live[s.ID] = true
				if err := m.Create(ctx, s); err != nil {
					t.Fatal(err)
				}
				all = append(all, s)
			case 2:
				s := pick()
				n := rapid.IntRange(0, 70<<10).Draw(t, "grow")
				_, _ = m.Update(ctx, s.ID, s.Owner, func(s *Session) *Session { return s.With("x", Upstream{ID: string(make([]byte, n))}) })
			case 3:
				s := pick()
				_, _ = m.Delete(ctx, s.ID, s.Owner)
			case 4:
				s := pick()
				_, _ = m.Get(ctx, s.ID, s.Owner)
			case 5:
				c.advance(time.Duration(rapid.IntRange(0, 40).Draw(t, "min")) * time.Minute)
				m.Sweep()
			}
			bytes, held := 0, 0
			for _, h := range m.owners {
				sum := 0
				for at := h.recent.Front(); at != nil; at = at.Next() {
					sum += at.Value.(*entry).s.Size()
					held++
				}
				if sum != h.bytes || sum == 0 || m.heavy[h.index] != h || h.bytes > m.heavy[0].bytes {
					t.Fatalf("holder %s: sum %d, noted %d, index %d", h.key, sum, h.bytes, h.index)
				}
				if h.recent.Len() > 4 || h.bytes > m.share {
					t.Fatalf("holder %s holds %d sessions, %d bytes", h.key, h.recent.Len(), h.bytes)
				}
				bytes += sum
			}
			if bytes != m.bytes || held != len(m.byID) || held != len(live) || len(m.heavy) != len(m.owners) || held > 8 || bytes > 3*MaxSize {
				t.Fatalf("bytes %d/%d, held %d, byID %d, live %d", bytes, m.bytes, held, len(m.byID), len(live))
			}
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	ctx := t.Context()
	m := NewMemory(MemoryOptions{Max: 50, MaxPerPrincipal: 20, Ended: func(*Session, Reason) {}})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 200 {
				s := New(Owner{Principal: fmt.Sprint(g), Endpoint: "/mcp"}, mcp.R20251125, time.Now(), time.Hour)
				if err := m.Create(ctx, s); err != nil {
					t.Error(err)
				}
				_, _ = m.Update(ctx, s.ID, s.Owner, func(s *Session) *Session { return s.With("a", Upstream{ID: fmt.Sprint(i)}) })
				if got, _ := m.Get(ctx, s.ID, s.Owner); got != nil && got.Upstream["a"].ID != fmt.Sprint(i) {
					t.Error("lost an update")
				}
				if i%3 == 0 {
					_, _ = m.Delete(ctx, s.ID, s.Owner)
				}
				if i%50 == 0 {
					m.Sweep()
				}
			}
		})
	}
	wg.Wait()
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- NewMemory(MemoryOptions{}).Run(ctx) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v", err)
	}
}

// TestFiveThousandSessionsAreSmall holds the figure: 5,000 legacy sessions under 100 MiB. A typical one holds 300 bytes
// of capabilities and info and three upstream sessions; the bound here is a tenth of the figure.
func TestFiveThousandSessionsAreSmall(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	ctx, before := t.Context(), heap()
	m := NewMemory(MemoryOptions{})
	for i := range 5000 {
		s := New(Owner{Principal: fmt.Sprint("principal-", i%100), Endpoint: "/mcp"}, mcp.R20251125, time.Now(), time.Hour)
		s.ClientCapabilities, s.ClientInfo = make([]byte, 200), make([]byte, 100)
		for _, n := range []string{"time", "git", "everything"} {
			s = s.With(n, Upstream{ID: NewID(), Revision: mcp.R20251125})
		}
		if err := m.Create(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	used := heap() - before
	t.Logf("5,000 sessions take %.1f MiB (%d bytes each); Size counts %.1f MiB", float64(used)/(1<<20), used/5000, float64(m.bytes)/(1<<20))
	if used > 10<<20 {
		t.Errorf("5,000 sessions take %d bytes", used)
	}
	runtime.KeepAlive(m)
}

func BenchmarkGet(b *testing.B) {
	m := NewMemory(MemoryOptions{})
	var s *Session
	for range 5000 {
		s = New(alice("/mcp"), mcp.R20251125, time.Now(), time.Hour)
		_ = m.Create(b.Context(), s)
	}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = m.Get(b.Context(), s.ID, s.Owner)
	}
}
