package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwt"
	"github.com/maypok86/otter/v2"

	"github.com/mcpgw/mcpgw/pkg/fault"
)

// Options say which credentials are accepted.
type Options struct {
	APIKeys   []APIKey
	JWT       []JWTIssuer
	Anonymous *Principal // who calls without a credential; nil = refused. Its Type and identity are set by New

	Realm        string // names the gateway in WWW-Authenticate; "mcpgw" when empty
	FetchPrivate bool   // keys URLs may lead to private addresses (RFC 1918, RFC 4193); never to link-local ones
	CacheBytes   int    // of verified tokens remembered; 32 MiB when 0
	Now          func() time.Time
	Log          *slog.Logger // for the background refresh of keys; nil = none
}

// MaxCredential is the longest credential that is looked at, in bytes.
const MaxCredential = 16 << 10

// Authenticator judges credentials. All methods may be called from many goroutines; judging waits for nothing but the processor.
type Authenticator struct {
	o       Options
	keys    map[[32]byte]*Principal
	issuers map[string]*issuer
	sources []*source // of the issuers, in their order
	// cache holds verified tokens by digest. An entry counts until the token expires and only while its issuer's keys are the
	// ones that vouched for it, so a withdrawn key takes its tokens with it. What is pushed out is verified anew: nobody can
	// gain or lose more by filling it than one signature check a request.
	cache *otter.Cache[[32]byte, *verified]
}

