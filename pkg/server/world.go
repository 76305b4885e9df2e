package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/gateway"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/xds"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// built is one configuration turned into everything that can be built before anything changes: the whole new world.
type built struct {
	config    *config.Config
	settings  *gateway.Settings
	policy    *loadedPolicy
	shadow    *loadedPolicy                      // nil without one
	engine    *opa.Engine                        // of policy; nil while its bundle was never had, and then nothing is served
	auth      map[string]*identity.Authenticator // by listener
	endpoints []catalog.Endpoint
	trust     map[string]catalog.Trust
	lock      *catalog.Lock // nil without pins
	resources *xds.Resources
	routes    gateway.Routes
	decisions decisions // what hears of rulings
}

// build makes a world of a configuration. Nothing that runs is touched.
func (s *Server) build(ctx context.Context, c *config.Config) (*built, error) {
	b := &built{config: c, auth: map[string]*identity.Authenticator{}, endpoints: endpoints(c.Proto), trust: map[string]catalog.Trust{}, routes: routes(c.Proto)}
	var errs []error
	var err error
	if b.settings, err = settings(c, s.opts.Version); err != nil {
		errs = append(errs, err)
	}
	if b.policy, err = s.policy(ctx, livePolicy, liveSource(c.Proto.Policy), compiler(c.Proto.Policy)); err != nil {
		errs = append(errs, err)
	} else {
		b.engine = b.policy.engine
	}
	if c.Proto.Policy.Shadow != nil {
		b.shadow = s.shadowOf(ctx, c.Proto.Policy)
	}
	var missing bool
	if b.lock, missing, err = loadLock(c.Proto.Pins); err != nil {
		errs = append(errs, err)
	} else if missing {
		s.log.Warn(missingLock(c.Proto.Pins.File))
	}
	w, err := world(c.Proto, s.sockets, s.token, true)
	w.Telemetry.Guard, w.Telemetry.AccessLog = !s.opts.NoGuard, !s.opts.NoAccessLog
	if err != nil {
		errs = append(errs, err)
	} else if b.resources, err = xds.Render(w); err != nil {
		errs = append(errs, err)
	}
	for _, e := range b.endpoints {
		if err := e.Check(); err != nil {
			errs = append(errs, fmt.Errorf("endpoint %s: %w", e.Name, err))
		}
	}
	for _, srv := range c.Proto.Servers {
		t, err := trust(srv)
		if err != nil {
			errs = append(errs, err)
		}
		b.trust[srv.Name] = t
	}
	for _, l := range c.Proto.Listeners {
		a, err := s.authenticator(c.Proto.Authentication, l)
		if err != nil {
			errs = append(errs, fmt.Errorf("listener %s: %w", l.Name, err))
			continue
		}
		b.auth[l.Name] = a
		if b.settings != nil {
			b.settings.Listeners[l.Name].Auth = a
		}
	}
	if len(errs) == 0 {
		if err := s.buildDecisions(ctx, b); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		s.abandon(b)
		return nil, err
	}
	for name, a := range b.auth { // keys that cannot be read now are read later: other credentials work
		lctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		if err := a.Load(lctx); err != nil {
			s.log.Warn("an issuer's keys cannot be read", "listener", name, "error", err)
		}
		cancel()
	}
	return b, nil
}

// abandon gives back what a world holds that was never installed.
func (s *Server) abandon(b *built) {
	b.close()
	for _, p := range []*loadedPolicy{b.policy, b.shadow} {
		if p != nil {
			s.discard(p.feed)
		}
	}
}

func (b *built) close() {
	b.decisions.close()
	for _, a := range b.auth {
		a.Close()
	}
}

// authenticator judges the credentials of one listener.
func (s *Server) authenticator(c *configv1.Authentication, l *configv1.Listener) (*identity.Authenticator, error) {
	o := identity.Options{Log: s.log.With("component", "identity")}
	for _, k := range c.ApiKeys {
		digest, err := identity.ParseDigest(strings.TrimPrefix(k.Digest, "sha256:"))
		if err != nil {
			return nil, fmt.Errorf("API key %s: %w", k.Id, err)
		}
		o.APIKeys = append(o.APIKeys, identity.APIKey{ID: k.Id, Digest: digest, Principal: identity.Principal{Type: k.Type, Roles: k.Roles, Tenant: k.Tenant, Client: k.Client}})
	}
	for _, j := range c.Jwt {
		o.JWT = append(o.JWT, identity.JWTIssuer{
			Issuer: j.Issuer, Audiences: j.Audiences, KeysFile: j.GetJwksFile(), KeysURL: j.GetJwksUrl(), Algorithms: j.Algorithms,
			Claims: identity.ClaimPaths{Subject: j.Claims.Subject, Client: j.Claims.Client, Tenant: j.Claims.Tenant, Roles: j.Claims.Roles, Scopes: j.Claims.Scopes},
			Leeway: j.Leeway.AsDuration(),
		})
	}
	if l.Anonymous != nil {
		o.Anonymous = &identity.Principal{Roles: l.Anonymous.Roles, Tenant: l.Anonymous.Tenant}
	}
	return identity.New(o)
}

