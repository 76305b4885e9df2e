package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"

	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/sse"
)

// relay serves a legacy client's call at a server that speaks legacy too. Ids are the client's own: the session at the server belongs
// to this client alone. A session that the server lost is made anew, once.
func (c *call) relay() {
	ctx, cancel := c.detached()
	defer cancel()
	end, ok := c.st.begin(c.p.Message.ID, running{server: c.p.Server, redaction: c.p.Redaction()})
	if !ok {
		c.fail(fault.New(fault.Invalid, "a request with this id is under way"))
		return
	}
	defer end()
	ctx, patience := c.patient(ctx)
	defer patience.stop()
	body := c.originBody()
	c.p.Unpin() // a call may last half an hour
	for attempt := 0; ; attempt++ {
		up, f := c.upstream(ctx, c.p.Server)
		if f != nil {
			c.fail(f)
			return
		}
		resp, err := up.Do(ctx, body, c.travel(c.p.Server))
		if err != nil {
			c.fail(c.upstreamFault(ctx, c.p.Server, err))
			return
		}
		patience.hear(resp)
		if resp.StatusCode == http.StatusNotFound && up.ID != "" && attempt == 0 && localFault("", resp) == nil { // whatever else it says
			closeBody(resp)
			c.lost(ctx, c.p.Server, up)
			continue
		}
		c.relayResponse(ctx, resp)
		return
	}
}

// mine is a message that is the response to this call. A server that could not read the id (it then says null) has refused this call all
// the same, since nothing else was in the request.
func (c *call) mine(m *jsonrpc.Message) ([]byte, error) {
	switch {
	case m.Kind != jsonrpc.Response:
		return nil, errors.New("the answer is no response")
	case string(m.ID) == string(c.p.Message.ID):
		c.p.Ended(m) // a server may go on with what a human has confirmed
		return m.Body, nil
	case m.ID == nil:
		b := append([]byte(`{"jsonrpc":"2.0","id":`), c.p.Message.ID...)
		return append(append(append(b, `,"error":`...), m.Error.Raw...), '}'), nil
	}
	return nil, errors.New("the answer has another id")
}

// originBody is the client's message with the server's own name in it.
func (c *call) originBody() []byte {
	m, e := c.p.Message, c.p.Entry
	if e == nil || e.Public == e.Item.Name || c.p.Public != e.Public {
		return m.Body
	}
	v := m.Params.Get("name")
	if m.Method == mcp.MethodComplete {
		v = m.Ref.Get("name")
	}
	if !v.Exists() {
		return m.Body
	}
	return jsonrpc.Splice(m.Body, jsonrpc.Edit{Pos: v.Pos, Len: len(v.Raw), Text: jsonrpc.AppendString(nil, e.Item.Name)})
}

// relayResponse passes a legacy server's answer on.
func (c *call) relayResponse(ctx context.Context, resp *http.Response) {
	defer closeBody(resp)
	f := localFault(c.p.Server, resp)
	if f == nil {
		f = c.encoded(resp)
	}
	if f != nil {
		c.fail(f)
		return
	}
	switch mediaType(resp) {
	case "application/json":
		_, b, err := c.response(resp)
		if err != nil || unauthorized(resp.StatusCode) || down(resp.StatusCode) {
			c.fail(c.noAnswer(ctx, resp.StatusCode, err))
			return
		}
		c.json(b) // a legacy client must not see a 404: it would end its session
	case "text/event-stream":
		if resp.StatusCode != http.StatusOK {
			c.fail(gateway.Upstream(c.p.Server, reasonOf(resp.StatusCode)))
			return
		}
		c.relayStream(ctx, resp)
	default:
		c.fail(gateway.Upstream(c.p.Server, reasonOf(resp.StatusCode)).Wrap(fmt.Errorf("status %d, content type %.64q", resp.StatusCode, resp.Header.Get("content-type"))))
	}
}

// relayStream passes a stream on, message by message, until the call's response. A client that leaves does not end the server's work.
func (c *call) relayStream(ctx context.Context, resp *http.Response) {
	out := c.stream()
	defer out.close()
	done := ctx.Done()
	var why error
	msgs := c.b.messages(ctx, resp.Body, c.most(), &why)
	for {
		select {
		case <-done:
			out.message(gateway.Upstream(c.p.Server, "timeout").Reply(c.p.Message.ID))
			return
		case m, ok := <-msgs:
			if !ok { // cut before the response
				out.message(c.cut(ctx, why).Reply(c.p.Message.ID))
				return
			}
			m, err := c.redacted(m)
			if err != nil {
				out.message(c.cut(ctx, err).Reply(c.p.Message.ID))
				return
			}
			b, last := c.pass(c.p.Server, m)
			if b != nil {
				out.message(b)
			}
			if last {
				return
			}
		}
	}
}

// pass is what a server's message becomes for the client; last reports the response to the call.
func (c *call) pass(server string, m *jsonrpc.Message) (b []byte, last bool) {
	switch m.Kind {
	case jsonrpc.Response:
		if c.p.Message == nil || string(m.ID) != string(c.p.Message.ID) {
			return nil, false // an answer to nothing that was asked
		}
		return m.Body, true
	case jsonrpc.Request:
		id, ok := c.st.ask(pending{server: server, id: m.ID, token: m.Meta.Get(mcp.MetaProgress).Raw, call: c.key()})
		if !ok {
			c.post(fault.New(fault.Limited, "the client has too many requests to answer already").Reply(m.ID), server) // else it waits for an answer that never comes
			return nil, false
		}
		return withID(m, id), false
	}
	switch m.Method {
	case mcp.NotifyToolsChanged, mcp.NotifyPromptsChanged, mcp.NotifyResourcesChanged:
		return nil, false // the gateway tells of its own lists
	case mcp.NotifyResourceUpdated:
		if !c.mayRead(m) {
			return nil, false
		}
	case mcp.NotifyCancelled:
		v := m.Params.Get("requestId")
		id, ok := c.st.withdraw(server, v.Raw)
		if !ok {
			return nil, false
		}
		return jsonrpc.Splice(m.Body, jsonrpc.Edit{Pos: v.Pos, Len: len(v.Raw), Text: id}), false
	}
	return m.Body, false
}

