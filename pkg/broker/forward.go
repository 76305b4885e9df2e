package broker

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// forward serves a modern client's call at a modern server, where policy demands that the answer is redacted, or a human has confirmed
// the call. It is what the direct lane does, message by message. Leaving is cancelling (2026-07-28, "Transports"): the call at the server
// ends with the client's.
func (c *call) forward() {
	ctx, cancel := context.WithTimeout(c.r.Context(), c.b.CallTotal)
	defer cancel()
	ctx, patience := c.patient(ctx)
	defer patience.stop()
	client := c.b.Server(c.p.Server)
	if client == nil {
		c.fail(gateway.Upstream(c.p.Server, "unavailable"))
		return
	}
	body, header := c.originBody(), c.modernHeader()
	c.p.Unpin() // a call may last half an hour
	resp, err := client.Do(ctx, body, header)
	if err != nil {
		c.fail(c.upstreamFault(ctx, c.p.Server, err))
		return
	}
	patience.hear(resp)
	c.forwardResponse(ctx, resp)
}

// modernHeader is the client's own, as it travels on the direct lane. The walk has judged it, and made it say what was rewritten.
func (c *call) modernHeader() http.Header {
	to := c.travel(c.p.Server)
	for name, v := range c.r.Header {
		if n := strings.ToLower(name); n == "content-language" || strings.HasPrefix(n, "mcp-") && n != mcp.HeaderSession {
			to[name] = v
		}
	}
	m, e := c.p.Message, c.p.Entry
	if (m.Method == mcp.MethodToolsCall || m.Method == mcp.MethodPromptsGet) && e.Public != e.Item.Name {
		to.Set(mcp.HeaderName, mcp.EncodeHeader(e.Item.Name))
	}
	return to
}

// shown are the headers of a server that its client sees; Envoy adds others of its own.
var shown = [...]string{"Retry-After", "Mcp-Protocol-Version"}

// forwardResponse passes a modern server's answer on. Its status stays where it comes with a genuine error.
func (c *call) forwardResponse(ctx context.Context, resp *http.Response) {
	defer closeBody(resp)
	f := localFault(c.p.Server, resp)
	if f == nil {
		f = c.encoded(resp)
	}
	status := resp.StatusCode
	if f == nil && (unauthorized(status) || status == http.StatusProxyAuthRequired || down(status) || status >= 300 && status < 400) {
		f = gateway.Upstream(c.p.Server, reasonOf(status)).Wrap(fmt.Errorf("status %d", status))
	}
	if f != nil {
		c.fail(f)
		return
	}
	switch kind := mediaType(resp); {
	case kind == "application/json":
		m, b, err := c.response(resp)
		if err == nil && status >= 300 && !m.Error.Exists() {
			err = fmt.Errorf("a result with status %d", status)
		}
		if err != nil {
			c.fail(c.noAnswer(ctx, status, err))
			return
		}
		c.show(resp)
		if status < 300 {
			status = http.StatusOK
		}
		writeJSON(c.w, status, b)
	case kind == "text/event-stream" && status == http.StatusOK:
		c.show(resp)
		c.forwardStream(ctx, resp)
	default:
		c.fail(gateway.Upstream(c.p.Server, reasonOf(status)).Wrap(fmt.Errorf("status %d, content type %.64q", status, kind)))
	}
}

func (c *call) show(resp *http.Response) {
	for _, n := range shown {
		if v := resp.Header.Get(n); v != "" {
			c.w.Header().Set(n, v)
		}
	}
}

// forwardStream passes on what belongs to the call: progress, log messages, the response. The stream ends with the response, or with the
// client.
func (c *call) forwardStream(ctx context.Context, resp *http.Response) {
	out := c.stream()
	defer out.close()
	var why error
	msgs := c.b.messages(ctx, resp.Body, c.most(), &why)
	for {
		select {
		case <-out.over:
			return
		case m, ok := <-msgs:
			if !ok {
				out.message(c.cut(ctx, why).Reply(c.p.Message.ID))
				return
			}
			m, err := c.redacted(m)
			if err != nil {
				out.message(c.cut(ctx, err).Reply(c.p.Message.ID))
				return
			}
			if m.Kind == jsonrpc.Response {
				if b, err := c.mine(m); err == nil {
					out.message(b)
					return
				}
			} else if m.Method == mcp.NotifyProgress || m.Method == mcp.NotifyMessage {
				out.message(m.Body)
			}
		}
	}
}
