package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mcpgw/mcpgw/pkg/admin"
	"github.com/mcpgw/mcpgw/pkg/bundle"
	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/telemetry"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// This file turns the configured sources of policy into engines. A directory or a bundle in a file is read whenever a world is built. A
// bundle from a network has a feed, which outlives worlds: it holds the last bundle that counted, and offers new ones to the goroutine
// that reloads, which alone changes worlds.

// Names of the two policies.
const (
	livePolicy   = "live"
	shadowPolicy = "shadow"
)

// policySource is where one policy comes from: a directory with data files, or a bundle.
type policySource struct {
	directory string
	data      []string
	bundle    *configv1.Bundle
}

func liveSource(p *configv1.Policy) policySource {
	return policySource{directory: p.Directory, data: p.DataFiles, bundle: p.Bundle}
}

func shadowSource(s *configv1.Shadow) policySource {
	return policySource{directory: s.Directory, data: s.DataFiles, bundle: s.Bundle}
}

// remote is whether it has to be fetched.
func (p policySource) remote() bool {
	return p.bundle != nil && p.bundle.GetPath() == ""
}

// loadedPolicy is one policy of a world: compiled, and what it was made of. It is immutable.
type loadedPolicy struct {
	engine        *opa.Engine // nil while the bundle was never had
	modules, data []opa.File
	status        bundle.Status // where it does not come from a feed
	feed          *feed         // of a bundle that is fetched
	missing       error         // why engine is nil
}

// feed is a bundle source that is asked again and again. Only the goroutine that changes worlds uses it, Source.Status excepted.
type feed struct {
	key     [sha256.Size]byte // of all settings, key and CA certificates
	source  *bundle.Source
	content *bundle.Content // that counts, nil as long as there was none
	poll    time.Duration
}

// bundleFeeds is what a server keeps of bundles.
type bundleFeeds struct {
	feeds  map[string]*feed // by the policy's name; only the goroutine that changes worlds writes it, under Server.mu
	offers chan offered     // new bundles, for that goroutine
	begun  bool             // the gateway serves; of that goroutine alone
}

// unfetched is the error of a build that wants a bundle and cannot have it now: worth another try by itself.
type unfetched struct {
	err   error
	again time.Duration
}

func (u *unfetched) Error() string { return u.err.Error() }
func (u *unfetched) Unwrap() error { return u.err }

// firstLook bounds how long a world waits for a bundle that has to be fetched.
const firstLook = 15 * time.Second

// LoadPolicy compiles what a configuration names as its policy, without a running gateway. A bundle is fetched once,
// within bounds. The error holds every fault; bundle.Absent tells that nothing could be had.
func LoadPolicy(p *configv1.Policy) (*opa.Engine, error) {
	l, err := loadPolicy(context.Background(), liveSource(p), compiler(p))
	if err != nil {
		return nil, err
	}
	return l.engine, nil
}

// compile makes an engine of a policy's files.
type compile func(modules, data []opa.File) (*opa.Engine, error)

// compiler compiles with the settings that live and shadow policy share.
func compiler(p *configv1.Policy) compile {
	entry := p.EntryPoint
	if entry != "" && !strings.HasPrefix(entry, "data.") {
		entry = "data." + strings.ReplaceAll(entry, "/", ".")
	}
	return func(modules, data []opa.File) (_ *opa.Engine, err error) {
		defer func() {
			if p := recover(); p != nil { // a bundle must not end the gateway
				err = fmt.Errorf("the policy cannot be compiled: %v", p)
			}
		}()
		return opa.Load(opa.Options{Modules: modules, Data: data, Entrypoint: entry, Timeout: p.Timeout.AsDuration()})
	}
}

