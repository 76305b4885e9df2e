// Package approval remembers what humans are asked about calls, and what they answered.
//
// A question is bound to one principal, one call (endpoint, item, action, URI and the arguments' text, as [Digest] sees them), one
// revision of policy and the reasons that were shown. A user answers it by the id that went out with it; an operator finds it in a
// list. An answer counts for one call, and expires. A call that the server itself takes through several rounds stays one call: see
// [Grant.Continue].
//
// The store lives in memory, since a question that is lost is asked again. Nothing is ever thrown out to make room: who asks too
// much is refused.
package approval

import (
	"cmp"
	"container/heap"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"
)

// Limits bound what is remembered. All must be positive.
type Limits struct {
	Expiry       time.Duration // of a question, and of a yes that was not used
	Max          int           // questions and answers in all
	PerPrincipal int
}

// Binding is what an answer is worth something for. Two calls with equal bindings are the same call to a human.
type Binding struct {
	Principal string   // identity.Principal.Key
	Call      [32]byte // of Digest
	Revision  string   // of policy and data
	Asked     [32]byte // of Digest: the reasons
}

// Digest is SHA-256 over texts, each with its length, so that no two lists of texts are alike. Arguments go in byte for byte: the same
// value in another spelling is another call, which asks once too often and never once too little.
func Digest(texts ...[]byte) (d [32]byte) {
	h := sha256.New()
	var n [8]byte
	for _, t := range texts {
		binary.BigEndian.PutUint64(n[:], uint64(len(t)))
		_, _ = h.Write(n[:]) // a hash never fails
		_, _ = h.Write(t)
	}
	h.Sum(d[:0])
	return d
}

// About is what a human is told of a call. Its texts are bounded by whoever makes it.
type About struct {
	Principal string   `json:"principal"`
	Type      string   `json:"type"`
	Tenant    string   `json:"tenant,omitempty"`
	Client    string   `json:"client,omitempty"`
	Address   string   `json:"address,omitempty"`
	Endpoint  string   `json:"endpoint"`
	Action    string   `json:"action"`
	Server    string   `json:"server"`
	Item      string   `json:"item"`
	URI       string   `json:"uri,omitempty"`
	Arguments string   `json:"arguments,omitempty"` // of Show
	Reasons   []string `json:"reasons"`
	Decision  string   `json:"decision_id"` // of the exchange that asked
}

// State is how far a question has come.
type State string

// The states of a question that an operator sees.
const (
	Pending  State = "pending"
	Approved State = "approved" // and not used yet
	Denied   State = "denied"
)

