package session

import (
	"container/heap"
	"container/list"
	"context"
	"sync"
	"time"
)

// Reason says why a session ended.
type Reason string

// The reasons for an end.
const (
	Deleted Reason = "deleted" // the client asked
	Expired Reason = "expired" // past its Expires
	Idle    Reason = "idle"    // unused for too long
	Evicted Reason = "evicted" // made room for another
)

// MemoryOptions bound a Memory. Zero values mean the defaults named here.
type MemoryOptions struct {
	Max             int           // sessions in all; 50,000
	MaxPerPrincipal int           // sessions of one principal; 10,000, at most Max
	MaxBytes        int           // all sessions together, as Session.Size counts; 256 MiB. A principal may hold the share MaxPerPrincipal/Max
	Idle            time.Duration // 1 h
	Now             func() time.Time

	// Ended is told of every session that ends, after it has ended, on the goroutine that noticed, with no lock held. It must
	// not block: streams to close and upstream sessions to delete are handed to whoever runs them. A session that ends by
	// the clock is noticed by the next use of it or by Sweep, whichever comes first.
	Ended func(*Session, Reason)
}

// Memory is a Store in this process's memory; it ends with the process, and clients then initialize again, as the specification
// tells them to.
//
// When a principal has too many sessions, its own longest unused one ends. When the whole store is full, the longest unused one of
// the principal that holds most ends: so nobody can push out the sessions of someone who holds fewer.
type Memory struct {
	o     MemoryOptions
	share int // bytes a principal may hold

	mu     sync.Mutex // guards all below
	byID   map[string]*entry
	owners map[string]*holder // by principal key
	heavy  holders
	bytes  int
}

var _ Store = (*Memory)(nil)

type entry struct {
	s      *Session
	used   time.Time
	size   int
	holder *holder
	at     *list.Element // in holder.recent
}

// holder is one principal's part of the store.
type holder struct {
	key    string
	recent list.List // of *entry, latest use first
	bytes  int
	index  int // in Memory.heavy
}

// NewMemory makes an empty store.
func NewMemory(o MemoryOptions) *Memory {
	if o.Max <= 0 {
		o.Max = 50_000
	}
	if o.MaxPerPrincipal <= 0 {
		o.MaxPerPrincipal = 10_000
	}
	o.MaxPerPrincipal = min(o.MaxPerPrincipal, o.Max)
	if o.MaxBytes <= 0 {
		o.MaxBytes = 256 << 20
	}
	if o.Idle <= 0 {
		o.Idle = time.Hour
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Ended == nil {
		o.Ended = func(*Session, Reason) {}
	}
	// A share smaller than one session would refuse what MaxSize allows.
	share := max(int(int64(o.MaxBytes)*int64(o.MaxPerPrincipal)/int64(o.Max)), MaxSize)
	return &Memory{o: o, share: share, byID: map[string]*entry{}, owners: map[string]*holder{}}
}

// Len is the number of sessions held, those not yet noticed as expired included.
func (m *Memory) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.byID)
}

type end struct {
	s *Session
	r Reason
}

// tell reports ends; it runs after the lock is gone.
func (m *Memory) tell(ends []end) {
	for _, e := range ends {
		m.o.Ended(e.s, e.r)
	}
}

// Create implements Store.
func (m *Memory) Create(_ context.Context, s *Session) error {
	size := s.Size()
	if size > MaxSize {
		return ErrTooLarge
	}
	var ends []end
	m.mu.Lock()
	if m.byID[s.ID] != nil {
		m.mu.Unlock()
		return ErrExists
	}
	h := m.owners[s.Principal]
	if h == nil {
		h = &holder{key: s.Principal}
		m.owners[s.Principal] = h
		heap.Push(&m.heavy, h)
	}
	for h.recent.Len() >= m.o.MaxPerPrincipal || h.recent.Len() > 0 && h.bytes+size > m.share {
		ends = append(ends, m.evict(h))
	}
	for len(m.byID) >= m.o.Max || len(m.byID) > 0 && m.bytes+size > m.o.MaxBytes {
		ends = append(ends, m.evict(m.heavy[0]))
	}
	if m.owners[s.Principal] != h { // its last session made room for its next
		m.owners[s.Principal] = h
		heap.Push(&m.heavy, h)
	}
	e := &entry{s: s, used: m.o.Now(), holder: h}
	e.at = h.recent.PushFront(e)
	m.byID[s.ID] = e
	m.resize(e, size)
	m.mu.Unlock()
	m.tell(ends)
	return nil
}

