package decision

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// Ruled is one ruling that is kept, with all it takes to explain it later.
type Ruled struct {
	Question *policy.Question // without Arguments where they were too long: see ArgumentBytes
	Ruling   policy.Ruling    // without Obligations and Err: both may repeat long arguments, and the engine gives them again
	Engine   policy.Engine    // that ruled
	Snapshot string           // version of the world in which it ruled
	At       time.Time

	// ArgumentBytes is the length of the arguments as they were sent.
	ArgumentBytes int
}

// Whole reports whether the question is what was asked.
func (r *Ruled) Whole() bool { return r.ArgumentBytes == len(r.Question.Arguments) }

// Bounds of what is kept beside number and time.
const (
	// MaxArguments is the longest text of arguments that is kept with a question.
	MaxArguments = 64 << 10
	// MaxBytes is about the memory that all questions may take.
	MaxBytes = 64 << 20
	// MaxEngines is how many policies may be kept for the sake of their rulings, the one in force included. Each holds its compiled
	// rules and its data, as long as one of its rulings is kept: 0.3 MB for the policy of the quick start, 5 MB for 400 rules with 10,000
	// grants. What it remembered of rulings it gives up when another takes its place (opa.Engine.Forget).
	MaxEngines = 4
)

// Recent keeps the last rulings by decision id, within a number, a time, [MaxBytes] and [MaxEngines]; the oldest go first. The zero value
// keeps nothing until it is told how much. All methods are safe for concurrent use.
type Recent struct {
	keeps atomic.Bool
	now   func() time.Time // nil: time.Now

	mu      sync.Mutex // guards all below
	max     int
	age     time.Duration
	bytes   int
	byID    map[string]*kept
	queue   []*kept // a ring, oldest first
	head, n int
	engines []counted
	items   map[*catalog.Item]int // how many rulings are about each: a server may define anew what it offers, as often as it likes
}

// kept is a place in the queue; ruled is nil once a later ruling has the same id.
type kept struct {
	ruled *Ruled
	at    time.Time
	bytes int
}

// counted is an engine and how many rulings of it are kept, in the order in which they were first seen.
type counted struct {
	engine policy.Engine
	n      int
}

// Bound says how many rulings to keep from now on, and how long; 0 of either keeps none.
func (r *Recent) Bound(number int, age time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if age <= 0 {
		number = 0
	}
	r.max, r.age = number, age
	r.keeps.Store(number > 0)
	r.trim(r.time())
}

// Keeps reports whether anything is kept, so that whoever asks need not copy a question in vain.
func (r *Recent) Keeps() bool { return r.keeps.Load() }

// Add keeps a ruling under the question's request id, in place of an earlier one of that id. The question is Recent's from now on: a
// clone. An id that is empty is not kept.
func (r *Recent) Add(q *policy.Question, ruling *policy.Ruling, engine policy.Engine, snapshot string) {
	if !r.keeps.Load() || q.Context.RequestID == "" {
		return
	}
	x := &Ruled{Question: q, Ruling: *ruling, Engine: engine, Snapshot: snapshot, ArgumentBytes: len(q.Arguments)}
	x.Ruling.Obligations, x.Ruling.Err = nil, nil
	if len(q.Arguments) > MaxArguments {
		short := *q
		short.Arguments = nil
		x.Question = &short
	}
	k := &kept{ruled: x, bytes: x.size()}

	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.time()
	x.At, k.at = now, now
	if r.byID == nil {
		r.byID, r.items = map[string]*kept{}, map[*catalog.Item]int{}
	}
	if old := r.byID[q.Context.RequestID]; old != nil {
		r.forget(old)
	}
	r.byID[q.Context.RequestID] = k
	r.compact()
	r.push(k)
	r.bytes += k.bytes
	if r.items[q.Item]++; r.items[q.Item] == 1 {
		r.bytes += itemBytes(q.Item)
	}
	r.count(engine)
	r.trim(now)
}

// Get finds a ruling that is kept. What it returns is shared: nobody changes it.
func (r *Recent) Get(id string) *Ruled {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trim(r.time())
	if k := r.byID[id]; k != nil {
		return k.ruled
	}
	return nil
}

// Bounds are the number and the time that hold now.
func (r *Recent) Bounds() (number int, age time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.max, r.age
}