// key names the call in the session's state; "" for a stream outside of calls.
func (c *call) key() string {
	if c.p.Message == nil {
		return ""
	}
	return string(c.p.Message.ID)
}

// withID is a request under another id.
func withID(m *jsonrpc.Message, id []byte) []byte {
	o, err := jsonrpc.Parse(m.Body, jsonrpc.Limits{Depth: maxDepth})
	if err != nil {
		return m.Body // it was read already: it cannot fail
	}
	v := o.Get("id")
	return jsonrpc.Splice(m.Body, jsonrpc.Edit{Pos: v.Pos, Len: len(v.Raw), Text: id})
}

// answer carries a client's response to the server that asked.
func (c *call) answer() {
	p, ok := c.st.answered(c.p.Message.ID)
	if !ok {
		c.fail(fault.New(fault.Invalid, "no server has asked this"))
		return
	}
	if p.reply != nil {
		p.reply <- answerOf(c.p.Message)
		c.status(http.StatusAccepted)
		return
	}
	c.p.Unpin()
	if !c.post(withID(c.p.Message, p.id), p.server) {
		c.st.unanswered(c.p.Message.ID, p)
		c.fail(full())
		return
	}
	c.status(http.StatusAccepted)
}

// notify carries a client's notification to whom it concerns. It is accepted at once, whatever becomes of it.
func (c *call) notify() {
	c.p.Unpin()
	if !c.notified() {
		c.fail(full())
		return
	}
	c.status(http.StatusAccepted)
}

func (c *call) notified() bool {
	m := c.p.Message
	switch m.Method {
	case mcp.NotifyCancelled:
		r, ok := c.st.call(m.Params.Get("requestId").Raw)
		switch {
		case !ok:
			return true
		case r.cancel != nil:
			r.cancel()
			return true
		}
		return c.post(m.Body, r.server)
	case mcp.NotifyProgress:
		server, ok := c.st.asker(m.Params.Get(mcp.MetaProgress).Raw)
		return !ok || c.post(m.Body, server)
	default: // roots/list_changed: for every server that the session speaks to
		return c.post(m.Body, slices.Sorted(maps.Keys(c.p.Session.Upstream))...)
	}
}

// setLevel tells the servers of the session; the walk has noted the level already, so whoever is told later hears of it, too.
func (c *call) setLevel() {
	level, _ := c.p.Message.Params.Get("level").Str()
	c.p.Unpin()
	if !c.post(levelRequest(level), slices.Sorted(maps.Keys(c.p.Session.Upstream))...) {
		c.fail(full())
		return
	}
	c.json(jsonrpc.Result(c.p.Message.ID, []byte("{}")))
}

// maxDepth is how deep a server's message may nest: more than a client's, since nobody but the client reads it.
const maxDepth = 256

func mediaType(r *http.Response) string {
	t, _, err := mime.ParseMediaType(r.Header.Get("content-type"))
	if err != nil {
		return ""
	}
	return t
}

// down reports whether a status says that nobody served the request, whatever stands in the body.
func down(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
}

func unauthorized(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// reasonOf says why a body is no answer: it broke off because we gave up, or it is what it is.
func (c *call) reasonOf(ctx context.Context, status int) string {
	if ctx.Err() != nil {
		return "timeout"
	}
	return reasonOf(status)
}

// reasonOf says why a server's answer is no answer, in a word from the closed set.
func reasonOf(status int) string {
	switch {
	case unauthorized(status):
		return "unauthorized"
	case down(status):
		return "unavailable"
	}
	return "not_mcp"
}

var errTooLarge = errors.New("larger than the bound")

// wholeBody reads an answer in one piece where its length is known.
func wholeBody(resp *http.Response, most int) ([]byte, error) {
	n := resp.ContentLength
	if n < 0 || n > int64(most) {
		return readAll(resp.Body, most)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(resp.Body, b)
	return b, err
}

func readAll(r io.Reader, most int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err == nil && len(b) > most {
		err = errTooLarge
	}
	return b, err
}

// messages reads a server's stream, whose messages have so many bytes at most. The channel closes when it ends, for whatever reason, or
// ctx does; why it could not be read on is in why then.
func (b *Broker) messages(ctx context.Context, r io.Reader, most int, why *error) <-chan *jsonrpc.Message {
	ch := make(chan *jsonrpc.Message)
	go b.safely(func() {
		defer close(ch)
		events := sse.NewReader(r, most)
		for {
			e, err := events.Next()
			if err != nil {
				*why = err
				return
			}
			if e.Comment || len(e.Data) == 0 {
				continue
			}
			m, err := jsonrpc.Read(e.Data, jsonrpc.Limits{Depth: maxDepth})
			if err != nil {
				*why = err
				return // what we cannot read, no client shall act on
			}
			select {
			case ch <- m:
			case <-ctx.Done():
				return
			}
		}
	})
	return ch
}