// Get implements Store.
func (m *Memory) Get(_ context.Context, id string, o Owner) (*Session, error) {
	m.mu.Lock()
	e, ends := m.use(id, o)
	var s *Session
	if e != nil {
		s = e.s
	}
	m.mu.Unlock()
	m.tell(ends)
	return s, nil
}

// Update implements Store. change runs under the store's lock, once.
func (m *Memory) Update(_ context.Context, id string, o Owner, change func(*Session) *Session) (*Session, error) {
	m.mu.Lock()
	s, ends, err := m.update(id, o, change)
	m.mu.Unlock()
	m.tell(ends)
	return s, err
}

func (m *Memory) update(id string, o Owner, change func(*Session) *Session) (*Session, []end, error) {
	e, ends := m.use(id, o)
	if e == nil {
		return nil, ends, nil
	}
	n := change(e.s)
	if n == nil || n == e.s {
		return e.s, ends, nil
	}
	c := *n
	c.ID, c.Owner, c.Created, c.Expires = e.s.ID, e.s.Owner, e.s.Created, e.s.Expires
	size := c.Size()
	if size > MaxSize {
		return e.s, ends, ErrTooLarge
	}
	e.s = &c
	m.resize(e, size)
	// e was used just now and so stands first: another session of its principal pays for its growth.
	for e.holder.bytes > m.share && e.holder.recent.Len() > 1 {
		ends = append(ends, m.evict(e.holder))
	}
	for m.bytes > m.o.MaxBytes {
		ends = append(ends, m.evict(m.heavy[0]))
	}
	if m.byID[id] != e { // it was the heaviest of all itself
		return nil, ends, nil
	}
	return e.s, ends, nil
}

// Delete implements Store.
func (m *Memory) Delete(_ context.Context, id string, o Owner) (bool, error) {
	m.mu.Lock()
	e, ends := m.use(id, o)
	if e != nil {
		ends = append(ends, m.remove(e, Deleted))
	}
	m.mu.Unlock()
	m.tell(ends)
	return e != nil, nil
}

// Sweep ends every session whose time is over.
func (m *Memory) Sweep() {
	now := m.o.Now()
	var ends []end
	m.mu.Lock()
	for _, e := range m.byID {
		if r := m.over(e, now); r != "" {
			ends = append(ends, m.remove(e, r))
		}
	}
	m.mu.Unlock()
	m.tell(ends)
}

// Run sweeps once a minute until ctx ends, and returns ctx's error.
func (m *Memory) Run(ctx context.Context) error {
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
			m.Sweep()
		}
	}
}

// use finds a session that is alive and the owner's, and notes its use. A foreign one is left as it was, so that nobody can keep
// another's session alive.
func (m *Memory) use(id string, o Owner) (*entry, []end) {
	e := m.byID[id]
	if e == nil || e.s.Owner != o {
		return nil, nil
	}
	now := m.o.Now()
	if r := m.over(e, now); r != "" {
		return nil, []end{m.remove(e, r)}
	}
	e.used = now
	e.holder.recent.MoveToFront(e.at)
	return e, nil
}

// over says why a session's time is up; empty when it is not.
func (m *Memory) over(e *entry, now time.Time) Reason {
	switch {
	case !now.Before(e.s.Expires):
		return Expired
	case now.Sub(e.used) >= m.o.Idle:
		return Idle
	}
	return ""
}

func (m *Memory) evict(h *holder) end { return m.remove(h.recent.Back().Value.(*entry), Evicted) }

func (m *Memory) remove(e *entry, r Reason) end {
	m.resize(e, 0)
	delete(m.byID, e.s.ID)
	e.holder.recent.Remove(e.at)
	if e.holder.recent.Len() == 0 {
		heap.Remove(&m.heavy, e.holder.index)
		delete(m.owners, e.holder.key)
	}
	return end{e.s, r}
}

// resize accounts for an entry's new size.
func (m *Memory) resize(e *entry, size int) {
	m.bytes += size - e.size
	e.holder.bytes += size - e.size
	e.size = size
	heap.Fix(&m.heavy, e.holder.index)
}

// holders is a heap (container/heap) of principals, the one that holds most first.
type holders []*holder

func (h holders) Len() int           { return len(h) }
func (h holders) Less(i, j int) bool { return h[i].bytes > h[j].bytes }
func (h holders) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *holders) Push(x any) {
	n := x.(*holder)
	n.index = len(*h)
	*h = append(*h, n)
}

func (h *holders) Pop() any {
	old := *h
	n := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return n
}