// loadPolicy reads and compiles a policy once.
func loadPolicy(ctx context.Context, p policySource, load compile) (*loadedPolicy, error) {
	if p.bundle != nil {
		source, err := openBundle(p.bundle, nil)
		if err != nil {
			return nil, err
		}
		defer source.Close()
		ctx, cancel := context.WithTimeout(ctx, firstLook)
		defer cancel()
		l := &loadedPolicy{}
		err = source.Once(ctx, func(_ context.Context, c *bundle.Content) (err error) {
			l.modules, l.data = c.Modules, c.Data
			l.engine, err = load(c.Modules, c.Data)
			return err
		})
		l.status = source.Status()
		if err != nil {
			return nil, fmt.Errorf("policy bundle %s: %w", l.status.Source, err)
		}
		return l, nil
	}
	l := &loadedPolicy{status: bundle.Status{Source: p.directory, Activated: time.Now()}}
	var err error
	if l.modules, err = opa.ReadDir(p.directory); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if l.data, err = opa.ReadFiles(p.data...); err != nil {
		return nil, fmt.Errorf("policy data: %w", err)
	}
	l.engine, err = load(l.modules, l.data)
	return l, err
}

// policy is loadPolicy for a running gateway, by the name live or shadow. A feed whose settings did not change goes on, with the bundle
// that counts; one whose settings did is begun anew, and takes over when the world is installed. The shadow policy is never waited for.
// Where nothing can be had and no world has a live policy yet, the policy is returned without an engine: the gateway then refuses
// every call until the feed brings one.
func (s *Server) policy(ctx context.Context, name string, p policySource, load compile) (*loadedPolicy, error) {
	if !p.remote() {
		return loadPolicy(ctx, p, load)
	}
	key, err := feedKey(p.bundle)
	if err != nil {
		return nil, err
	}
	f := s.feeds[name]
	if f == nil || f.key != key {
		source, err := openBundle(p.bundle, s.log.With("policy", name))
		if err != nil {
			return nil, fmt.Errorf("policy bundle: %w", err)
		}
		f = &feed{key: key, source: source, poll: p.bundle.Poll.AsDuration()}
	}
	l := &loadedPolicy{feed: f}
	if f.content != nil {
		l.modules, l.data = f.content.Modules, f.content.Data
		if l.engine, err = load(l.modules, l.data); err != nil {
			s.discard(f)
			return nil, err
		}
		return l, nil
	}
	if name == shadowPolicy || s.feeds[name] == f { // the feed is at it
		if l.missing = errors.New("it is being fetched"); f.source.Status().Error != "" {
			l.missing = errors.New(f.source.Status().Error)
		}
		return l, nil
	}
	ctx, cancel := context.WithTimeout(ctx, firstLook)
	defer cancel()
	err = f.source.Once(ctx, func(_ context.Context, c *bundle.Content) (err error) {
		l.modules, l.data = c.Modules, c.Data
		if l.engine, err = load(c.Modules, c.Data); err == nil {
			f.content = c
		}
		return err
	})
	if err == nil {
		return l, nil
	}
	l.engine = nil
	if now := s.now(); now == nil || now.policy.engine == nil {
		l.missing = err
		return l, nil
	}
	s.discard(f)
	return nil, &unfetched{err: fmt.Errorf("policy bundle %s: %w", f.source.Status().Source, err), again: max(f.poll, 5*time.Second)}
}

// shadowOf is the shadow policy. It changes no ruling, so one that cannot be loaded is told in the status, and is no fault: the one
// before, if there is one, is compared on.
func (s *Server) shadowOf(ctx context.Context, p *configv1.Policy) *loadedPolicy {
	l, err := s.policy(ctx, shadowPolicy, shadowSource(p.Shadow), compiler(p))
	if err != nil {
		s.log.Error("the shadow policy is not taken", "error", err)
		l = &loadedPolicy{missing: err, status: bundle.Status{Source: p.Shadow.Directory, Error: err.Error(), ErrorTime: time.Now()}}
		if b := p.Shadow.Bundle; b != nil {
			l.status.Source = b.GetPath() + b.GetOci() // a URL may hold a secret
		}
		if old := s.now(); old != nil && old.shadow != nil {
			l.engine, l.modules, l.data = old.shadow.engine, old.shadow.modules, old.shadow.data
		}
	}
	return l
}

