package broker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/sse"
)

// What policy redacts is redacted here: the answer of a call, and whatever its server says while the call runs, on any stream of the session:
// many servers tell of a call on their standing stream. What comes there after the call is no part of it; a result reaches nobody there.

// errKept says that a message is not for the client, since it could not be redacted.
var errKept = errors.New("kept back")

// redacted is a server's message as the client of this call may see it. After an error nothing of it is to be shown.
func (c *call) redacted(m *jsonrpc.Message) (*jsonrpc.Message, error) {
	if m.Kind != jsonrpc.Response && c.st != nil {
		return c.b.redact(m, c.st.redactions(c.p.Server))
	}
	if r := c.p.Redaction(); r != nil {
		return c.b.redact(m, []*gateway.Redaction{r})
	}
	return m, nil
}

func (b *Broker) redact(m *jsonrpc.Message, all []*gateway.Redaction) (*jsonrpc.Message, error) {
	for _, r := range all {
		if len(m.Body) > r.Most {
			return nil, fmt.Errorf("%w: %w", errKept, errTooLarge)
		}
		body, err := r.Message(m, b.MaxEvent)
		if err == nil {
			m, err = jsonrpc.Read(body, jsonrpc.Limits{Depth: maxDepth}) // what policy puts in must not make it another message
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errKept, err)
		}
	}
	return m, nil
}

// aside is what a server says on its standing stream, as the client may see it while calls run at the server; nil where it may not.
func (c *call) aside(server string, m *jsonrpc.Message) *jsonrpc.Message {
	shown, err := c.b.redact(m, c.st.redactions(server))
	if err == nil {
		return shown
	}
	c.b.Log.Warn("a message was kept back: policy demands a redaction that cannot be made", "server", server, "error", err)
	if m.Kind == jsonrpc.Request { // else it waits for an answer that never comes
		c.post(gateway.Unredacted(server).Reply(m.ID), server)
	}
	return nil
}

// redactions are those of the calls that run at a server.
func (s *state) redactions(server string) (all []*gateway.Redaction) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.calls {
		if r.server == server && r.redaction != nil {
			all = append(all, r.redaction)
		}
	}
	return all
}

// most is how many bytes one message of the server may have.
func (c *call) most() int {
	if r := c.p.Redaction(); r != nil {
		return min(r.Most, c.b.MaxEvent)
	}
	return c.b.MaxEvent
}

// response reads a JSON answer: what answers this call, as the client may see it.
func (c *call) response(resp *http.Response) (m *jsonrpc.Message, b []byte, err error) {
	if b, err = wholeBody(resp, c.most()); err != nil {
		return nil, nil, err
	}
	if m, err = jsonrpc.Read(b, jsonrpc.Limits{Depth: maxDepth}); err != nil {
		return nil, nil, err
	}
	if m, err = c.redacted(m); err != nil {
		return nil, nil, err
	}
	b, err = c.mine(m)
	return m, b, err
}

// kept is the fault where an answer was too long to be redacted, or could not be read or changed; nil where err says something else.
func (c *call) kept(ctx context.Context, err error) *fault.Error {
	var unread *jsonrpc.Error
	tooLong := errors.Is(err, errTooLarge) || errors.Is(err, sse.ErrTooLarge)
	switch {
	case c.p.Redaction() == nil:
		return nil
	case errors.As(err, &unread):
		err = errors.New("it is no message, or one that two readers may read differently") // the reader's own words name members
	case !tooLong && !errors.Is(err, errKept):
		return nil
	}
	c.b.Log.WarnContext(ctx, "an answer was kept back: policy demands a redaction that cannot be made", "server", c.p.Server,
		"decision_id", c.p.DecisionID, "error", err)
	return gateway.Unredacted(c.p.Server).Wrap(err)
}

// noAnswer is the fault for an answer that is none, or none for the client.
func (c *call) noAnswer(ctx context.Context, status int, err error) *fault.Error {
	if !unauthorized(status) && !down(status) {
		if f := c.kept(ctx, err); f != nil {
			return f
		}
	}
	return gateway.Upstream(c.p.Server, c.reasonOf(ctx, status)).Wrap(err)
}

// cut is the fault for a stream that ended before the response; err is why it could not be read on.
func (c *call) cut(ctx context.Context, err error) *fault.Error {
	if f := c.kept(ctx, err); f != nil {
		return f
	}
	return gateway.Upstream(c.p.Server, ended(ctx)).Wrap(err)
}

// encoded is the fault where an answer that must be redacted comes in an encoding, which nobody asked for; else nil.
func (c *call) encoded(resp *http.Response) *fault.Error {
	e := resp.Header.Get("content-encoding")
	if c.p.Redaction() == nil || e == "" || strings.EqualFold(e, "identity") {
		return nil
	}
	return c.kept(resp.Request.Context(), fmt.Errorf("%w: content encoding %.64q", errKept, e))
}
