package broker

import (
	"context"
	"errors"
	"net/http"

	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/upstream"
)

// bridge serves a legacy client's call at a server that speaks modern alone: the request gains _meta and headers, the result loses what
// the client's revision does not know. The client's capabilities are not passed on, since a request for input cannot be bridged; so a
// server asks for none. Cancelling a bridged call closes its stream, which is how the modern era says it.
func (c *call) bridge() {
	ctx, cancel := c.detached()
	defer cancel()
	m := c.p.Message
	if c.p.Class() == mcp.Watch {
		c.fail(fault.New(fault.NoMethod, "this server takes no subscriptions from clients of %s", c.p.Revision))
		return
	}
	end, ok := c.st.begin(m.ID, running{server: c.p.Server, cancel: cancel, redaction: c.p.Redaction()})
	if !ok {
		c.fail(fault.New(fault.Invalid, "a request with this id is under way"))
		return
	}
	defer end()
	ctx, patience := c.patient(ctx)
	defer patience.stop()

	client := c.b.Server(c.p.Server)
	if client == nil {
		c.fail(gateway.Upstream(c.p.Server, "unavailable"))
		return
	}
	level := ""
	if s, err := c.b.Sessions.Get(ctx, c.p.Session.ID, c.p.Session.Owner); err == nil && s != nil {
		level = s.LogLevel
	}
	renamed, err := jsonrpc.Read(c.originBody(), jsonrpc.Limits{Depth: maxDepth})
	if err != nil {
		c.fail(fault.From(err))
		return
	}
	header, err := upstream.ModernHeaders(renamed, c.p.Entry.Item)
	if err != nil {
		c.fail(fault.New(fault.BadArguments, "an argument cannot be sent to this server: %v", err))
		return
	}
	for k, v := range c.travel(c.p.Server) {
		header[k] = v
	}
	body := upstream.AddMeta(renamed, upstream.Meta{ClientInfo: c.p.Session.ClientInfo, LogLevel: level})
	c.p.Unpin() // a call may last half an hour
	resp, err := client.Do(ctx, body, header)
	if err != nil {
		if cancelled(ctx) { // nothing is to be said
			c.status(http.StatusNoContent)
			return
		}
		c.fail(c.upstreamFault(ctx, c.p.Server, err))
		return
	}
	patience.hear(resp)
	c.bridgeResponse(ctx, resp)
}

// cancelled reports whether the client has cancelled the call; nothing else ends its context this way.
func cancelled(ctx context.Context) bool { return errors.Is(context.Cause(ctx), context.Canceled) }

// bridgeResponse passes a modern server's answer on.
func (c *call) bridgeResponse(ctx context.Context, resp *http.Response) {
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
		m, b, err := c.response(resp)
		if err == nil && !unauthorized(resp.StatusCode) && !down(resp.StatusCode) {
			if m.Result.Exists() {
				b = c.toLegacy(m)
			}
			c.json(b)
			return
		}
		if cancelled(ctx) {
			c.status(http.StatusNoContent)
			return
		}
		c.fail(c.noAnswer(ctx, resp.StatusCode, err))
	case "text/event-stream":
		if resp.StatusCode != http.StatusOK {
			c.fail(gateway.Upstream(c.p.Server, reasonOf(resp.StatusCode)))
			return
		}
		c.bridgeStream(ctx, resp)
	default:
		c.fail(gateway.Upstream(c.p.Server, reasonOf(resp.StatusCode)))
	}
}

func (c *call) bridgeStream(ctx context.Context, resp *http.Response) {
	out := c.stream()
	defer out.close()
	var why error
	for m := range c.b.messages(ctx, resp.Body, c.most(), &why) {
		m, err := c.redacted(m)
		if err != nil {
			out.message(c.cut(ctx, err).Reply(c.p.Message.ID))
			return
		}
		switch {
		case m.Kind == jsonrpc.Response && string(m.ID) == string(c.p.Message.ID):
			out.message(c.toLegacy(m))
			return
		case m.Kind == jsonrpc.Notification && (m.Method == mcp.NotifyProgress || m.Method == mcp.NotifyMessage):
			out.message(m.Body) // of this call: the token is the client's own
		}
	}
	if !cancelled(ctx) {
		out.message(c.cut(ctx, why).Reply(c.p.Message.ID))
	}
}

// toLegacy is a modern server's response as a client of the session's revision reads it.
func (c *call) toLegacy(m *jsonrpc.Message) []byte {
	if !m.Result.Exists() {
		return m.Body
	}
	result, err := upstream.ToLegacyResult(m.Result.Raw, c.p.Revision)
	switch {
	case errors.Is(err, upstream.ErrInputRequired):
		return fault.New(fault.Upstream, "this tool asks for input, which clients of %s cannot give through this gateway", c.p.Revision).Reply(m.ID)
	case err != nil:
		return gateway.Upstream(c.p.Server, "not_mcp").Reply(m.ID)
	}
	return jsonrpc.Result(m.ID, result)
}
