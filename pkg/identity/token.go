package identity

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/lestrrat-go/jwx/v3/jws"
	"github.com/lestrrat-go/jwx/v3/jwt"
)

// JWTIssuer is an issuer whose tokens are accepted.
type JWTIssuer struct {
	Issuer    string   // the token's "iss", compared byte by byte
	Audiences []string // the token's "aud" must hold one of them; at least one is needed
	// KeysFile or KeysURL, exactly one: where the issuer's JWK set is. A file is read again when it changes; a URL is fetched in
	// the background, https or a loopback host.
	KeysFile, KeysURL string
	// Algorithms is the allow-list, out of RS256/384/512, PS256/384/512, ES256/384/512 and EdDSA; RS256 and ES256 when empty.
	Algorithms []string
	Claims     ClaimPaths
	Leeway     time.Duration // clock difference tolerated for exp, nbf and iat; 0 = 30 s, at most 5 min
}

// ClaimPaths say where in a token's claims the principal's parts are. A path that begins with "/" is a JSON pointer (RFC 6901)
// through objects; any other is member names joined by dots, so that "realm_access.roles" works; names that hold dots or slashes
// need the pointer form ("/https:~1~1example.com~1roles"). An absent claim leaves its part empty, except the subject, which every
// token must have; a claim of another type than said here makes the token invalid.
type ClaimPaths struct {
	Subject string // a string; "sub" when empty
	Client  string // a string; "client_id", else "azp" when empty
	Tenant  string // a string; none when empty
	Roles   string // strings, or one string that is one role; none when empty
	Scopes  string // strings, or one string of names separated by spaces; "scope", else "scp" when empty
}

// path is a way through objects, member by member.
type path []string

