// Package limit holds the gateway's bounds on what callers may use at once: bytes of request bodies in flight, open streams of a
// principal, failed credentials of an address. Each answers at once, yes or no: overload is refused, never queued. All types may
// be used from many goroutines.
package limit

import (
	"sync"
	"sync/atomic"
)

// Bytes bounds how many bytes are held at once over all exchanges.
type Bytes struct {
	max   int64
	inUse atomic.Int64
}

// NewBytes makes a bound of max bytes; the gateway's default is 256 MiB.
func NewBytes(max int64) *Bytes { return &Bytes{max: max} }

// TryAcquire takes n bytes if they fit, all or none. Every true is owed one Release of the same n.
func (b *Bytes) TryAcquire(n int64) bool {
	if n < 0 || n > b.max {
		return false
	}
	// Adding first and giving back when it was too much would let a refused giant refuse small ones beside it for a moment.
	for {
		have := b.inUse.Load()
		if have+n > b.max {
			return false
		}
		if b.inUse.CompareAndSwap(have, have+n) {
			return true
		}
	}
}

// Release gives n bytes back.
func (b *Bytes) Release(n int64) { b.inUse.Add(-n) }

// InUse is the number of bytes taken, for a gauge.
func (b *Bytes) InUse() int64 { return b.inUse.Load() }

// Slots bounds how many of something each key may hold at once, such as open streams a principal. It remembers only keys that
// hold one, so its memory is bounded by what is open.
type Slots struct {
	max int

	mu   sync.Mutex // guards held and all
	held map[string]int
	all  int
}

// NewSlots makes a bound of max slots a key; the gateway's default for streams is 1,000.
func NewSlots(max int) *Slots { return &Slots{max: max, held: map[string]int{}} }

// TryAcquire takes one of key's slots. When it says yes, release gives the slot back; calling it again does nothing.
func (s *Slots) TryAcquire(key string) (release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[key] >= s.max {
		return nil, false
	}
	s.held[key]++
	s.all++
	return sync.OnceFunc(func() { s.release(key) }), true
}

func (s *Slots) release(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.held[key]--; s.held[key] == 0 {
		delete(s.held, key)
	}
}

// InUse is the number of slots taken over all keys, for a gauge.
func (s *Slots) InUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all
}
