package server

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/xds"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// This file turns the configuration into the words of the lower rooms. It decides nothing.

// stdioPath is the path at which a local process is served on its socket.
const stdioPath = "/mcp"

// world is what Envoy must know. With reveal, secrets are read now and sent over xDS; without, only where they lie is written.
func world(c *configv1.Config, s xds.Sockets, token string, reveal bool) (xds.World, error) {
	w := xds.World{
		Node: xds.Node{ID: c.Envoy.GetNodeId(), Cluster: "mcpgw"}, Sockets: s, EgressToken: token,
		Limits:    xds.Limits{Body: int64(c.Limits.GetBodyBytes()), Upload: c.Limits.GetUpload().AsDuration()},
		Telemetry: xds.Telemetry{AccessLog: true, Guard: true},
		Overload:  xds.Overload{MaxHeap: c.Limits.GetEnvoyHeapBytes(), MaxConnections: int64(c.Limits.GetConnections())},
	}
	if o := c.Telemetry.GetOtlp(); o != nil {
		w.Telemetry.OTLP, w.Telemetry.Sampling = o.Endpoint, o.GetSamplingPercent()
		w.Telemetry.OTLPTLS, w.Telemetry.OTLPCA = o.Tls != nil, o.Tls.GetCaFile()
	}
	for _, l := range c.Listeners {
		out := xds.Listener{Name: l.Name, Address: strings.TrimPrefix(l.Address, "unix:"), TrustedHops: int(l.TrustedProxyHops), ClientTrace: xds.ClientTrace(l.ClientTrace)}
		if l.Tls != nil {
			out.TLS = &xds.ServerTLS{CertFile: l.Tls.CertFile, KeyFile: l.Tls.KeyFile}
			if reveal { // sent anew at each reload: Envoy alone would see only files that are moved into place
				var err error
				if out.TLS.Cert, err = os.ReadFile(l.Tls.CertFile); err != nil {
					return w, fmt.Errorf("listener %s: %w", l.Name, err)
				}
				if out.TLS.Key, err = os.ReadFile(l.Tls.KeyFile); err != nil {
					return w, fmt.Errorf("listener %s: %w", l.Name, err)
				}
			}
		}
		w.Listeners = append(w.Listeners, out)
	}
	for _, srv := range c.Servers {
		out := xds.Server{
			Name:      srv.Name,
			CallIdle:  or(srv.Timeouts.GetCallIdle().AsDuration(), c.Limits.GetCallIdle().AsDuration()),
			CallTotal: or(srv.Timeouts.GetCallTotal().AsDuration(), c.Limits.GetCallTotal().AsDuration()),
		}
		if h := srv.GetHttp(); h != nil {
			out.URL, out.ForwardHeaders = h.Url, h.ForwardHeaders
			out.TLS = xds.ClientTLS{CAFile: h.Tls.GetCaFile(), ServerName: h.Tls.GetServerName(), ClientCertFile: h.Tls.GetClientCertFile(), ClientKeyFile: h.Tls.GetClientKeyFile()}
			for _, name := range sorted(h.Headers) {
				cred, err := credential(name, "", h.Headers[name].GetFile(), h.Headers[name].GetEnv(), h.Headers[name].GetValue(), reveal)
				if err != nil {
					return w, fmt.Errorf("server %s: header %s: %w", srv.Name, name, err)
				}
				out.Credentials = append(out.Credentials, cred)
			}
			if cr := h.Credential; cr != nil {
				cred, err := credential(cr.Header, cr.GetPrefix(), cr.From.GetFile(), cr.From.GetEnv(), "", reveal)
				if err != nil {
					return w, fmt.Errorf("server %s: credential: %w", srv.Name, err)
				}
				out.Credentials = append(out.Credentials, cred)
			}
		} else {
			out.URL, out.Socket = "http://"+srv.Name+".stdio.internal"+stdioPath, stdioSocket(s, srv.Name)
		}
		w.Servers = append(w.Servers, out)
	}
	return w, nil
}

func credential(header, prefix, file, env, value string, reveal bool) (xds.Credential, error) {
	c := xds.Credential{Header: header, Prefix: prefix, File: file, Env: env, Value: value}
	if reveal && value == "" {
		src := &configv1.SecretSource{}
		if file != "" {
			src.Source = &configv1.SecretSource_File{File: file}
		} else {
			src.Source = &configv1.SecretSource_Env{Env: env}
		}
		secret, err := config.ReadSecret(src)
		if err != nil {
			return c, err
		}
		c.File, c.Env, c.Value = "", "", secret.Reveal()
	}
	return c, nil
}

// stdioSocket is where a local process is served. Names are short and of a safe grammar.
func stdioSocket(s xds.Sockets, server string) string {
	return filepath.Join(filepath.Dir(s.GRPC), "s-"+server)
}

