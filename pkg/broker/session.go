package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/session"
	"github.com/mcpgw/mcpgw/pkg/upstream"
)

// upstream makes, or finds, the session that the gateway holds at a server for this client. It was made with the client's own
// capabilities, so the server asks nothing that the client cannot answer.
func (c *call) upstream(ctx context.Context, server string) (*upstream.Session, *fault.Error) {
	client := c.b.Server(server)
	if client == nil {
		return nil, gateway.Upstream(server, "unavailable")
	}
	s, err := c.b.Sessions.Get(ctx, c.p.Session.ID, c.p.Session.Owner)
	if err != nil {
		return nil, fault.New(fault.Internal, "sessions cannot be read now").Wrap(err)
	}
	if s == nil {
		return nil, noSession()
	}
	if u, ok := s.Upstream[server]; ok && u.Of == c.version(server) {
		return client.Resume(u.ID, u.Revision), nil
	}
	got, err, _ := c.b.open.Do(s.ID+"\n"+server, func() (any, error) { return c.openUpstream(ctx, s, server, client) })
	if err != nil {
		var f *fault.Error
		if errors.As(err, &f) {
			return nil, f
		}
		return nil, c.upstreamFault(ctx, server, err)
	}
	return got.(*upstream.Session), nil
}

func noSession() *fault.Error {
	return fault.New(fault.NoSession, "there is no such session; send initialize again")
}

// upstreamFault is what the client hears of an error of a server.
func upstreamFault(server string, err error) *fault.Error {
	return gateway.Upstream(server, reason(upstream.ReasonOf(err))).Wrap(err)
}

// upstreamFault is the fault of an error on the way to a server; that we gave up waiting for it shows in ctx.
func (c *call) upstreamFault(ctx context.Context, server string, err error) *fault.Error {
	if ctx.Err() != nil {
		return gateway.Upstream(server, "timeout").Wrap(err)
	}
	return upstreamFault(server, err)
}

// reason maps what is known of a server's failure to the words that a client may hear.
func reason(r upstream.Reason) string {
	switch r {
	case upstream.Unavailable, upstream.Timeout, upstream.Unauthorized:
		return string(r)
	}
	return string(upstream.NotMCP)
}

// openUpstream runs the handshake with a server (2025-11-25, "Lifecycle").
func (c *call) openUpstream(ctx context.Context, s *session.Session, server string, client *upstream.Client) (any, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patienceOfTelling) // several calls wait for it, so none may end it
	defer cancel()
	if now, err := c.b.Sessions.Get(ctx, s.ID, s.Owner); err == nil && now != nil {
		if u, ok := now.Upstream[server]; ok && u.Of == c.version(server) {
			return client.Resume(u.ID, u.Revision), nil // another call was quicker
		}
	}
	info := s.ClientInfo
	if len(info) == 0 {
		info = []byte(`{"name":"unknown","version":"0"}`)
	}
	up, err := client.Initialize(ctx, fmt.Appendf(nil, `{"protocolVersion":%q,"capabilities":%s,"clientInfo":%s}`, s.Revision, s.ClientCapabilities, info))
	if err != nil {
		return nil, err
	}
	if s.LogLevel != "" {
		lctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, _ = c.tell(lctx, up, levelRequest(s.LogLevel)) // a server without logging refuses it, which harms nothing
		cancel()
	}
	u := session.Upstream{ID: up.ID, Revision: up.Revision, Of: c.version(server)}
	kept, err := c.b.Sessions.Update(ctx, s.ID, s.Owner, func(s *session.Session) *session.Session { return s.With(server, u) })
	if err != nil || kept == nil { // ended meanwhile
		go c.b.safely(func() { c.b.forget(server, u) })
		return nil, noSession().Wrap(err)
	}
	c.st.signal()
	return up, nil
}

func levelRequest(level string) []byte {
	return fmt.Appendf(nil, `{"jsonrpc":"2.0","id":"mcpgw-level","method":"logging/setLevel","params":{"level":%q}}`, level)
}

// version is that of the server's configuration: a session with what was configured before under that name is none with what is now.
func (c *call) version(server string) string {
	if s := c.b.Gateway.Snapshot().Settings.Servers[server]; s != nil {
		return s.Version
	}
	return ""
}

// lost forgets an upstream session that its server no longer knows, so that the next use makes a new one.
func (c *call) lost(ctx context.Context, server string, up *upstream.Session) {
	_, _ = c.b.Sessions.Update(ctx, c.p.Session.ID, c.p.Session.Owner, func(s *session.Session) *session.Session {
		if s.Upstream[server].ID != up.ID {
			return s
		}
		return s.Without(server)
	}) // a store that fails says so at the next use
}

// forget ends an upstream session at its server.
func (b *Broker) forget(server string, u session.Upstream) {
	client, now := b.Server(server), b.Gateway.Snapshot().Settings.Servers[server]
	if client == nil || now == nil || now.Version != u.Of { // it was another server's: this one must not hear its id
		return
	}
	b.forgets <- struct{}{}
	defer func() { <-b.forgets }()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := client.Resume(u.ID, u.Revision).Delete(ctx); err != nil {
		b.Log.DebugContext(ctx, "a server's session was not ended", "server", server, "error", err)
	}
}

// travel is what goes on of the client's headers: Envoy and the walk have removed what must not.
func (c *call) travel(server string) http.Header {
	to := http.Header{}
	for _, n := range []string{"User-Agent", "Traceparent", "Tracestate", "X-Request-Id"} {
		if v := c.r.Header.Get(n); v != "" {
			to.Set(n, v)
		}
	}
	if s := c.b.Gateway.Snapshot().Settings.Servers[server]; s != nil {
		for n := range s.ForwardHeaders {
			if v := c.r.Header.Values(n); len(v) > 0 {
				to[http.CanonicalHeaderKey(n)] = v
			}
		}
	}
	if c.p.Redaction() != nil {
		to.Set("Accept-Encoding", "identity")
	}
	to.Set(gateway.HeaderDecision, c.p.DecisionID)
	return to
}

// tell sends a message whose answer does not matter beyond its status.
func (c *call) tell(ctx context.Context, up *upstream.Session, body []byte) (status int, err error) {
	resp, err := up.Do(ctx, body, c.travel(""))
	if err != nil {
		return 0, err
	}
	defer closeBody(resp)
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)) // read to the end, so that the connection can be used again
	return resp.StatusCode, nil
}

// localFault is the fault where Envoy answered in the server's place, else nil.
func localFault(server string, resp *http.Response) *fault.Error {
	if resp.Header.Get(gateway.HeaderLocal) == "" {
		return nil
	}
	why := "unavailable"
	if resp.StatusCode == http.StatusGatewayTimeout {
		why = "timeout"
	}
	return gateway.Upstream(server, why).Wrap(fmt.Errorf("egress answered %d", resp.StatusCode))
}

func closeBody(r *http.Response) { _ = r.Body.Close() }
