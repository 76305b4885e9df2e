// Package session holds what the gateway remembers of a legacy client between its requests (MCP 2025-11-25 and earlier,
// "Session Management"), and the Store that keeps it. A session id is 128 random bits and means nothing by itself: whatever a
// session may do hangs on the principal and the endpoint it was made for, and the Store hands it to no one else.
package session

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"time"

	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// Owner is whom a session belongs to. Both must agree or the session does not exist for the asker.
type Owner struct {
	Principal string // identity.Principal.Key
	Endpoint  string // the endpoint's path
}

// Session is one client's session at one moment. It is an immutable value: a Store hands the same pointer to many readers, and a
// change makes a new one (Store.Update). No holder may write to its map or slices.
type Session struct {
	ID string // what the client sends as Mcp-Session-Id; from NewID
	Owner
	Revision           mcp.Revision // as negotiated by initialize
	ClientCapabilities []byte       // JSON object as the client sent it in initialize
	ClientInfo         []byte       // JSON object as the client sent it; a claim, never trusted
	Initialized        bool         // the client has sent notifications/initialized
	LogLevel           string       // of logging/setLevel; empty = the client has not asked
	Labels             []string     // what rules have marked it with; in order, at most MaxLabels

	Upstream map[string]Upstream // by server name; made lazily

	Created time.Time
	Expires time.Time // the latest end, however busy the session is
}

// Upstream is the session that the gateway holds at one server on behalf of this one.
type Upstream struct {
	ID       string       // the server's Mcp-Session-Id; empty when the server gave none. Never shown to the client
	Revision mcp.Revision // as negotiated with that server
	Of       string       // version of the server's configuration then
}

// New makes a session with a fresh id that lasts for ttl at most; the caller fills in what the client said before Store.Create.
func New(o Owner, r mcp.Revision, now time.Time, ttl time.Duration) *Session {
	return &Session{ID: NewID(), Owner: o, Revision: r, Created: now, Expires: now.Add(ttl)}
}

// NewID makes a session id: 130 random bits in base32, visible ASCII as the specification asks.
func NewID() string { return rand.Text() }

// MaxSize is the most that one session may hold, in bytes as Size counts them.
const MaxSize = 64 << 10

// Errors of a Store that are the caller's doing. The Store keeps what it had.
var (
	ErrTooLarge = errors.New("session is too large") // it would exceed MaxSize
	ErrExists   = errors.New("session exists")       // its id is taken
)

// Size is roughly the memory the session takes, in bytes: its strings and a fixed sum for what holds them.
func (s *Session) Size() int {
	n := 512 + len(s.ID) + len(s.Principal) + len(s.Endpoint) + len(s.ClientCapabilities) + len(s.ClientInfo) + len(s.LogLevel)
	for name, u := range s.Upstream {
		n += 112 + len(name) + len(u.ID) + len(u.Of)
	}
	for _, l := range s.Labels {
		n += 16 + len(l)
	}
	return n
}

// With returns a copy of s that remembers u for a server. It is meant for the change function of Store.Update.
func (s *Session) With(server string, u Upstream) *Session {
	c := *s
	c.Upstream = maps.Clone(s.Upstream)
	if c.Upstream == nil {
		c.Upstream = make(map[string]Upstream, 1)
	}
	c.Upstream[server] = u
	return &c
}

// Without returns a copy of s that has forgotten its session at a server.
func (s *Session) Without(server string) *Session {
	c := *s
	c.Upstream = maps.Clone(s.Upstream)
	delete(c.Upstream, server)
	return &c
}

// Store keeps sessions. All methods may be called at once from many goroutines. An error means that the store itself failed; that
// a session does not exist is never an error, and unknown, expired, deleted and foreign all look the same.
type Store interface {
	// Create keeps a new session until its Expires or until it has been idle too long. It may end older sessions of the same
	// principal to make room. The error is ErrTooLarge, ErrExists or the store's own.
	Create(ctx context.Context, s *Session) error
	// Get returns the session, or nil. It counts as use: whoever holds a stream open for a session calls it now and then, and
	// ends the stream when the answer is nil.
	Get(ctx context.Context, id string, o Owner) (*Session, error)
	// Update replaces a session by what change makes of it, in one step that no other Update can fall into; it returns the
	// new session, or nil when there is none. change is given the current value, must not alter it, and returns a changed copy;
	// returning nil or its argument leaves all as it is. It must be quick and free of effects, since a store may call it more
	// than once. ID, Owner, Created and Expires cannot change. Update counts as use.
	Update(ctx context.Context, id string, o Owner, change func(*Session) *Session) (*Session, error)
	// Delete ends a session and says whether there was one.
	Delete(ctx context.Context, id string, o Owner) (bool, error)
}