// discard ends a feed that no world uses.
func (s *Server) discard(f *feed) {
	if f == nil {
		return
	}
	for _, used := range s.feeds {
		if used == f {
			return
		}
	}
	f.source.Close()
}

// openBundle is a source in the words of package bundle.
func openBundle(b *configv1.Bundle, log *slog.Logger) (*bundle.Source, error) {
	o := bundle.Options{
		Path: b.GetPath(), URL: b.GetUrl(), OCI: b.GetOci(), Poll: b.Poll.AsDuration(), LongPoll: b.LongPoll.AsDuration(),
		MaxBytes: int64(b.GetMaxBytes()), CAFile: b.CaFile, Log: log,
	}
	if v := b.Verification; v != nil {
		o.Verification = &bundle.Verification{KeyFile: v.KeyFile, KeyID: v.KeyId, Algorithm: v.Algorithm, Scope: v.Scope}
	}
	if b.Token != nil {
		o.Token = func() (string, error) {
			secret, err := config.ReadSecret(b.Token)
			return secret.Reveal(), err
		}
	}
	return bundle.Open(o)
}

// feedKey changes with everything that decides which bundles count: the settings, and what lies in the files that they name. The token
// is read for each request, so another one changes nothing.
func feedKey(b *configv1.Bundle) (key [sha256.Size]byte, err error) {
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(b)
	if err != nil {
		return key, err
	}
	h := sha256.New()
	for _, name := range []string{"", b.Verification.GetKeyFile(), b.CaFile} {
		if name != "" {
			if text, err = os.ReadFile(name); err != nil {
				return key, fmt.Errorf("policy bundle: %w", err)
			}
		}
		fmt.Fprintf(h, "%d:%s", len(text), text)
		text = nil
	}
	h.Sum(key[:0])
	return key, nil
}

// adopt lets the feeds of a world that was installed run, and ends those that it does not use.
func (s *Server) adopt(b *built) {
	for name, p := range map[string]*loadedPolicy{livePolicy: b.policy, shadowPolicy: b.shadow} {
		old, next := s.feeds[name], (*feed)(nil)
		if p != nil {
			next = p.feed
		}
		if old == next {
			continue
		}
		if old != nil {
			s.crew.stop("bundle " + name)
			old.source.Close()
		}
		s.mu.Lock()
		if s.feeds[name] = next; next == nil {
			delete(s.feeds, name)
		}
		s.mu.Unlock()
		if next == nil {
			continue
		}
		s.crew.start("bundle "+name, func(ctx context.Context) error {
			return next.source.Run(ctx, func(ctx context.Context, c *bundle.Content) error { return s.offer(ctx, name, next, c) })
		})
	}
}

// endFeeds gives back what feeds hold. None of them runs any more.
func (s *Server) endFeeds() {
	for _, f := range s.feeds {
		f.source.Close()
	}
}

// offered is a new bundle, and where to say what became of it.
type offered struct {
	name    string
	feed    *feed
	content *bundle.Content
	verdict chan error
}

// offer waits until the goroutine that changes worlds has taken or refused a bundle.
func (s *Server) offer(ctx context.Context, name string, f *feed, c *bundle.Content) error {
	o := offered{name: name, feed: f, content: c, verdict: make(chan error, 1)}
	select {
	case s.offers <- o:
	case <-ctx.Done():
		return ctx.Err()
	}
	return <-o.verdict // a stopped feed is waited for, and whoever stops it does not judge at the same time
}

