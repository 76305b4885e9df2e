package broker

import (
	"bytes"
	"context"
	"crypto/rand"
	"strconv"
	"sync"

	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/session"
)

const (
	maxCalls   = 1024    // calls of one session under way
	maxPending = 256     // requests of servers that one session has not answered
	maxWord    = 1 << 10 // bytes of a server's id or progress token; more than any server needs
)

// state is what the broker remembers of a client session beside the store: who waits for what. It is lost with the process, as the
// connections are that it speaks of.
type state struct {
	users int // exchanges under way; Broker.mu guards it

	mu      sync.Mutex          // guards all below
	pending map[string]pending  // requests of servers, by the id the client sees
	calls   map[string]running  // the client's calls, by JSON text of their id
	letters map[string][]letter // what waits for a server; present while somebody sends to it
	changed chan struct{}       // closed when an upstream session was made
}

// pending is a server's request that the client has to answer.
type pending struct {
	server string
	id     []byte // the server's own id, JSON text
	token  []byte // progressToken that the server gave with it, JSON text
	call   string // the call it was asked in, as [call.key] names it

	reply chan<- gateway.Answer // of the gateway's own question; has room for the one answer
}

// running is a call of the client.
type running struct {
	server string
	cancel context.CancelFunc // of a bridged call, whose stream's end is its cancellation; nil for a relayed one

	redaction *gateway.Redaction // of what the server says meanwhile; nil for none
}

// enter finds or makes the state of a session and holds it until leave. It lives as long as any exchange of the session is under way:
// what a server asks, it asks on a stream that is open.
func (b *Broker) enter(id string) *state {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[id]
	if s == nil {
		s = &state{pending: map[string]pending{}, calls: map[string]running{}, letters: map[string][]letter{}, changed: make(chan struct{})}
		b.sessions[id] = s
	}
	s.users++
	return s
}

func (b *Broker) leave(id string, s *state) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.users--; s.users == 0 {
		delete(b.sessions, id)
	}
}

// maxForgets bounds the upstream sessions that are being ended at once.
const maxForgets = 32

// Ended wakes the streams of a session that is over, and ends what the gateway held at servers on its behalf. It is the session
// store's to call, and returns at once.
func (b *Broker) Ended(s *session.Session) {
	b.mu.Lock()
	st := b.sessions[s.ID]
	b.mu.Unlock()
	if st != nil {
		st.signal()
	}
	for server, u := range s.Upstream {
		if u.ID != "" {
			go b.safely(func() { b.forget(server, u) })
		}
	}
}

// ask notes a server's request and returns the id under which the client will see it. It never repeats: an answer that comes late must
// not reach another server.
func (s *state) ask(p pending) (client []byte, ok bool) {
	if len(p.id) > maxWord || len(p.token) > maxWord {
		return nil, false
	}
	client = strconv.AppendQuote(nil, rand.Text())
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) >= maxPending {
		return nil, false
	}
	p.id, p.token = bytes.Clone(p.id), bytes.Clone(p.token) // the message they stand in is long
	s.pending[string(client)] = p
	return client, true
}

// answered takes a server's request out.
func (s *state) answered(id []byte) (pending, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.pending[string(id)]
	delete(s.pending, string(id))
	return p, ok
}

// unanswered puts a server's request back.
func (s *state) unanswered(id []byte, p pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending[string(id)] = p
}

// over forgets what a server has asked in a call, or outside of calls, that has ended. The lock is held.
func (s *state) over(server, call string) {
	for k, p := range s.pending {
		if p.server == server && p.call == call {
			delete(s.pending, k)
		}
	}
}

// unfollowed forgets what a server has asked outside of calls.
func (s *state) unfollowed(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over(server, "")
}

// asker finds who gave a progress token.
func (s *state) asker(token []byte) (server string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pending {
		if len(token) > 0 && bytes.Equal(p.token, token) {
			return p.server, true
		}
	}
	return "", false
}

// waits reports whether a server has asked in a call what the client has not answered.
func (s *state) waits(server, call string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pending {
		if p.server == server && p.call == call {
			return true
		}
	}
	return false
}

// withdraw forgets a server's request by its own id, and returns the id that the client knows.
func (s *state) withdraw(server string, id []byte) (clientID []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, p := range s.pending {
		if p.server == server && bytes.Equal(p.id, id) {
			delete(s.pending, k)
			return []byte(k), true
		}
	}
	return nil, false
}

// begin notes a call; end forgets it, and what was asked in it.
func (s *state) begin(id []byte, r running) (end func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := string(id)
	if _, twice := s.calls[key]; twice || len(s.calls) >= maxCalls {
		return nil, false
	}
	s.calls[key] = r
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.calls, key)
		s.over(r.server, key)
	}, true
}

func (s *state) call(id []byte) (running, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.calls[string(id)]
	return r, ok
}

// signal wakes the session's GET streams.
func (s *state) signal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *state) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}
