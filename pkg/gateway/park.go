package gateway

import (
	"bytes"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

// Parked is an exchange that was judged and waits for the broker to serve it. Its message is a copy of its own; nil for a GET.
type Parked struct {
	*Exchange
	Message *jsonrpc.Message
	done    func() // gives back the bytes of the message's copy
}

// Done says that the exchange was served. It is called once by whoever took it.
func (p *Parked) Done() { p.done() }

// lot holds parked exchanges under random tickets: each is taken once, or expires.
type lot struct {
	max   int
	ttl   time.Duration
	bytes Bytes // bounds what copies of messages hold; nil: unbounded

	mu      sync.Mutex
	waiting map[string]place
	order   []string // tickets by age; taken ones are skipped
}

type place struct {
	p     *Parked
	until time.Time
}

func newLot(most int, ttl time.Duration, bytes Bytes) *lot {
	return &lot{max: most, ttl: ttl, bytes: bytes, waiting: make(map[string]place)}
}

var errLotFull = errors.New("too many exchanges, or too many bytes of them, wait for the broker")

// put parks an exchange. The message is copied, since what it aliases belongs to the rim.
func (l *lot) put(x *Exchange, m *jsonrpc.Message) (ticket string, err error) {
	p := &Parked{Exchange: x, done: func() {}}
	if m != nil {
		if n := int64(len(m.Body)); l.bytes != nil {
			if !l.bytes.TryAcquire(n) {
				return "", errLotFull
			}
			p.done = sync.OnceFunc(func() { l.bytes.Release(n) })
			defer func() {
				if err != nil {
					p.done()
				}
			}()
		}
		if p.Message, err = jsonrpc.Read(bytes.Clone(m.Body), jsonrpc.Limits{Depth: x.Snapshot.Settings.Depth}); err != nil {
			return "", err
		}
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now)
	if len(l.waiting) >= l.max {
		return "", errLotFull
	}
	if len(l.order) >= 2*l.max { // one that waits long at the front must not keep those that were taken since
		l.order = slices.DeleteFunc(l.order, func(t string) bool { _, waits := l.waiting[t]; return !waits })
	}
	ticket = rand.Text()
	l.waiting[ticket] = place{p, now.Add(l.ttl)}
	l.order = append(l.order, ticket)
	return ticket, nil
}

// expire drops from the front what was taken or is too old. Each ticket is looked at once: amortised constant.
func (l *lot) expire(now time.Time) {
	for len(l.order) > 0 {
		p, ok := l.waiting[l.order[0]]
		if ok && p.until.After(now) {
			return
		}
		if ok {
			p.p.Done()
		}
		delete(l.waiting, l.order[0])
		l.order = l.order[1:]
	}
	l.order = nil // lets the backing array go
}

func (l *lot) take(ticket string) *Parked {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.waiting[ticket]
	delete(l.waiting, ticket)
	l.expire(now)
	if !ok {
		return nil
	}
	if !p.until.After(now) {
		p.p.Done()
		return nil
	}
	return p.p
}

func (l *lot) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting)
}

// Take hands out the exchange of a ticket, once. It is nil for a ticket that is absent, unknown, used or expired.
func (g *Gateway) Take(ticket string) *Parked {
	if ticket == "" {
		return nil
	}
	return g.park.take(ticket)
}