func parsePath(s string) (path, error) {
	if !strings.HasPrefix(s, "/") {
		p := path(strings.Split(s, "."))
		if slices.Contains(p, "") {
			return nil, fmt.Errorf("claim path %q has an empty name", s)
		}
		return p, nil
	}
	p := path(strings.Split(s[1:], "/"))
	for i, name := range p {
		rest := strings.NewReplacer("~0", "", "~1", "").Replace(name)
		if strings.Contains(rest, "~") {
			return nil, fmt.Errorf("claim path %q: ~ must be written ~0, and / in a name ~1", s)
		}
		p[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
	}
	return p, nil
}

func (p path) in(claims map[string]any) any {
	var v any = claims
	for _, name := range p {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

// paths are alternatives: the first that leads to something counts.
type paths []path

func parsePaths(s string, otherwise ...string) (paths, error) {
	if s != "" {
		otherwise = []string{s}
	}
	var ps paths
	for _, o := range otherwise {
		p, err := parsePath(o)
		if err != nil {
			return nil, err
		}
		ps = append(ps, p)
	}
	return ps, nil
}

func (ps paths) in(claims map[string]any) any {
	for _, p := range ps {
		if v := p.in(claims); v != nil {
			return v
		}
	}
	return nil
}

func (ps paths) str(claims map[string]any) (string, error) {
	switch v := ps.in(claims).(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	}
	return "", fmt.Errorf("claim %v is not a string", ps)
}

func (ps paths) strs(claims map[string]any, split bool) ([]string, error) {
	switch v := ps.in(claims).(type) {
	case nil:
		return nil, nil
	case string:
		if split {
			return strings.Fields(v), nil
		}
		return []string{v}, nil
	case []any:
		out := make([]string, len(v))
		for i, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("claim %v holds something other than strings", ps)
			}
			out[i] = s
		}
		return out, nil
	}
	return nil, fmt.Errorf("claim %v is neither a string nor an array of strings", ps)
}

// issuer is a JWTIssuer made ready.
type issuer struct {
	name                                   string
	audiences                              []string
	algorithms                             map[string]algorithm
	subject, client, tenant, roles, scopes paths
	leeway                                 time.Duration
	keys                                   *source
}

func newIssuer(o JWTIssuer, private bool) (*issuer, error) {
	i := &issuer{name: o.Issuer, audiences: o.Audiences, algorithms: map[string]algorithm{}, leeway: o.Leeway}
	if o.Issuer == "" || o.Issuer == KeyIssuer {
		return nil, fmt.Errorf("issuer %q is no issuer's name", o.Issuer)
	}
	if len(o.Audiences) == 0 || slices.Contains(o.Audiences, "") {
		return nil, errors.New("at least one audience is needed, and none may be empty")
	}
	known, names := algorithms(), o.Algorithms
	if len(names) == 0 {
		names = []string{"RS256", "ES256"}
	}
	for _, n := range names {
		a, ok := known[n]
		if !ok {
			return nil, fmt.Errorf("algorithm %q is not allowed: use RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 or EdDSA", n)
		}
		i.algorithms[n] = a
	}
	var err error
	for _, c := range []struct {
		to   *paths
		path string
		els  []string
	}{
		{&i.subject, o.Claims.Subject, []string{"sub"}},
		{&i.client, o.Claims.Client, []string{"client_id", "azp"}},
		{&i.tenant, o.Claims.Tenant, nil},
		{&i.roles, o.Claims.Roles, nil},
		{&i.scopes, o.Claims.Scopes, []string{"scope", "scp"}},
	} {
		if *c.to, err = parsePaths(c.path, c.els...); err != nil {
			return nil, err
		}
	}
	switch {
	case i.leeway == 0:
		i.leeway = 30 * time.Second
	case i.leeway < 0 || i.leeway > 5*time.Minute:
		return nil, fmt.Errorf("leeway %s is not between 0 and 5m", i.leeway)
	}
	i.keys = &source{name: o.Issuer, file: o.KeysFile, url: o.KeysURL, every: 5 * time.Minute, gap: 30 * time.Second, wanted: make(chan struct{}, 1)}
	switch {
	case (o.KeysFile == "") == (o.KeysURL == ""):
		return nil, errors.New("want either a file or a URL of keys")
	case o.KeysFile != "":
		i.keys.every, i.keys.gap = 5*time.Second, 5*time.Second
	default:
		g, err := newGuard(o.KeysURL, private)
		if err != nil {
			return nil, fmt.Errorf("keys URL %q: %w", o.KeysURL, err)
		}
		i.keys.client = g.client()
	}
	return i, nil
}

// verified is a token that passed: who it names, until when, and the keys that vouched for it.
type verified struct {
	principal *Principal
	expires   time.Time
	source    *source
	keys      *keySet
	size      int
}

// Reasons why a token is not accepted. They go to the log; the caller hears only about an expired one.
var (
	errNotJWT    = errors.New("neither a known API key nor a JSON Web Token")
	errIssuer    = errors.New("token of an unknown issuer")
	errAlgorithm = errors.New("token signed with an algorithm that is not allowed")
	errNoKey     = errors.New("token signed with a key that the issuer does not publish")
	errAudience  = errors.New("token for another audience")
	errSubject   = errors.New("token without a subject")
	// errKeysMissing is no fault of the token: nobody could have been judged.
	errKeysMissing = errors.New("the issuer's keys have not been read yet")
)

// verify judges a token in compact form (RFC 7515 section 3.1). Nothing in it is believed before its signature is checked, except
// the issuer's name and the key's id, which only choose the key to check with.
func (a *Authenticator) verify(token string) (*verified, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errNotJWT
	}
	var header struct {
		Alg string `json:"alg"`
		Kid string `json:"kid"`
	}
	if _, err := decode(parts[0], &header); err != nil {
		return nil, err
	}
	var claims map[string]any
	payload, err := decode(parts[1], &claims)
	if err != nil {
		return nil, err
	}
	name, _ := claims["iss"].(string)
	i := a.issuers[name]
	if i == nil {
		return nil, errIssuer
	}
	alg, ok := i.algorithms[header.Alg]
	if !ok {
		return nil, errAlgorithm
	}
	keys := i.keys.current.Load()
	if keys == nil {
		i.keys.want()
		return nil, errKeysMissing
	}
	candidates := keys.find(header.Kid, alg)
	if len(candidates) == 0 {
		i.keys.want()
		return nil, errNoKey
	}
	for _, k := range candidates {
		// A critical header that is not understood is refused (RFC 7515 section 4.1.11); we understand none.
		_, err = jws.Verify([]byte(token), jws.WithKey(alg.jwa, k.jwk), jws.WithCompact(), jws.WithAlgorithmMatch(true), jws.WithCritValidation(true))
		if err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	t := jwt.New()
	if err := json.Unmarshal(payload, t); err != nil {
		return nil, err
	}
	if err := jwt.Validate(t, jwt.WithClock(jwt.ClockFunc(a.o.Now)), jwt.WithAcceptableSkew(i.leeway), jwt.WithRequiredClaim(jwt.ExpirationKey), jwt.WithIssuer(i.name),
		jwt.WithValidator(jwt.ValidatorFunc(i.audience))); err != nil {
		return nil, err
	}
	p, err := i.principal(claims)
	if err != nil {
		return nil, err
	}
	p.Claims = payload
	exp, _ := t.Expiration()
	p.expires = exp
	return &verified{principal: p, expires: exp, source: i.keys, keys: keys, size: 2 * len(token)}, nil
}

// decode reads one part of a token: base64url of a JSON object without duplicate names, so that nobody reads it differently.
func decode(part string, to any) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotJWT, err)
	}
	if jsontext.Value(b).Kind() != '{' {
		return nil, errNotJWT
	}
	if err := json.Unmarshal(b, to); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotJWT, err)
	}
	return b, nil
}

func (i *issuer) audience(_ context.Context, t jwt.Token) error {
	aud, _ := t.Audience()
	for _, a := range aud {
		if slices.Contains(i.audiences, a) {
			return nil
		}
	}
	return errAudience
}

// principal maps verified claims.
func (i *issuer) principal(claims map[string]any) (*Principal, error) {
	p := &Principal{Type: User, Issuer: i.name}
	var errs [5]error
	p.ID, errs[0] = i.subject.str(claims)
	p.Client, errs[1] = i.client.str(claims)
	p.Tenant, errs[2] = i.tenant.str(claims)
	p.Roles, errs[3] = i.roles.strs(claims, false)
	p.Scopes, errs[4] = i.scopes.strs(claims, true)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	if p.ID == "" {
		return nil, errSubject
	}
	if p.ID == p.Client { // client credentials: the client is its own subject (RFC 9068 section 2.2)
		p.Type = Service
	}
	return p, nil
}