// Question is one question to an operator.
type Question struct {
	ID    string `json:"id"`
	State State  `json:"state"`
	By    string `json:"by,omitempty"` // the operator who answered
	About
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`
	Revision string    `json:"revision"`
}

// What a store refuses with.
var (
	ErrFull      = errors.New("too many calls wait for a confirmation")
	ErrPrincipal = errors.New("too many calls of this caller wait for a confirmation")
	ErrUnknown   = errors.New("there is no such question: it was answered and used, it has expired, or it never was")
	ErrOther     = errors.New("the question was about another call")
	ErrChanged   = errors.New("the policy or its reasons have changed since the question was asked")
)

// Store keeps questions. It is safe for concurrent use.
type Store struct {
	now func() time.Time

	mu        sync.Mutex // guards all below
	byID      map[string]*entry
	operator  map[Binding]*entry // questions to operators
	rounds    map[round]*entry   // calls whose server has asked for more
	principal map[string]int     // how many entries each principal has
	expiring  expiring
}

// round is a call that waits for its client to come back with what the server asked for.
type round struct {
	principal string
	call      [32]byte
	state     [32]byte // Digest of the requestState that the server gave
}

// entry is one question, one answer, or one call under way.
type entry struct {
	id      string
	binding Binding
	about   About
	state   State
	by      string // who answered; "" for the user
	user    bool   // the client's own user is asked
	held    bool   // a Grant holds it: no one else can use it
	round   round  // under which it waits; zero where it does not
	count   int    // how often the client came back
	created time.Time
	lasts   time.Duration // of the question, and then of its answer
	expires time.Time
	index   int // in expiring; -1 when it is gone
}

// New makes an empty store. A nil clock is the system's.
func New(now func() time.Time) *Store {
	if now == nil {
		now = time.Now
	}
	return &Store{now: now, byID: map[string]*entry{}, operator: map[Binding]*entry{}, rounds: map[round]*entry{}, principal: map[string]int{}}
}

// Ask makes a question to the client's own user. The id is the only way to it.
func (s *Store) Ask(b Binding, l Limits) (id string, expires time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.add(b, l)
	if err != nil {
		return "", time.Time{}, err
	}
	e.user = true
	return e.id, e.expires, nil
}

// Answer takes a user's question out: yes gives the call its grant, no gives none. The errors are ErrUnknown, also for a question of
// another principal; ErrOther, and the question stays for the call it is about; ErrChanged, and it is gone.
func (s *Store) Answer(id string, b Binding, yes bool) (*Grant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	e := s.byID[id]
	switch {
	case e == nil || !e.user || e.held || e.binding.Principal != b.Principal:
		return nil, ErrUnknown
	case e.binding.Call != b.Call:
		return nil, ErrOther
	case e.binding != b:
		s.remove(e)
		return nil, ErrChanged
	case !yes:
		s.remove(e)
		return nil, nil
	}
	delete(s.byID, id)
	e.count++
	s.renew(e)
	return s.hold(e), nil
}

// Withdraw forgets a user's question that nobody waits for any more.
func (s *Store) Withdraw(id, principal string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.byID[id]; e != nil && e.user && e.binding.Principal == principal {
		s.remove(e)
	}
}

// Waiting reports whether a user's question about this very call waits for its answer, and until when.
func (s *Store) Waiting(id string, b Binding) (expires time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	e := s.byID[id]
	switch {
	case e == nil || !e.user || e.binding.Principal != b.Principal:
		return time.Time{}, ErrUnknown
	case e.binding.Call != b.Call:
		return time.Time{}, ErrOther
	case e.binding != b:
		s.remove(e)
		return time.Time{}, ErrChanged
	}
	return e.expires, nil
}

// Request makes, or finds, the question to an operator. Its state says what has become of it; with Approved comes the grant, and the
// answer is used up.
func (s *Store) Request(b Binding, about About, l Limits) (q Question, g *Grant, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	e := s.operator[b]
	if e == nil {
		if e, err = s.add(b, l); err != nil {
			return q, nil, err
		}
		e.about = about
		s.operator[b] = e
	}
	if q = e.question(); e.state == Approved {
		delete(s.byID, e.id)
		delete(s.operator, b)
		g = s.hold(e)
	}
	return q, g, nil
}

// List is every question to operators, the oldest first.
func (s *Store) List() []Question {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	out := make([]Question, 0, len(s.operator))
	for _, e := range s.operator {
		out = append(out, e.question())
	}
	slices.SortFunc(out, func(a, b Question) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
	return out
}

// Decide answers a question to an operator, or answers it anew while the answer was not used. revision is that of the policy in force: a
// question of another one is ErrChanged, since no call could use its answer. The answer lasts as long as a new question would.
func (s *Store) Decide(id, operator string, yes bool, revision string) (Question, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	e := s.byID[id]
	switch {
	case e == nil || e.user:
		return Question{}, ErrUnknown
	case e.binding.Revision != revision:
		return Question{}, ErrChanged
	}
	if e.state, e.by = Denied, operator; yes {
		e.state = Approved
	}
	s.renew(e)
	return e.question(), nil
}

// Resume finds the call that a server has taken into another round: it had told its client this state, and nobody came back with it
// yet. Without one the call is a new one: ErrUnknown. ErrChanged: a human has to be asked anew.
func (s *Store) Resume(b Binding, state [32]byte) (*Grant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	e := s.rounds[round{b.Principal, b.Call, state}]
	switch {
	case e == nil:
		return nil, ErrUnknown
	case e.binding != b:
		s.remove(e)
		return nil, ErrChanged
	}
	delete(s.rounds, e.round)
	e.round = round{}
	e.count++
	return s.hold(e), nil
}

// Round is how often the client came back so far, for a call that it comes back with now: by the id of a question or the state of a
// server. 0 where neither is known.
func (s *Store) Round(id, principal string, call, state [32]byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	e := s.byID[id]
	if id == "" {
		e = s.rounds[round{principal, call, state}]
	}
	if e == nil || e.binding.Principal != principal || e.binding.Call != call {
		return 0
	}
	return e.count + 1
}

// Len is how many questions, answers and calls under way there are.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	return len(s.expiring)
}

// Grant lets one call pass. Whoever got it calls Done when the call has ended, whatever became of it; Continue before that where the
// server wants another round.
type Grant struct {
	By   string // the operator who approved; "" for the user
	s    *Store
	e    *entry
	once sync.Once
}

// Continue keeps the grant for the client that comes back with a server's state, until it expires. Where that cannot be, because
// another call waits for the same state, a human is asked again.
func (g *Grant) Continue(state [32]byte) {
	g.once.Do(func() {
		g.s.mu.Lock()
		defer g.s.mu.Unlock()
		g.s.expire()
		r := round{g.e.binding.Principal, g.e.binding.Call, state}
		if g.e.index < 0 {
			return // it has expired under way
		}
		if g.s.rounds[r] != nil {
			g.s.remove(g.e)
			return
		}
		g.e.held, g.e.round = false, r
		g.s.rounds[r] = g.e
	})
}

// Done ends the grant; after Continue, and twice, it does nothing. A nil grant is none.
func (g *Grant) Done() {
	if g == nil {
		return
	}
	g.once.Do(func() {
		g.s.mu.Lock()
		defer g.s.mu.Unlock()
		if g.e.index >= 0 {
			g.s.remove(g.e)
		}
	})
}

// The functions below want the lock.

func (s *Store) add(b Binding, l Limits) (*entry, error) {
	s.expire()
	switch {
	case s.principal[b.Principal] >= l.PerPrincipal:
		return nil, ErrPrincipal
	case len(s.expiring) >= l.Max:
		return nil, ErrFull
	}
	now := s.now()
	e := &entry{id: rand.Text(), binding: b, state: Pending, created: now, lasts: l.Expiry, expires: now.Add(l.Expiry)}
	s.byID[e.id] = e
	s.principal[b.Principal]++
	heap.Push(&s.expiring, e)
	return e, nil
}

func (s *Store) renew(e *entry) {
	e.expires = s.now().Add(e.lasts)
	heap.Fix(&s.expiring, e.index)
}

func (s *Store) hold(e *entry) *Grant {
	e.held = true
	return &Grant{By: e.by, s: s, e: e}
}

func (s *Store) remove(e *entry) {
	heap.Remove(&s.expiring, e.index)
	s.forget(e)
}

func (s *Store) forget(e *entry) {
	if s.byID[e.id] == e {
		delete(s.byID, e.id)
	}
	if s.operator[e.binding] == e {
		delete(s.operator, e.binding)
	}
	if s.rounds[e.round] == e {
		delete(s.rounds, e.round)
	}
	if s.principal[e.binding.Principal]--; s.principal[e.binding.Principal] == 0 {
		delete(s.principal, e.binding.Principal)
	}
}

func (s *Store) expire() {
	now := s.now()
	for len(s.expiring) > 0 && !now.Before(s.expiring[0].expires) {
		s.forget(heap.Pop(&s.expiring).(*entry))
	}
}

func (e *entry) question() Question {
	return Question{ID: e.id, State: e.state, By: e.by, About: e.about, Created: e.created, Expires: e.expires, Revision: e.binding.Revision}
}

// expiring is a heap of all entries by their end.
type expiring []*entry

func (h expiring) Len() int           { return len(h) }
func (h expiring) Less(i, j int) bool { return h[i].expires.Before(h[j].expires) }
func (h expiring) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *expiring) Push(x any) {
	e := x.(*entry)
	e.index = len(*h)
	*h = append(*h, e)
}

func (h *expiring) Pop() any {
	n := len(*h) - 1
	e := (*h)[n]
	(*h)[n] = nil
	*h = (*h)[:n]
	e.index = -1
	return e
}