// activate puts a new bundle in force: the policy of the world is replaced, and nothing else of it. Envoy's configuration does not
// depend on rules, so nobody has to be waited for, and the pointer to the world is exchanged once, as after any other change: no
// exchange sees one part old and another new.
func (s *Server) activate(o offered) error {
	old := s.now()
	was := old.policy
	if o.name == shadowPolicy {
		was = old.shadow
	}
	if was == nil || was.feed != o.feed {
		return errors.New("the configuration has changed")
	}
	start := time.Now()
	engine, err := compiler(old.config.Proto.Policy)(o.content.Modules, o.content.Data)
	if err != nil {
		return err
	}
	if was.engine != nil && was.engine.Revision() == engine.Revision() {
		o.feed.content = o.content
		return nil // another revision in the manifest alone: what is cached stays good
	}
	next := *old
	p := &loadedPolicy{engine: engine, modules: o.content.Modules, data: o.content.Data, feed: o.feed}
	if o.name == shadowPolicy {
		next.shadow = p
	} else {
		next.policy, next.engine = p, engine
	}
	if err := s.buildDecisions(context.Background(), &next); err != nil { // the rules that mask its log are a part of a policy
		return err
	}
	o.feed.content = o.content
	s.swap(&next)
	s.installDecisions(&next) // its log may be a new one, where the CA file has changed meanwhile
	s.log.Info("a policy bundle is in force", "policy", o.name, "policy_revision", engine.Revision(), "bundle_revision", o.content.Revision,
		"etag", o.content.ETag, "signed", o.content.Signed, "took", time.Since(start))
	return nil
}

// PolicyStatus is what `mcpgw policy status` shows.
type PolicyStatus struct {
	Live          *PolicyState `json:"live"`
	Shadow        *PolicyState `json:"shadow,omitempty"`
	Configuration string       `json:"configuration"`   // version in force
	Fault         string       `json:"fault,omitempty"` // why the last reload was refused
}

// PolicyState is one policy and where it comes from.
type PolicyState struct {
	Policy string        `json:"policy,omitempty"` // the revision in every span, log line and ruling; empty while there is no policy
	Bundle bool          `json:"bundle"`           // whether it is one; else a directory
	Source bundle.Status `json:"source"`
}

func (s *Server) policyStatus() PolicyStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := PolicyStatus{}
	if s.fault != nil {
		out.Fault = s.fault.Error()
	}
	if s.world == nil {
		return out
	}
	out.Configuration = s.world.config.Version
	p := s.world.config.Proto.Policy
	out.Live = s.world.policy.state(p.Bundle)
	if s.world.shadow != nil {
		out.Shadow = s.world.shadow.state(p.Shadow.GetBundle())
	}
	return out
}

func (l *loadedPolicy) state(b *configv1.Bundle) *PolicyState {
	st := &PolicyState{Bundle: b != nil, Source: l.status}
	if l.engine != nil {
		st.Policy = l.engine.Revision()
	}
	if l.feed != nil {
		st.Source = l.feed.source.Status()
	}
	return st
}

// statusRoute answers with a PolicyStatus.
func (s *Server) statusRoute() admin.Route {
	return admin.Route{Pattern: "GET /policy/status", May: "policy", Serve: func(w http.ResponseWriter, _ *http.Request, _ string) { admin.Write(w, s.policyStatus()) }}
}

// bundleCounts is what metrics say of the bundles that are fetched.
func (s *Server) bundleCounts() map[string]telemetry.BundleCount {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]telemetry.BundleCount{}
	for name, f := range s.feeds {
		st := f.source.Status()
		out[name] = telemetry.BundleCount{Confirmed: st.Confirmed, Activated: st.Activated, Failures: st.Failures}
	}
	return out
}

// missingPolicy is why the gateway does not serve for want of a policy.
func (s *Server) missingPolicy() error {
	b := s.now()
	if b == nil || b.policy == nil || b.policy.engine != nil {
		return nil
	}
	why := b.policy.missing
	if b.policy.feed != nil {
		if said := b.policy.feed.source.Status().Error; said != "" {
			why = errors.New(said)
		}
	}
	return fmt.Errorf("policy bundle not loaded: %w", why)
}
