package server

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/stdio"
	"github.com/mcpgw/mcpgw/pkg/upstream"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// startStdio starts the local processes that b has and old has not, or has otherwise. Old may be nil.
func (s *Server) startStdio(b, old *built) {
	for _, srv := range b.config.Proto.Servers {
		t := srv.GetStdio()
		if t == nil || old != nil && !restarts(old, b, srv.Name) {
			continue
		}
		if old != nil {
			s.crew.stop("stdio " + srv.Name) // one socket, one owner
		}
		s.startLocal(b, srv)
	}
}

func (s *Server) startLocal(b *built, srv *configv1.Server) {
	st := stdio.New(s.stdioOptions(b, srv, srv.GetStdio()))
	s.mu.Lock()
	s.stdio[srv.Name] = st
	s.mu.Unlock()
	s.crew.start("stdio "+srv.Name, st.Run)
}

// restarts reports whether a local process must be another in b than in a. It takes bodies up to the limit it was started with.
func restarts(a, b *built, name string) bool {
	return changed(a, b, name) || a.config.Proto.Limits.GetBodyBytes() != b.config.Proto.Limits.GetBodyBytes()
}

// giveBack starts anew the local processes of old that refused has replaced. Those that it would have ended go on as they are.
func (s *Server) giveBack(old, refused *built) {
	for _, srv := range old.config.Proto.Servers {
		if srv.GetStdio() != nil && refused.server(srv.Name).GetStdio() != nil && restarts(old, refused, srv.Name) {
			s.crew.stop("stdio " + srv.Name)
			s.startLocal(old, srv)
		}
	}
}

func (s *Server) stdioOptions(b *built, srv *configv1.Server, t *configv1.StdioTransport) stdio.Options {
	o := stdio.Options{
		Name: srv.Name, Command: t.Command, Args: t.Args, Dir: t.Cwd, User: t.User, Env: map[string]string{},
		Socket: stdioSocket(s.sockets, srv.Name), MaxProcesses: int(t.GetMaxProcesses()),
		MaxRequest: int(b.config.Proto.Limits.GetBodyBytes()), MaxMessage: int(b.config.Proto.Limits.GetServerMessageBytes()),
		CallTimeout: srv.Timeouts.GetCallIdle().AsDuration(), Version: s.opts.Version, Log: s.log.With("component", "stdio"),
	}
	if len(t.EnvPassthrough) > 0 {
		o.Passthrough = append(append([]string{}, stdio.DefaultPassthrough...), t.EnvPassthrough...)
	}
	if t.Share == "session" {
		o.Share = stdio.ShareSession
	}
	if s.opts.Envoy {
		o.PeerPID = s.envoyPID
	}
	for name, v := range t.Env {
		if secret, err := config.ReadValue(v); err == nil { // config.Load has read it once; what vanished since is left out and the child says so
			o.Env[name] = secret.Reveal()
		}
	}
	return o
}

// stopStdio ends the local processes that old has and next has not.
func (s *Server) stopStdio(old, next *built) {
	if old == nil {
		return
	}
	for _, srv := range old.config.Proto.Servers {
		if srv.GetStdio() != nil && (next == nil || next.server(srv.Name).GetStdio() == nil) {
			s.crew.stop("stdio " + srv.Name)
			s.mu.Lock()
			delete(s.stdio, srv.Name)
			s.mu.Unlock()
		}
	}
}

// watch gives every server of b a watcher, and ends those of servers that went or changed.
func (s *Server) watch(old, b *built) {
	if old != nil {
		for _, srv := range old.config.Proto.Servers {
			if changed(old, b, srv.Name) {
				s.crew.stop("watch " + srv.Name)
				s.mu.Lock()
				s.clients.Delete(srv.Name)
				delete(s.watchers, srv.Name)
				s.mu.Unlock()
			}
		}
	}
	for _, srv := range b.config.Proto.Servers {
		if old != nil && !changed(old, b, srv.Name) {
			continue
		}
		c := upstream.NewClient(upstream.Options{
			Server: srv.Name, URL: "http://egress/", Transport: s.egress, Trust: b.trust[srv.Name], Era: srv.Era, Version: s.opts.Version,
			Header: http.Header{http.CanonicalHeaderKey(gateway.HeaderBackend): {gateway.BackendPrefix + srv.Name}, http.CanonicalHeaderKey(gateway.HeaderToken): {s.token}},
		})
		s.clients.Store(srv.Name, c)
		w := upstream.NewWatcher(c, func(src *catalog.Source) { s.learned(srv, src) }, srv.Refresh.AsDuration(), s.log)
		s.mu.Lock()
		s.watchers[srv.Name] = w
		s.mu.Unlock()
		s.crew.start("watch "+srv.Name, w.Run)
	}
}

// rouse has every server read anew whenever another Envoy has connected and taken its configuration: while there was none, nothing could
// be read, and the watchers ask ever more slowly. What an Envoy takes later, at a change, says nothing new of servers.
func (s *Server) rouse(ctx context.Context) error {
	connected, arrived := 0, false
	for {
		changed := s.publisher.Changed()
		now := s.publisher.Stats()
		arrived = (arrived || now.Connected > connected) && now.Connected > 0
		connected = now.Connected
		if arrived && now.Applied == now.Connected {
			arrived = false
			s.mu.Lock()
			for _, w := range s.watchers {
				w.Refresh()
			}
			s.mu.Unlock()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// client is how the broker reaches a server.
func (s *Server) client(name string) *upstream.Client {
	c, _ := s.clients.Load(name)
	client, _ := c.(*upstream.Client)
	return client
}

// dial reaches a listener of our own Envoy over HTTP, a connection a request. Nothing is sent that anybody could want, so its
// certificate, which carries a public name, is not verified.
func dial(a config.Address) *http.Transport {
	return &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // our own listener, and nothing is told it
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, a.Network, a.Address)
		},
	}
}

// egressTransport goes by Envoy's egress socket.
func egressTransport(socket string) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		DisableCompression:  true, // bytes pass as the server sent them
		MaxIdleConnsPerHost: 256, MaxIdleConns: 256, IdleConnTimeout: 60 * time.Second,
		ReadBufferSize: 16 << 10, WriteBufferSize: 16 << 10,
	}
}
