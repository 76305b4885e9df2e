package limit

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// FailureOptions bound a FailureLimiter. Zero values mean the defaults named here.
type FailureOptions struct {
	Burst     int           // failures an address may make at once; 20
	Every     time.Duration // then one more in this time; 1 s
	Addresses int           // addresses remembered, the least recently failing is forgotten first; 10,000
	Now       func() time.Time
}

// FailureLimiter limits failed credentials per client address with a token bucket each. Only failures cost: an address whose
// credentials are good is never slowed. An address that has used up its bucket is refused before its credential is looked at, so
// that guessing and the signature checks it causes have a price; a neighbour behind the same address pays it too, until the bucket
// refills.
//
// An IPv6 client owns a /64 at least, so those addresses count as one.
type FailureLimiter struct {
	o FailureOptions

	mu     sync.Mutex // guards all below
	byAddr map[netip.Addr]*list.Element
	recent list.List // of *failing, latest failure first
}

type failing struct {
	addr   netip.Addr
	bucket *rate.Limiter
}

// NewFailureLimiter makes a limiter that remembers nobody.
func NewFailureLimiter(o FailureOptions) *FailureLimiter {
	if o.Burst <= 0 {
		o.Burst = 20
	}
	if o.Every <= 0 {
		o.Every = time.Second
	}
	if o.Addresses <= 0 {
		o.Addresses = 10_000
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &FailureLimiter{o: o, byAddr: map[netip.Addr]*list.Element{}}
}

// Blocked says whether an address has failed too often, and how long until it may try again. address is an IP address, with or
// without a port; of anything else (a client on a unix socket has none) nothing is known, and it is never blocked: its clients
// would share one bucket, and one of them could lock out all.
func (f *FailureLimiter) Blocked(address string) (wait time.Duration, blocked bool) {
	addr, ok := parse(address)
	if !ok {
		return 0, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.byAddr[addr]
	if !ok {
		return 0, false
	}
	missing := 1 - e.Value.(*failing).bucket.TokensAt(f.o.Now())
	if missing <= 0 {
		return 0, false
	}
	return time.Duration(missing * float64(f.o.Every)), true
}

// Failed counts one failed credential of an address.
func (f *FailureLimiter) Failed(address string) {
	addr, ok := parse(address)
	if !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.byAddr[addr]
	if ok {
		f.recent.MoveToFront(e)
	} else {
		if f.recent.Len() >= f.o.Addresses {
			delete(f.byAddr, f.recent.Remove(f.recent.Back()).(*failing).addr)
		}
		e = f.recent.PushFront(&failing{addr, rate.NewLimiter(rate.Every(f.o.Every), f.o.Burst)})
		f.byAddr[addr] = e
	}
	e.Value.(*failing).bucket.AllowN(f.o.Now(), 1)
}

// parse reads the part of an address that one client owns.
func parse(address string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return netip.Addr{}, false
		}
		addr = ap.Addr()
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		p, err := addr.Prefix(64)
		if err != nil {
			return netip.Addr{}, false
		}
		addr = p.Addr()
	}
	return addr, true
}