// endpoints is what the catalog must know.
func endpoints(c *configv1.Config) []catalog.Endpoint {
	kinds := map[string]catalog.Kind{}
	for _, k := range catalog.Kinds {
		kinds[k.String()] = k
	}
	var out []catalog.Endpoint
	for _, e := range c.Endpoints {
		ep := catalog.Endpoint{Name: e.Name, Path: e.Path, Prefix: e.Prefixes, PageSize: int(e.GetPageSize()), PerServer: e.PerServer}
		for _, s := range e.Servers {
			sel := catalog.Selection{Server: s.Server, Include: s.Include, Exclude: s.Exclude}
			for _, k := range s.Kinds {
				sel.Kinds = append(sel.Kinds, kinds[k])
			}
			ep.Servers = append(ep.Servers, sel)
		}
		if len(ep.Servers) == 0 {
			ep.Servers = []catalog.Selection{{Server: "*"}}
		}
		out = append(out, ep)
	}
	if len(c.ExtAuthz) > 0 { // the filter may name any server
		for _, s := range c.Servers {
			out = append(out, catalog.Endpoint{Name: gateway.AuthorizePath(s.Name), Path: gateway.AuthorizePath(s.Name), Servers: []catalog.Selection{{Server: s.Name}}})
		}
	}
	return out
}

// trust is whose word counts about a server's items.
func trust(s *configv1.Server) (catalog.Trust, error) {
	t := catalog.Trust{Annotations: s.TrustAnnotations, Tags: s.Tags, Set: map[string]json.RawMessage{}}
	for name, a := range s.Annotations {
		m := map[string]any{}
		put := func(key string, v *bool) {
			if v != nil {
				m[key] = *v
			}
		}
		if a.Title != nil {
			m["title"] = *a.Title
		}
		put("readOnlyHint", a.ReadOnlyHint)
		put("destructiveHint", a.DestructiveHint)
		put("idempotentHint", a.IdempotentHint)
		put("openWorldHint", a.OpenWorldHint)
		b, err := json.Marshal(m)
		if err != nil {
			return t, fmt.Errorf("server %s: annotations of %s: %w", s.Name, name, err)
		}
		t.Set[name] = b
	}
	return t, nil
}

// settings is what the walk must know, the authenticators excepted.
func settings(c *config.Config, version string) (*gateway.Settings, error) {
	p := c.Proto
	out := &gateway.Settings{
		Version: c.Version[:8], Name: "mcpgw", Build: version, Depth: int(p.Limits.GetDepth()), BodyBytes: int(p.Limits.GetBodyBytes()), RedactBytes: int(p.Policy.GetRedactBytes()),
		Approvals: approvals(p.Policy.GetApprovals()),
		Listeners: map[string]*gateway.Listener{}, Endpoints: map[string]*gateway.Endpoint{}, Servers: map[string]*gateway.Server{},
	}
	for _, l := range p.Listeners {
		gl := &gateway.Listener{Name: l.Name, Hosts: slices.Clone(l.AllowedHosts), Origins: slices.Clone(l.AllowedOrigins), Challenge: identity.WWWAuthenticate("mcpgw", "", "")}
		address, err := config.ParseAddress(l.Address)
		if err != nil {
			return nil, fmt.Errorf("listener %s: %w", l.Name, err)
		}
		if len(gl.Hosts) == 0 && address.Network == "tcp" && address.Local() {
			gl.Hosts = []string{"localhost", "127.0.0.1", "::1"}
		}
		if l.PublicUrl != "" {
			u, err := url.Parse(l.PublicUrl)
			if err != nil {
				return nil, fmt.Errorf("listener %s: public_url: %w", l.Name, err)
			}
			gl.Hosts = append(gl.Hosts, strings.ToLower(u.Hostname()))
			gl.Origins = append(gl.Origins, u.Scheme+"://"+u.Host)
		}
		if address.Network == "tcp" && address.Local() {
			gl.Origins = append(gl.Origins, "http://localhost:*", "http://127.0.0.1:*", "http://[::1]:*")
		}
		out.Listeners[l.Name] = gl
	}
	for _, e := range p.Endpoints {
		ge := &gateway.Endpoint{Name: e.Name, DenialsAsResult: e.Denials == "result", Listeners: map[string]bool{}}
		for _, l := range e.Listeners {
			ge.Listeners[l] = true
		}
		out.Endpoints[e.Name] = ge
	}
	for _, s := range p.Servers {
		gs := &gateway.Server{
			Name: s.Name, Version: digest(s), ForwardHeaders: map[string]bool{},
			CallIdle: or(s.Timeouts.GetCallIdle().AsDuration(), p.Limits.GetCallIdle().AsDuration()),
		}
		for _, h := range s.GetHttp().GetForwardHeaders() {
			gs.ForwardHeaders[strings.ToLower(h)] = true
		}
		out.Servers[s.Name] = gs
	}
	return out, nil
}

// routes is the set of servers that Envoy can reach, once it has acknowledged their clusters and routes.
func routes(c *configv1.Config) gateway.Routes {
	r := gateway.Routes{Servers: map[string]bool{}}
	var names []string
	for _, s := range c.Servers {
		r.Servers[s.Name] = true
		names = append(names, s.Name)
	}
	slices.Sort(names)
	sum := sha256.Sum256([]byte(strings.Join(names, "\n")))
	r.Version = hex.EncodeToString(sum[:4])
	return r
}

// digest changes with anything that is configured of a server.
func digest(s *configv1.Server) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil { // only text that is not UTF-8 can do that, and the configuration was checked
		panic(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}

func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func or(d, fallback time.Duration) time.Duration {
	if d != 0 {
		return d
	}
	return fallback
}