// install moves the gateway from its present world to b: processes and clusters first, then routes, then the pointer, then what is
// gone. On an error everything is as it was.
func (s *Server) install(ctx context.Context, b *built) error {
	old := s.now()
	s.startStdio(b, old)
	rep, err := s.publisher.Publish(ctx, b.resources, func() { s.swap(b) })
	if err != nil {
		s.stopStdio(b, old)
		if old != nil {
			s.giveBack(old, b)
		}
		return err
	}
	s.log.Info("configuration is in force", "version", b.config.Version, "envoys", rep.Envoys, "acknowledged", rep.Acknowledged,
		"resources", rep.Resources, "bytes", rep.Bytes, "drained", rep.Drained, "took", rep.Took)
	if old != nil {
		for _, f := range startOnly(old.config.Proto, b.config.Proto) {
			s.log.Warn("a setting that was changed counts after a restart only", "setting", f)
		}
	}
	if old == nil && s.envoy != nil {
		if err := s.awaitEnvoy(ctx); err != nil { // watchers go by its egress
			return err
		}
	}
	s.installDecisions(b)
	s.stopStdio(old, b)
	s.watch(old, b)
	s.adopt(b)
	if old != nil {
		for name := range old.auth {
			s.crew.stop("identity " + name)
		}
		old.close()
	}
	for name, a := range b.auth {
		s.crew.start("identity "+name, a.Run)
	}
	return nil
}

// startOnly names the settings that differ and are read at start alone.
func startOnly(a, b *configv1.Config) []string {
	var out []string
	for name, same := range map[string]bool{
		"admin": a.Admin.GetAddress() == b.Admin.GetAddress(), "ext_authz": sameFronts(a.ExtAuthz, b.ExtAuthz), "envoy": proto.Equal(a.Envoy, b.Envoy), "telemetry": proto.Equal(a.Telemetry, b.Telemetry),
		"policy.labels": proto.Equal(a.Policy.GetLabels(), b.Policy.GetLabels()),
		"limits (all but body_bytes, depth, upload and call_idle)": proto.Equal(fixed(a.Limits), fixed(b.Limits)),
	} {
		if !same {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func sameFronts(a, b []*configv1.ExtAuthz) bool {
	return slices.EqualFunc(a, b, func(x, y *configv1.ExtAuthz) bool { return proto.Equal(x, y) })
}

// fixed is limits without those that a reload changes.
func fixed(l *configv1.Limits) *configv1.Limits {
	l = proto.CloneOf(l)
	l.BodyBytes, l.Depth, l.Upload, l.CallIdle = nil, nil, nil, nil
	return l
}

// swap turns decisions over to b. It runs between the two halves of a publication.
func (s *Server) swap(b *built) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.world
	sources := map[string]*catalog.Source{}
	for _, srv := range b.config.Proto.Servers {
		src := s.sources[srv.Name]
		if src == nil || old == nil || changed(old, b, srv.Name) {
			src = &catalog.Source{Server: srv.Name} // what is known of another server, or on another's word, does not count
		}
		sources[srv.Name] = src
	}
	s.sources, s.world = sources, b
	s.keepRulings(old, b)
	s.swapDecisions(b)
	if s.open {
		s.swapSnapshot()
	}
}

// serveWorld lets the gateway serve the first world. Until then it refuses.
func (s *Server) serveWorld() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = true
	s.swapSnapshot()
}

// swapSnapshot makes s.world the gateway's. s.mu is held.
func (s *Server) swapSnapshot() {
	b := s.world
	s.gateway.Swap(func(now gateway.Snapshot) gateway.Snapshot {
		return gateway.Snapshot{Settings: b.settings, Policy: b.engine, Routes: b.routes, Catalog: catalog.BuildLocked(b.endpoints, s.ordered(), b.lock, now.Catalog)}
	})
	s.countCatalog()
}

// learned takes what a watcher found out about its server. A watcher of a world that is gone speaks to nobody.
func (s *Server) learned(of *configv1.Server, src *catalog.Source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.world == nil || !slices.ContainsFunc(s.world.config.Proto.Servers, func(p *configv1.Server) bool { return proto.Equal(p, of) }) {
		return
	}
	s.sources[src.Server] = src.Reuse(s.sources[src.Server])
	select {
	case s.news <- struct{}{}:
	default: // whoever waits looks at all sources
	}
	if !s.open {
		return
	}
	s.gateway.Swap(func(now gateway.Snapshot) gateway.Snapshot {
		now.Catalog = catalog.BuildLocked(s.world.endpoints, s.ordered(), s.world.lock, now.Catalog)
		return now
	})
	s.countCatalog()
}

// ordered is the sources in configuration order. s.mu is held.
func (s *Server) ordered() []*catalog.Source {
	var out []*catalog.Source
	for _, srv := range s.world.config.Proto.Servers {
		out = append(out, s.sources[srv.Name])
	}
	return out
}

func (s *Server) now() *built {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.world
}

// server finds a server in a world, nil where it has none.
func (b *built) server(name string) *configv1.Server {
	if b == nil {
		return nil
	}
	for _, s := range b.config.Proto.Servers {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// changed reports whether a server of that name differs between two worlds in anything, its existence included.
func changed(a, b *built, name string) bool {
	return !proto.Equal(a.server(name), b.server(name))
}
