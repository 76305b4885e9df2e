package gateway

import (
	"crypto/rand"
	"errors"
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
}

type place struct {
	p      *Parked
	expiry *time.Timer
}

func newLot(most int, ttl time.Duration, bytes Bytes) *lot {
	return &lot{max: most, ttl: ttl, bytes: bytes, waiting: make(map[string]place)}
}

var errLotFull = errors.New("too many exchanges, or too many bytes of them, wait for the broker")

// put parks an exchange. The message is copied, since what it aliases belongs to the rim.
func (l *lot) put(x *Exchange, m *jsonrpc.Message) (ticket string, err error) {
	p := &Parked{Exchange: x, done: func() {}}
	if m != nil {
		if n := int64(len(m.Body) + x.asking.size()); l.bytes != nil {
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
		p.Message = m.Clone()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) >= l.max {
		return "", errLotFull
	}
	ticket = rand.Text()
	l.waiting[ticket] = place{p, time.AfterFunc(l.ttl, func() {
		if p := l.take(ticket); p != nil { // nobody comes: its client has gone
			p.forgo()
			p.Done()
		}
	})}
	return ticket, nil
}

// take hands out the exchange of a ticket; nil where there is none, or none any more.
func (l *lot) take(ticket string) *Parked {
	l.mu.Lock()
	defer l.mu.Unlock()
	w, ok := l.waiting[ticket]
	if !ok {
		return nil
	}
	delete(l.waiting, ticket)
	w.expiry.Stop()
	return w.p
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
