package broker

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/mcpgw/mcpgw/pkg/fault"
)

// What a client says outside of calls is accepted at once and sent later, by one goroutine for each server of a session, in order. The
// handler must not do it: once the answer is complete Envoy gives the connection to somebody else's request, which would wait behind it.

const (
	patienceOfTelling = 30 * time.Second // how long a client's message may take to its server
	maxLetters        = 64               // messages of one session that wait for one server
	maxLetterBytes    = 1 << 20          // bytes of them; a single one may be as long as a request
)

// letter is a message that waits for its server, with the exchange it came by.
type letter struct {
	by   *call
	body []byte
}

// post has a message sent to servers of the session. It is false where too much waits for one of them already. The
// exchange must be unpinned.
func (c *call) post(body []byte, servers ...string) bool {
	by := &call{b: c.b, p: c.p, r: c.r, st: c.st}
	all := true
	for _, server := range servers {
		first, ok := c.st.put(server, letter{by, body})
		if first {
			id := c.p.Session.ID
			c.b.enter(id)
			go c.b.safely(func() {
				defer c.b.leave(id, c.st)
				for l, ok := c.st.next(server); ok; l, ok = c.st.next(server) {
					c.b.safely(func() { l.by.deliver(server, l.body) })
				}
			})
		}
		all = all && ok
	}
	return all
}

// full is the fault where post was false.
func full() *fault.Error {
	f := fault.New(fault.Limited, "a server of this session has too many messages to take already")
	f.Header = map[string]string{"retry-after": "10"}
	return f
}

// deliver sends one message. That it did not arrive is for the log: the client has no one to hear it from.
func (c *call) deliver(server string, body []byte) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.r.Context()), patienceOfTelling)
	defer cancel()
	if err := c.tellServer(ctx, server, body); err != nil {
		c.b.Log.WarnContext(ctx, "a client's message did not reach its server", "server", server, "error", err)
	}
}

func (c *call) tellServer(ctx context.Context, server string, body []byte) error {
	up, f := c.upstream(ctx, server)
	if f != nil {
		return f
	}
	status, err := c.tell(ctx, up, body)
	if err == nil && status == http.StatusNotFound && up.ID != "" {
		c.lost(ctx, server, up)
	}
	if err == nil && status >= 300 {
		err = fmt.Errorf("status %d", status)
	}
	return err
}

// put queues a message; first says that nobody sends to this server yet. One that equals a waiting one is not sent twice.
func (s *state) put(server string, l letter) (first, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting, sending := s.letters[server]
	size := len(l.body)
	for _, w := range waiting {
		if bytes.Equal(w.body, l.body) {
			return false, true
		}
		size += len(w.body)
	}
	if len(waiting) == maxLetters || len(waiting) > 0 && size > maxLetterBytes {
		return false, false
	}
	s.letters[server] = append(waiting, l)
	return !sending, true
}

// next takes the next message for a server. When it is false nobody sends any more.
func (s *state) next(server string) (letter, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.letters[server]
	if len(waiting) == 0 {
		delete(s.letters, server)
		return letter{}, false
	}
	l := waiting[0]
	waiting[0] = letter{}
	s.letters[server] = waiting[1:]
	return l, true
}