// Len is how many rulings are kept, and Bytes about how much memory they take.
func (r *Recent) Len() (rulings, bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.byID), r.bytes
}

// Run lets go of what is too old, also when no call comes, until ctx ends.
func (r *Recent) Run(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.mu.Lock()
			r.trim(r.time())
			r.mu.Unlock()
		}
	}
}

func (r *Recent) time() time.Time {
	if r.now != nil {
		return r.now()
	}
	return time.Now()
}

// size is about what a ruling takes.
func (r *Ruled) size() int { return sizeOf(r.Question, &r.Ruling) + len(r.Snapshot) }

// itemBytes is about what an item takes, whoever else has it.
func itemBytes(i *catalog.Item) int { return len(i.Definition) + len(i.Claimed) + len(i.Annotations) }

// sizeOf is about what a question and its ruling take. Principals are counted whole, though rulings share them. What rules make of
// arguments, as a rewrite or a message, may be as long as these are.
func sizeOf(q *policy.Question, r *policy.Ruling) int {
	const fixed = 1024 // question, ruling, principal, the places in map and queue
	n := fixed + len(q.Arguments) + len(q.URI) + len(q.Subject.Claims)
	for _, l := range q.Context.Labels {
		n += 16 + len(l)
	}
	for _, why := range r.Reasons {
		n += 32 + len(why.Message)
	}
	if r.Err != nil {
		n += len(r.Err.Error())
	}
	if o := r.Obligations; o != nil {
		for _, list := range [...][]policy.Change{o.Rewrite, o.Redact} {
			for _, c := range list {
				n += 96 + len(c.Path) + len(c.Pattern) + len(c.Value) + len(c.With)
			}
		}
		for _, l := range o.Label {
			n += 16 + len(l)
		}
	}
	return n
}

// trim lets go of the oldest until all bounds hold. r.mu is held.
func (r *Recent) trim(now time.Time) {
	for r.n > 0 {
		k := r.queue[r.head]
		if k.ruled != nil && len(r.byID) <= r.max && r.bytes <= MaxBytes && len(r.engines) <= MaxEngines && now.Sub(k.at) < r.age {
			return
		}
		r.queue[r.head] = nil
		r.head = (r.head + 1) % len(r.queue)
		r.n--
		if k.ruled != nil {
			delete(r.byID, k.ruled.Question.Context.RequestID)
			r.forget(k)
		}
	}
	r.queue, r.head = nil, 0
}

// forget empties a place. r.mu is held.
func (r *Recent) forget(k *kept) {
	for i := range r.engines {
		if r.engines[i].engine == k.ruled.Engine {
			if r.engines[i].n--; r.engines[i].n == 0 {
				r.engines = slices.Delete(r.engines, i, i+1)
			}
			break
		}
	}
	r.bytes -= k.bytes
	i := k.ruled.Question.Item
	if r.items[i]--; r.items[i] == 0 {
		r.bytes -= itemBytes(i)
		delete(r.items, i)
	}
	k.ruled = nil
}

func (r *Recent) count(e policy.Engine) {
	for i := range r.engines {
		if r.engines[i].engine == e {
			r.engines[i].n++
			return
		}
	}
	r.engines = append(r.engines, counted{e, 1})
}

// compact gives up the empty places of a full ring once they are half of it: a stream asks again and again under one id, as often as a
// server likes. r.mu is held.
func (r *Recent) compact() {
	if r.n < len(r.queue) || r.n < 2*len(r.byID) {
		return
	}
	n := 0
	for i := range r.n {
		if k := r.queue[(r.head+i)%len(r.queue)]; k.ruled != nil {
			r.queue[(r.head+n)%len(r.queue)] = k
			n++
		}
	}
	for i := n; i < r.n; i++ {
		r.queue[(r.head+i)%len(r.queue)] = nil
	}
	r.n = n
}

// push puts a place at the end of the ring, which grows as it fills.
func (r *Recent) push(k *kept) {
	if r.n == len(r.queue) {
		grown := make([]*kept, max(64, 2*len(r.queue)))
		for i := range r.n {
			grown[i] = r.queue[(r.head+i)%len(r.queue)]
		}
		r.queue, r.head = grown, 0
	}
	r.queue[(r.head+r.n)%len(r.queue)] = k
	r.n++
}
