package stdio

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// maxSessions bounds the handles over a shared child; it exceeds the gateway's own bound of sessions.
const maxSessions = 1 << 16

// session is one Mcp-Session-Id of a legacy child: a handle over the shared child, or a child of its own.
type session struct {
	id    string
	count *counters

	mu     sync.Mutex
	own    *link // nil for a handle; set before the session gets its first message
	used   time.Time
	busy   int                 // calls and streams that are open
	queue  chan []byte         // messages for the GET stream; a handle has one while its stream is open
	detach chan struct{}       // closed to end the GET stream that is open; nil if none is
	asked  map[string]struct{} // ids of the child's requests that the client has not answered
	ended  chan struct{}
	once   sync.Once
}

// newSession makes a handle, or with own the session of a child that is about to start.
func newSession(count *counters, own bool) *session {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	x := &session{id: hex.EncodeToString(id[:]), count: count, used: time.Now(), ended: make(chan struct{})}
	if own {
		x.queue, x.asked = make(chan []byte, maxEvents), make(map[string]struct{})
	}
	return x
}

// child is the session's own child, nil for a handle.
func (x *session) child() *link {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.own
}

// end closes the session's streams. It may be called more than once.
func (x *session) end() { x.once.Do(func() { close(x.ended) }) }

// enter and leave bracket every use, so that the reaper takes only what is idle.
func (x *session) enter() {
	x.mu.Lock()
	x.busy++
	x.mu.Unlock()
}

func (x *session) leave() {
	x.mu.Lock()
	x.busy--
	x.used = time.Now()
	x.mu.Unlock()
}

func (x *session) idleSince() (time.Time, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.used, x.busy == 0
}

// attach makes the caller the session's GET stream; an older stream ends, since its client may be gone without our knowledge.
func (x *session) attach() (messages <-chan []byte, detached <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.detach != nil {
		close(x.detach)
	}
	x.detach = make(chan struct{})
	if x.queue == nil {
		x.queue = make(chan []byte, maxEvents)
	}
	return x.queue, x.detach
}

// release undoes attach, unless another stream has taken over.
func (x *session) release(detached <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.detach == detached {
		x.detach = nil
		if x.own == nil {
			x.queue = nil // a handle keeps nothing for a client that does not listen
		}
	}
}

// push gives a message to the GET stream. It reports false where there is no room, or no stream at a handle.
func (x *session) push(message []byte) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	select {
	case x.queue <- message: // a nil queue never takes
		return true
	default:
		return false
	}
}

// request relays a child's own request to the client, or answers a ping at once.
func (x *session) request(m *jsonrpc.Message) []byte {
	if m.Method == mcp.MethodPing {
		return jsonrpc.Result(m.ID, nil)
	}
	id := string(m.ID)
	x.mu.Lock()
	_, twice := x.asked[id]
	full := len(x.asked) >= maxAsked
	if !twice && !full {
		x.asked[id] = struct{}{}
	}
	x.mu.Unlock()
	if twice || full {
		return jsonrpc.Failure(m.ID, mcp.CodeInternal, "too many requests are open, or this id is", nil)
	}
	if !x.relay(m.Body) {
		x.answered(m.ID)
		return jsonrpc.Failure(m.ID, mcp.CodeInternal, "the client has no stream that takes the request", nil)
	}
	return nil
}

// answered reports whether the child waits for an answer to the id, and forgets it.
func (x *session) answered(id []byte) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, ok := x.asked[string(id)]
	delete(x.asked, string(id))
	return ok
}

// notify relays a notification. What tells of the server as a whole goes to the GET stream, the rest to where a request would.
func (x *session) notify(m *jsonrpc.Message) {
	ok := false
	switch m.Method {
	case mcp.NotifyToolsChanged, mcp.NotifyPromptsChanged, mcp.NotifyResourcesChanged, mcp.NotifyResourceUpdated:
		ok = x.push(m.Body)
	default:
		ok = x.relay(m.Body)
	}
	if !ok {
		x.count.notifications.Add(1)
	}
}

// relay puts a message on exactly one stream: that of the only call that is open, else the GET stream, else that of the newest call.
// The protocol does not say which call a child's message belongs to.
func (x *session) relay(message []byte) bool {
	x.mu.Lock()
	l, listening := x.own, x.detach != nil
	x.mu.Unlock()
	var newest *call
	n := 0
	if l != nil {
		newest, n = l.callers()
	}
	if n == 0 || n > 1 && listening {
		return x.push(message)
	}
	select {
	case newest.events <- message:
		return true
	default:
		return false
	}
}

// shared is the peer of a child that serves all. Nothing that it asks has a client to go to, and of what it tells only the changes of
// its lists concern everybody; the rest cannot be attributed to one caller, so that no caller may see it.
type shared struct {
	s     *Server
	words *boundedLog
}

func (h shared) request(m *jsonrpc.Message) []byte {
	if m.Method == mcp.MethodPing {
		return jsonrpc.Result(m.ID, nil)
	}
	return jsonrpc.Failure(m.ID, mcp.CodeMethodNotFound, fmt.Sprintf("%s is not available: the server is shared by many clients", m.Method), nil)
}

func (h shared) notify(m *jsonrpc.Message) {
	switch m.Method {
	case mcp.NotifyToolsChanged, mcp.NotifyPromptsChanged, mcp.NotifyResourcesChanged:
		h.s.broadcast(m.Body)
	case mcp.NotifyMessage:
		h.words.line(m.Body, false)
	default:
		h.s.count.notifications.Add(1)
	}
}