// New checks the options; the error joins all faults. It reads no keys and starts nothing: see Load and Run.
func New(o Options) (*Authenticator, error) {
	if o.Realm == "" {
		o.Realm = "mcpgw"
	}
	if o.CacheBytes <= 0 {
		o.CacheBytes = 32 << 20
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	a := &Authenticator{o: o, keys: map[[32]byte]*Principal{}, issuers: map[string]*issuer{}}
	var errs []error
	if o.Anonymous != nil {
		p := *o.Anonymous
		p.Type, p.ID, p.Issuer, p.Client, p.Claims = Anonymous, Anonymous, "", "", nil
		a.o.Anonymous = &p
	}
	for n, k := range o.APIKeys {
		p := k.Principal
		p.ID, p.Issuer, p.Claims, p.digest = k.ID, KeyIssuer, nil, k.Digest
		if p.Type == "" {
			p.Type = Service
		}
		switch {
		case k.ID == "":
			errs = append(errs, fmt.Errorf("API key %d has no id", n))
		case p.Type != User && p.Type != Service:
			errs = append(errs, fmt.Errorf("API key %q: type %q is neither %s nor %s", k.ID, p.Type, User, Service))
		case k.Digest == [32]byte{}:
			errs = append(errs, fmt.Errorf("API key %q has no digest", k.ID))
		case a.keys[k.Digest] != nil:
			errs = append(errs, fmt.Errorf("API key %q has the same digest as %q", k.ID, a.keys[k.Digest].ID))
		default:
			a.keys[k.Digest] = &p
		}
	}
	for _, j := range o.JWT {
		i, err := newIssuer(j, o.FetchPrivate)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("issuer %q: %w", j.Issuer, err))
		case a.issuers[i.name] != nil:
			errs = append(errs, fmt.Errorf("issuer %q is named twice", i.name))
		default:
			a.issuers[i.name] = i
			a.sources = append(a.sources, i.keys)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if len(a.issuers) > 0 {
		var err error
		a.cache, err = otter.New(&otter.Options[[32]byte, *verified]{
			MaximumWeight: uint64(o.CacheBytes),
			Weigher:       func(_ [32]byte, v *verified) uint32 { return uint32(v.size) + 512 },
			ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[[32]byte, *verified]) time.Duration {
				return min(max(e.Value.expires.Sub(a.o.Now()), 1), 24*time.Hour) // an issuer may write any year
			}),
		})
		if err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Load reads every issuer's keys once, all at the same time, and joins the faults. It is for the start and for a reload, off any
// client's clock; an authenticator without some issuer's keys still judges all other credentials.
func (a *Authenticator) Load(ctx context.Context) error {
	return errors.Join(a.each(func(s *source) error { return s.refresh(ctx) })...)
}

// Run keeps the issuers' keys fresh until ctx ends, and returns ctx's error.
func (a *Authenticator) Run(ctx context.Context) error {
	a.each(func(s *source) error { s.run(ctx, a.o.Log); return nil })
	<-ctx.Done()
	return ctx.Err()
}

// each does something for every source at once and waits for all.
func (a *Authenticator) each(do func(*source) error) []error {
	var wg sync.WaitGroup
	errs := make([]error, len(a.sources))
	for n, s := range a.sources {
		wg.Go(func() { errs[n] = do(s) })
	}
	wg.Wait()
	return errs
}

// Close ends the cache's upkeep goroutine, once another authenticator is in force. Exchanges still under way may go on asking this one.
func (a *Authenticator) Close() {
	if a.cache != nil {
		a.cache.StopAllGoroutines()
	}
}

// Authenticate says who calls. authorization and apiKey are all values of the Authorization and X-Api-Key header lines as they
// came. An API key may stand in either, after "Bearer " in the first; a JSON Web Token in the first alone. A credential that is
// present and bad is refused also where the anonymous are welcome.
//
// The error is a *fault.Error: TwoCredentials for more than one credential, Unauthenticated with a WWW-Authenticate header for
// none or a bad one, Internal when the issuer's keys could not be read yet. Its Cause tells the log why, and never holds the
// credential.
func (a *Authenticator) Authenticate(_ context.Context, authorization, apiKey []string) (*Principal, error) {
	var credential string
	switch {
	case len(authorization)+len(apiKey) > 1:
		return nil, fault.New(fault.TwoCredentials, "send one credential, not more")
	case len(authorization) == 1:
		scheme, rest, _ := strings.Cut(authorization[0], " ")
		if credential = strings.Trim(rest, " \t"); !strings.EqualFold(scheme, "bearer") {
			return nil, a.refuse(errScheme)
		}
		if strings.Contains(credential, ",") { // header lines that something on the way has joined
			return nil, fault.New(fault.TwoCredentials, "send one credential, not more")
		}
	case len(apiKey) == 1:
		credential = strings.Trim(apiKey[0], " \t")
	case a.o.Anonymous != nil:
		return a.o.Anonymous, nil
	default:
		return nil, a.refuse(nil)
	}
	if credential == "" || len(credential) > MaxCredential {
		return nil, a.refuse(errLength)
	}
	digest := sha256.Sum256([]byte(credential))
	if p := a.keys[digest]; p != nil { // digests differ all over, so the time a look-up takes says nothing about a key
		return p, nil
	}
	if len(apiKey) == 1 || a.cache == nil {
		return nil, a.refuse(errKey)
	}
	if v, ok := a.cache.GetIfPresent(digest); ok && v.source.current.Load() == v.keys && a.o.Now().Before(v.expires) {
		return v.principal, nil
	}
	v, err := a.verify(credential)
	if err != nil {
		return nil, a.refuse(err)
	}
	if a.o.Now().Before(v.expires) { // else it lives on its leeway
		a.cache.Set(digest, v)
	}
	return v.principal, nil
}

// Current is what a principal that some authenticator has made before is for this one: nil when its credential does not count any more.
// An API key must still be configured, and its holder has the roles of now; a token must not have expired, and its issuer must still be
// believed. Whoever holds a stream open asks it now and then.
func (a *Authenticator) Current(p *Principal) *Principal {
	switch {
	case p == nil:
		return nil
	case p.Type == Anonymous:
		return a.o.Anonymous
	case p.Issuer == KeyIssuer:
		return a.keys[p.digest]
	case a.issuers[p.Issuer] == nil || !a.o.Now().Before(p.expires):
		return nil
	}
	return p
}

var (
	errScheme = errors.New("authorization scheme is not Bearer")
	errLength = errors.New("credential is empty or too long")
	errKey    = errors.New("unknown API key")
)

// refuse is what the caller hears. Why a credential is bad is the log's business, except that an expired token is said to be one:
// its holder knows what to do, and anyone who holds it can read it.
func (a *Authenticator) refuse(cause error) error {
	f := &fault.Error{Kind: fault.Unauthenticated, Cause: cause}
	var code string
	switch {
	case cause == nil:
		f.Message = "a credential is needed"
	case errors.Is(cause, errKeysMissing):
		return fault.New(fault.Internal, "the credential cannot be checked at the moment").Wrap(cause)
	case errors.Is(cause, jwt.TokenExpiredError()):
		f.Message, code = "the token has expired", "invalid_token"
	default:
		f.Message, code = "the credential is not valid", "invalid_token"
	}
	f.Header = map[string]string{"WWW-Authenticate": WWWAuthenticate(a.o.Realm, code, f.Message)}
	return f
}

// WWWAuthenticate is the header's value for a 401 or a 403 (RFC 6750 section 3). code is one of its error codes, empty when the
// request had no credential at all; then the description is left out too.
func WWWAuthenticate(realm, code, description string) string {
	var b strings.Builder
	b.WriteString(`Bearer realm=`)
	quote(&b, realm)
	if code != "" {
		b.WriteString(`, error=`)
		quote(&b, code)
		if description != "" {
			b.WriteString(`, error_description=`)
			quote(&b, description)
		}
	}
	return b.String()
}

// quote writes a quoted-string (RFC 9110 section 5.6.4); what may not stand in one is left out.
func quote(b *strings.Builder, s string) {
	b.WriteByte('"')
	for _, c := range []byte(s) {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c >= 0x20 && c < 0x7f:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
}
