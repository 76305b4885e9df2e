package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const issuerName, audience = "https://issuer.example", "https://gateway.example/mcp"

// signer is one private key of the test issuer.
type signer struct {
	kid string
	alg jwa.SignatureAlgorithm
	raw any
}

func newSigner(t testing.TB, kid string, alg jwa.SignatureAlgorithm) signer {
	t.Helper()
	var raw any
	var err error
	switch alg {
	case jwa.RS256(), jwa.PS256():
		raw, err = rsa.GenerateKey(rand.Reader, 2048)
	case jwa.ES256():
		raw, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jwa.ES384():
		raw, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case jwa.EdDSA():
		_, raw, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return signer{kid, alg, raw}
}

// public is the signer's entry in a key set; edit changes it first.
func (s signer) public(t testing.TB, edit func(jwk.Key)) jwk.Key {
	t.Helper()
	k, err := jwk.PublicKeyOf(s.raw)
	if err != nil {
		t.Fatal(err)
	}
	if s.kid != "" {
		_ = k.Set(jwk.KeyIDKey, s.kid)
	}
	if edit != nil {
		edit(k)
	}
	return k
}

func keySetText(t testing.TB, keys ...jwk.Key) []byte {
	t.Helper()
	set := jwk.NewSet()
	for _, k := range keys {
		if err := set.AddKey(k); err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func claims(now time.Time) map[string]any {
	return map[string]any{
		"iss": issuerName, "aud": audience, "sub": "alice", "exp": now.Add(time.Hour).Unix(), "iat": now.Unix(),
		"azp": "cli", "scope": "mcp:read mcp:write", "realm_access": map[string]any{"roles": []string{"reader", "writer"}},
		"https://example.com/tenant": "acme", "big": json.Number("9007199254740993"),
	}
}

func (s signer) sign(t testing.TB, c map[string]any, header map[string]any) string {
	t.Helper()
	body, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return s.signRaw(t, body, header)
}

func (s signer) signRaw(t testing.TB, body []byte, header map[string]any) string {
	t.Helper()
	h := jws.NewHeaders()
	if s.kid != "" {
		_ = h.Set(jws.KeyIDKey, s.kid)
	}
	for k, v := range header {
		if err := h.Set(k, v); err != nil {
			t.Fatal(err)
		}
	}
	b, err := jws.Sign(body, jws.WithKey(s.alg, s.raw, jws.WithProtectedHeaders(h)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func file(t testing.TB, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func mustNew(t testing.TB, o Options) *Authenticator {
	t.Helper()
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func with(c map[string]any, kv ...any) map[string]any {
	for i := 0; i < len(kv); i += 2 {
		if kv[i+1] == nil {
			delete(c, kv[i].(string))
		} else {
			c[kv[i].(string)] = kv[i+1]
		}
	}
	return c
}

func TestTokens(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	rs, es, es384, ed, foreign := newSigner(t, "rs", jwa.RS256()), newSigner(t, "es", jwa.ES256()), newSigner(t, "es384", jwa.ES384()), newSigner(t, "ed", jwa.EdDSA()), newSigner(t, "rs", jwa.RS256())
	pub := rs.public(t, nil)
	pubText, err := json.Marshal(pub)
	if err != nil {
		t.Fatal(err)
	}
	oct, err := jwk.Import([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	_ = oct.Set(jwk.KeyIDKey, "oct")
	enc := newSigner(t, "enc", jwa.RS256())
	ps := signer{"rs", jwa.PS256(), rs.raw}
	bound := newSigner(t, "bound", jwa.RS256()) // a key that its set reserves for another algorithm
	set := keySetText(t, pub, es.public(t, nil), es384.public(t, nil), ed.public(t, nil), oct,
		enc.public(t, func(k jwk.Key) { _ = k.Set(jwk.KeyUsageKey, "enc") }),
		bound.public(t, func(k jwk.Key) { _ = k.Set(jwk.AlgorithmKey, jwa.RS512()) }))
	// An entry of a type nobody knows must not spoil the set.
	set = []byte(strings.Replace(string(set), `"keys":[`, `"keys":[{"kty":"quantum","kid":"q"},`, 1))

	a := mustNew(t, Options{Now: func() time.Time { return now }, JWT: []JWTIssuer{{
		Issuer: issuerName, Audiences: []string{"other", audience}, KeysFile: file(t, set),
		Algorithms: []string{"RS256", "ES256", "EdDSA"},
		Claims:     ClaimPaths{Roles: "realm_access.roles", Tenant: "/https:~1~1example.com~1tenant"},
	}}})
	if err := a.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	b64 := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	payload, _ := json.Marshal(claims(now))
	hs := signer{"rs", jwa.HS256(), pubText} // the public key used as an HMAC secret
	hsOct := signer{"oct", jwa.HS256(), []byte("0123456789abcdef0123456789abcdef")}

	for _, tc := range []struct {
		name  string
		token string
		cause string // part of it; empty = accepted
	}{
		{"RS256", rs.sign(t, claims(now), nil), ""},
		{"ES256", es.sign(t, claims(now), nil), ""},
		{"EdDSA", ed.sign(t, claims(now), nil), ""},
		{"several audiences", es.sign(t, with(claims(now), "aud", []string{"x", "other"}), nil), ""},
		{"expired within leeway", es.sign(t, with(claims(now), "exp", now.Add(-20*time.Second).Unix()), nil), ""},
		{"nbf within leeway", es.sign(t, with(claims(now), "nbf", now.Add(20*time.Second).Unix()), nil), ""},

		{"alg none", b64(`{"alg":"none","kid":"rs"}`) + "." + b64(string(payload)) + ".", "algorithm that is not allowed"},
		{"alg None", b64(`{"alg":"None","kid":"rs"}`) + "." + b64(string(payload)) + ".", "algorithm that is not allowed"},
		{"no alg", b64(`{"kid":"rs"}`) + "." + b64(string(payload)) + ".AA", "algorithm that is not allowed"},
		{"HMAC with the public key", hs.sign(t, claims(now), nil), "algorithm that is not allowed"},
		{"HMAC with a published secret", hsOct.sign(t, claims(now), nil), "algorithm that is not allowed"},
		{"known algorithm, not on the list", es384.sign(t, claims(now), nil), "algorithm that is not allowed"},
		{"PS256 where RS256 is listed", ps.sign(t, claims(now), nil), "algorithm that is not allowed"},
		{"key for encryption", enc.sign(t, claims(now), nil), "does not publish"},
		{"key bound to another algorithm", bound.sign(t, claims(now), nil), "does not publish"},
		{"ES256 with the id of an RSA key", signer{"rs", jwa.ES256(), es.raw}.sign(t, claims(now), nil), "does not publish"},
		{"unknown kid", signer{"new", jwa.ES256(), es.raw}.sign(t, claims(now), nil), "does not publish"},
		{"foreign key with a known kid", foreign.sign(t, claims(now), nil), "verif"},
		{"critical header", es.sign(t, claims(now), map[string]any{"crit": []string{"x"}, "x": true}), "crit"},
		{"other issuer", es.sign(t, with(claims(now), "iss", "https://evil.example"), nil), "unknown issuer"},
		{"no issuer", es.sign(t, with(claims(now), "iss", nil), nil), "unknown issuer"},
		{"issuer is a number", es.sign(t, with(claims(now), "iss", 7), nil), "unknown issuer"},
		{"other audience", es.sign(t, with(claims(now), "aud", "https://gateway.example/"), nil), "another audience"},
		{"no audience", es.sign(t, with(claims(now), "aud", nil), nil), "another audience"},
		{"expired", es.sign(t, with(claims(now), "exp", now.Add(-time.Minute).Unix()), nil), "exp"},
		{"no exp", es.sign(t, with(claims(now), "exp", nil), nil), "exp"},
		{"not yet", es.sign(t, with(claims(now), "nbf", now.Add(time.Minute).Unix()), nil), "nbf"},
		{"issued in the future", es.sign(t, with(claims(now), "iat", now.Add(time.Minute).Unix()), nil), "iat"},
		{"no subject", es.sign(t, with(claims(now), "sub", nil), nil), "subject"},
		{"roles of the wrong type", es.sign(t, with(claims(now), "realm_access", map[string]any{"roles": []any{"reader", 1}}), nil), "other than strings"},
		{"tenant of the wrong type", es.sign(t, with(claims(now), "https://example.com/tenant", []string{"a"}), nil), "not a string"},
		{"claims twice", es.signRaw(t, []byte(strings.Replace(string(payload), `{`, `{"sub":"root",`, 1)), nil), "duplicate"},
		{"claims no object", es.signRaw(t, []byte(`["iss"]`), nil), "neither"},
		{"not base64", "a.b.c", "neither"},
		{"padded base64", b64(`{"alg":"ES256"}`) + "=." + b64(string(payload)) + ".AA", "neither"},
		{"encrypted", "a.b.c.d.e", "neither"},
		{"an unknown API key", "mcpgw_ABC", "neither"},
		{"too long", strings.Repeat("a", MaxCredential+1), "too long"},
		{"signature cut off", strings.TrimRight(es.sign(t, claims(now), nil), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), "empty compact signature"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for range 2 { // the second time perhaps from the cache
				p, err := a.Authenticate(t.Context(), []string{"Bearer " + tc.token}, nil)
				if tc.cause == "" {
					if err != nil {
						t.Fatal(err)
					}
					if p.ID != "alice" || p.Issuer != issuerName {
						t.Fatalf("principal %+v", p)
					}
					continue
				}
				var f *fault.Error
				if p != nil || !errors.As(err, &f) || f.Kind != fault.Unauthenticated {
					t.Fatalf("accepted %v, error %v", p, err)
				}
				if f.Cause == nil || !strings.Contains(f.Cause.Error(), tc.cause) {
					t.Errorf("cause %q, want %q", f.Cause, tc.cause)
				}
				if strings.Contains(err.Error(), tc.token) {
					t.Error("the error holds the token")
				}
				if got := f.Header["WWW-Authenticate"]; !strings.HasPrefix(got, `Bearer realm="mcpgw", error="invalid_token"`) {
					t.Errorf("WWW-Authenticate: %s", got)
				}
			}
		})
	}

	p, err := a.Authenticate(t.Context(), []string{"bEaReR  " + rs.sign(t, claims(now), nil)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(p.Claims), `9007199254740993`) {
		t.Errorf("claims were re-encoded: %s", p.Claims)
	}
	p.Claims = nil
	want := &Principal{Type: User, ID: "alice", Issuer: issuerName, Client: "cli", Tenant: "acme", Roles: []string{"reader", "writer"}, Scopes: []string{"mcp:read", "mcp:write"}}
	if d := cmp.Diff(want, p, cmpopts.IgnoreUnexported(Principal{})); d != "" {
		t.Error(d)
	}
	p, err = a.Authenticate(t.Context(), []string{"Bearer " + rs.sign(t, with(claims(now), "client_id", "robot", "sub", "robot"), nil)}, nil)
	if err != nil || p.Type != Service || p.Client != "robot" {
		t.Errorf("client credentials: %+v, %v", p, err)
	}
}

func TestExpiredTokenIsNamedAndLeavesTheCache(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	es := newSigner(t, "es", jwa.ES256())
	a := mustNew(t, Options{Now: func() time.Time { return now }, JWT: []JWTIssuer{{Issuer: issuerName, Audiences: []string{audience}, KeysFile: file(t, keySetText(t, es.public(t, nil)))}}})
	if err := a.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := []string{"Bearer " + es.sign(t, claims(now), nil)}
	first, err := a.Authenticate(t.Context(), h, nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := a.Authenticate(t.Context(), h, nil); again != first {
		t.Error("the second look was not answered by the cache")
	}
	now = now.Add(time.Hour + 10*time.Second)
	if p, err := a.Authenticate(t.Context(), h, nil); err != nil || p == first {
		t.Errorf("within leeway: %v, cached %v", err, p == first)
	}
	now = now.Add(time.Hour)
	_, err = a.Authenticate(t.Context(), h, nil)
	var f *fault.Error
	if !errors.As(err, &f) || f.Message != "the token has expired" {
		t.Errorf("expired: %v", err)
	}
}

// jwks is an issuer's key endpoint on loopback.
type jwks struct {
	*httptest.Server
	body atomic.Pointer[[]byte]
	hits atomic.Int64
	fail atomic.Bool
}

func newJWKS(t *testing.T, body []byte) *jwks {
	j := &jwks{}
	j.set(body)
	j.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		j.hits.Add(1)
		if j.fail.Load() {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		_, _ = w.Write(*j.body.Load())
	}))
	t.Cleanup(j.Close)
	return j
}

func (j *jwks) set(b []byte) { j.body.Store(&b) }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestKeyRotationOverHTTP(t *testing.T) {
	k1, k2 := newSigner(t, "k1", jwa.ES256()), newSigner(t, "k2", jwa.ES256())
	j := newJWKS(t, keySetText(t, k1.public(t, nil)))
	a := mustNew(t, Options{JWT: []JWTIssuer{{Issuer: issuerName, Audiences: []string{audience}, KeysURL: j.URL}}})
	src := a.sources[0]
	src.gap = 20 * time.Millisecond // every stays at 5 minutes: only unknown keys cause a look
	t1 := []string{"Bearer " + k1.sign(t, claims(time.Now()), nil)}
	t2 := []string{"Bearer " + k2.sign(t, claims(time.Now()), nil)}
	auth := func(h []string) error { _, err := a.Authenticate(t.Context(), h, nil); return err }

	if err := auth(t1); !errors.Is(err, fault.Internal) {
		t.Fatalf("before any look: %v, want the internal fault: the token may be good", err)
	}
	j.fail.Store(true)
	if err := a.Load(t.Context()); err == nil || !strings.Contains(err.Error(), "status 502") {
		t.Fatalf("Load from a broken issuer: %v", err)
	}
	j.fail.Store(false)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	}()
	eventually(t, "k1 accepted", func() bool { return auth(t1) == nil })

	// A token of a key not yet seen is refused at once, and causes a look.
	hits := j.hits.Load()
	if err := auth(t2); !errors.Is(err, fault.Unauthenticated) {
		t.Fatalf("unknown key: %v", err)
	}
	eventually(t, "a look", func() bool { return j.hits.Load() > hits })
	j.set(keySetText(t, k1.public(t, nil), k2.public(t, nil)))
	eventually(t, "k2 accepted", func() bool { return auth(t2) == nil })
	if err := auth(t1); err != nil {
		t.Errorf("the old key beside the new one: %v", err)
	}

	// A broken issuer leaves the keys as they are.
	j.fail.Store(true)
	hits = j.hits.Load()
	unknown := []string{"Bearer " + newSigner(t, "k3", jwa.ES256()).sign(t, claims(time.Now()), nil)}
	eventually(t, "a failed look", func() bool { _ = auth(unknown); return j.hits.Load() > hits })
	if auth(t1) != nil || auth(t2) != nil {
		t.Error("a failed look lost keys")
	}
	j.fail.Store(false)

	// A withdrawn key takes its tokens with it, the remembered ones too.
	j.set(keySetText(t, k2.public(t, nil)))
	eventually(t, "k1 refused", func() bool { _ = auth(unknown); return auth(t1) != nil })
	if err := auth(t2); err != nil {
		t.Errorf("k2 after k1 has gone: %v", err)
	}

	// However many tokens name unknown keys, looks keep their distance.
	src.mu.Lock() // no look ends while we count
	hits = j.hits.Load()
	for range 1000 {
		_ = auth(unknown)
	}
	src.mu.Unlock()
	time.Sleep(5 * src.gap)
	if n := j.hits.Load() - hits; n > 8 {
		t.Errorf("1,000 tokens caused %d looks in five gaps", n)
	}
}

func TestKeyFileIsReadAgain(t *testing.T) {
	k1, k2 := newSigner(t, "k1", jwa.ES256()), newSigner(t, "", jwa.ES256())
	name := file(t, keySetText(t, k1.public(t, nil)))
	a := mustNew(t, Options{JWT: []JWTIssuer{{Issuer: issuerName, Audiences: []string{audience}, KeysFile: name}}})
	if err := a.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	auth := func(s signer) error {
		_, err := a.Authenticate(t.Context(), []string{"Bearer " + s.sign(t, claims(time.Now()), nil)}, nil)
		return err
	}
	if auth(k1) != nil || auth(k2) == nil {
		t.Fatal("the first set is not in force")
	}
	replace := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(name+".new", b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{"", "{", `{"keys":7}`, strings.Repeat(" ", maxKeySet+1)} {
		replace([]byte(bad))
		if err := a.Load(t.Context()); err == nil {
			t.Errorf("a set of %d bytes %.10q is no fault", len(bad), bad)
		}
		if err := auth(k1); err != nil {
			t.Errorf("a bad file (%.10q) lost the keys: %v", bad, err)
		}
	}
	replace(keySetText(t, k2.public(t, nil)))
	if err := a.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if auth(k1) == nil || auth(k2) != nil {
		t.Error("the second set is not in force, or its key without an id cannot be found")
	}
	// Two keys without an id: nothing says which one a token means.
	k3 := newSigner(t, "", jwa.ES256())
	replace(keySetText(t, k2.public(t, nil), k3.public(t, nil)))
	if err := a.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if auth(k2) == nil {
		t.Error("a token without a key id was tried against several keys")
	}
	replace([]byte(`{"keys":[]}`))
	if err := a.Load(t.Context()); !errors.Is(err, errNoKeys) {
		t.Errorf("empty set: %v", err)
	}
	if auth(k2) == nil || !errors.Is(auth(k2), fault.Unauthenticated) {
		t.Error("an issuer that has withdrawn all keys still vouches")
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(name, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := a.Load(t.Context()); err == nil {
		t.Error("a directory was read as keys")
	}
}

func TestAPIKeysAndTheAnonymous(t *testing.T) {
	text, digest := NewKey()
	d, err := ParseDigest(digest)
	if err != nil || d != DigestOf(text) || !strings.HasPrefix(text, "mcpgw_") || len(text) != 58 {
		t.Fatalf("NewKey: %q %q %v", text, digest, err)
	}
	keys := []APIKey{
		{ID: "ci", Digest: d, Principal: Principal{Tenant: "acme", Roles: []string{"reader"}, Issuer: "https://issuer.example", ID: "root", Claims: []byte("{}")}},
		{ID: "ci", Digest: DigestOf("quickstart-writer"), Principal: Principal{Type: User}},
	}
	closed := mustNew(t, Options{APIKeys: keys})
	open := mustNew(t, Options{APIKeys: keys, Anonymous: &Principal{Roles: []string{"guest"}, ID: "root", Issuer: "x", Type: User}})
	ci := &Principal{Type: Service, ID: "ci", Issuer: KeyIssuer, Tenant: "acme", Roles: []string{"reader"}}
	for _, tc := range []struct {
		name          string
		a             *Authenticator
		authorization []string
		apiKey        []string
		want          *Principal
		err           error
		challenge     string
	}{
		{"bearer", closed, []string{"Bearer " + text}, nil, ci, nil, ""},
		{"x-api-key", closed, nil, []string{text}, ci, nil, ""},
		{"old key", closed, []string{"bearer quickstart-writer"}, nil, &Principal{Type: User, ID: "ci", Issuer: KeyIssuer}, nil, ""},
		{"none", closed, nil, nil, nil, fault.Unauthenticated, `Bearer realm="mcpgw"`},
		{"none, welcome", open, nil, nil, &Principal{Type: Anonymous, ID: "anonymous", Roles: []string{"guest"}}, nil, ""},
		{"bad, though anonymous are welcome", open, []string{"Bearer wrong"}, nil, nil, fault.Unauthenticated, `Bearer realm="mcpgw", error="invalid_token", error_description="the credential is not valid"`},
		{"empty, though anonymous are welcome", open, []string{""}, nil, nil, fault.Unauthenticated, `Bearer realm="mcpgw", error="invalid_token", error_description="the credential is not valid"`},
		{"empty key", open, nil, []string{""}, nil, fault.Unauthenticated, `Bearer realm="mcpgw", error="invalid_token", error_description="the credential is not valid"`},
		{"basic", closed, []string{"Basic " + text}, nil, nil, fault.Unauthenticated, `Bearer realm="mcpgw", error="invalid_token", error_description="the credential is not valid"`},
		{"no scheme", closed, []string{text}, nil, nil, fault.Unauthenticated, `Bearer realm="mcpgw", error="invalid_token", error_description="the credential is not valid"`},
		{"digest instead of the key", closed, []string{"Bearer " + digest}, nil, nil, fault.Unauthenticated, `Bearer realm="mcpgw", error="invalid_token", error_description="the credential is not valid"`},
		{"two lines", closed, []string{"Bearer " + text, "Bearer " + text}, nil, nil, fault.TwoCredentials, ""},
		{"two lines, one empty", open, []string{"", "Bearer " + text}, nil, nil, fault.TwoCredentials, ""},
		{"both headers", closed, []string{"Bearer " + text}, []string{text}, nil, fault.TwoCredentials, ""},
		{"two keys", closed, nil, []string{text, text}, nil, fault.TwoCredentials, ""},
		{"joined lines", closed, []string{"Bearer " + text + ", Bearer " + text}, nil, nil, fault.TwoCredentials, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := tc.a.Authenticate(t.Context(), tc.authorization, tc.apiKey)
			if tc.err == nil && err != nil || tc.err != nil && !errors.Is(err, tc.err) {
				t.Fatalf("error %v, want %v", err, tc.err)
			}
			if d := cmp.Diff(tc.want, p, cmpopts.IgnoreUnexported(Principal{})); d != "" {
				t.Error(d)
			}
			if tc.err != nil && fault.From(err).Header["WWW-Authenticate"] != tc.challenge {
				t.Errorf("WWW-Authenticate: %q, want %q", fault.From(err).Header["WWW-Authenticate"], tc.challenge)
			}
			if err != nil && strings.Contains(err.Error(), text) {
				t.Error("the error holds the key")
			}
		})
	}
}

func TestBadOptions(t *testing.T) {
	ok := JWTIssuer{Issuer: issuerName, Audiences: []string{"a"}, KeysFile: "x"}
	with := func(edit func(*JWTIssuer)) Options {
		j := ok
		edit(&j)
		return Options{JWT: []JWTIssuer{j}}
	}
	for _, tc := range []struct {
		want string
		o    Options
	}{
		{`issuer "" is no issuer's name`, with(func(j *JWTIssuer) { j.Issuer = "" })},
		{"is no issuer's name", with(func(j *JWTIssuer) { j.Issuer = KeyIssuer })},
		{"at least one audience", with(func(j *JWTIssuer) { j.Audiences = nil })},
		{"at least one audience", with(func(j *JWTIssuer) { j.Audiences = []string{""} })},
		{"either a file or a URL", with(func(j *JWTIssuer) { j.KeysFile = "" })},
		{"either a file or a URL", with(func(j *JWTIssuer) { j.KeysURL = "https://x" })},
		{`algorithm "none" is not allowed`, with(func(j *JWTIssuer) { j.Algorithms = []string{"none"} })},
		{`algorithm "HS256" is not allowed`, with(func(j *JWTIssuer) { j.Algorithms = []string{"RS256", "HS256"} })},
		{"empty name", with(func(j *JWTIssuer) { j.Claims.Roles = "a..b" })},
		{"must be written ~0", with(func(j *JWTIssuer) { j.Claims.Tenant = "/a~2" })},
		{"leeway 10m0s", with(func(j *JWTIssuer) { j.Leeway = 10 * time.Minute })},
		{"leeway -1s", with(func(j *JWTIssuer) { j.Leeway = -time.Second })},
		{"want https", with(func(j *JWTIssuer) { j.KeysFile, j.KeysURL = "", "http://issuer.example/jwks" })},
		{"want https", with(func(j *JWTIssuer) { j.KeysFile, j.KeysURL = "", "file:///etc/passwd" })},
		{"without user", with(func(j *JWTIssuer) { j.KeysFile, j.KeysURL = "", "https://a:b@issuer.example/jwks" })},
		{"named twice", Options{JWT: []JWTIssuer{ok, ok}}},
		{"has no id", Options{APIKeys: []APIKey{{Digest: [32]byte{1}}}}},
		{"has no digest", Options{APIKeys: []APIKey{{ID: "a"}}}},
		{"same digest", Options{APIKeys: []APIKey{{ID: "a", Digest: [32]byte{1}}, {ID: "b", Digest: [32]byte{1}}}}},
		{"neither user nor service", Options{APIKeys: []APIKey{{ID: "a", Digest: [32]byte{1}, Principal: Principal{Type: Anonymous}}}}},
	} {
		if _, err := New(tc.o); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("New = %v, want %q", err, tc.want)
		}
	}
	_, err := New(Options{APIKeys: []APIKey{{}}, JWT: []JWTIssuer{{}}})
	if err == nil || len(strings.Split(err.Error(), "\n")) != 2 {
		t.Errorf("not all faults at once: %v", err)
	}
}

func TestGuard(t *testing.T) {
	for _, tc := range []struct {
		addr                   string
		public, private, local bool // allowed for a public URL, with private ones allowed, for a loopback URL
	}{
		{"93.184.216.34", true, true, false},
		{"2606:2800:220:1::1", true, true, false},
		{"10.0.0.1", false, true, false},
		{"192.168.1.1", false, true, false},
		{"172.16.0.1", false, true, false},
		{"fd12::1", false, true, false},
		{"::ffff:10.0.0.1", false, true, false},
		{"127.0.0.1", false, false, true},
		{"::1", false, false, true},
		{"::ffff:127.0.0.1", false, false, true},
		{"169.254.169.254", false, false, false},
		{"fe80::1", false, false, false},
		{"fd00:ec2::254", false, false, false},
		{"168.63.129.16", false, false, false},
		{"::ffff:169.254.169.254", false, false, false},
		{"64:ff9b::a9fe:a9fe", false, false, false},
		{"2002:a9fe:a9fe::1", false, false, false},
		{"0.0.0.0", false, false, false},
		{"::", false, false, false},
		{"100.100.100.200", false, false, false},
		{"224.0.0.1", false, false, false},
		{"255.255.255.255", false, false, false},
	} {
		a := netip.MustParseAddr(tc.addr)
		if p, pr, l := (guard{}).allows(a), (guard{private: true}).allows(a), (guard{loopback: true}).allows(a); p != tc.public || pr != tc.private || l != tc.local {
			t.Errorf("%s: public %v, private %v, loopback %v", tc.addr, p, pr, l)
		}
	}

	es := newSigner(t, "es", jwa.ES256())
	set := keySetText(t, es.public(t, nil))
	var target string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/jwks":
			_, _ = w.Write(set)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/big":
			_, _ = w.Write(make([]byte, maxKeySet+1))
		case "/hang":
			<-r.Context().Done()
		default:
			http.Redirect(w, r, target, http.StatusFound)
		}
	}))
	defer s.Close()
	for _, tc := range []struct{ name, path, target, want string }{
		{"plain", "/jwks", "", ""},
		{"redirect on this machine", "/r", "/jwks", ""},
		{"redirect to metadata", "/r", "http://169.254.169.254/latest/meta-data", "not on this machine"},
		{"redirect away", "/r", "https://issuer.example/jwks", "not on this machine"},
		{"redirect to a file", "/r", "file:///etc/passwd", "https://host/path"},
		{"loop", "/loop", "", "too many redirects"},
		{"too big", "/big", "", "larger than"},
	} {
		target = tc.target
		a := mustNew(t, Options{JWT: []JWTIssuer{{Issuer: issuerName, Audiences: []string{"a"}, KeysURL: s.URL + tc.path}}})
		err := a.Load(t.Context())
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := mustNew(t, Options{JWT: []JWTIssuer{{Issuer: issuerName, Audiences: []string{"a"}, KeysURL: s.URL + "/hang"}}}).Load(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a hung issuer: %v", err)
	}

	// A URL that does not name this machine may not lead to it, whatever its name resolves to.
	g := guard{}
	c := g.client()
	if _, err := fetch(t.Context(), c, strings.Replace(s.URL, "http://", "https://", 1)); err == nil || !strings.Contains(err.Error(), "address 127.0.0.1 is not allowed") {
		t.Errorf("dialling loopback for a public URL: %v", err)
	}
}

func TestPrincipalKey(t *testing.T) {
	if k := (*Principal)(nil).Key(); k != "" {
		t.Errorf("nobody's key is %q", k)
	}
	anonymous := &Principal{Type: Anonymous, ID: "anonymous"}
	rapid.Check(t, func(t *rapid.T) {
		gen := rapid.Custom(func(t *rapid.T) *Principal {
			part := rapid.OneOf(rapid.StringMatching(`[0-9:a]{0,4}`), rapid.String())
			return &Principal{Type: User, Issuer: part.Draw(t, "iss"), ID: part.Draw(t, "sub"), Client: part.Draw(t, "client"), Tenant: part.Draw(t, "tenant")}
		})
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		same := a.Issuer == b.Issuer && a.ID == b.ID && a.Client == b.Client
		if (a.Key() == b.Key()) != same || a.Key() == anonymous.Key() {
			t.Fatalf("%q and %q", a.Key(), b.Key())
		}
	})
}

func TestSecretPrintsRedacted(t *testing.T) {
	const text = "hunter2-hunter2"
	s := NewSecret(text)
	type holder struct {
		Name   string
		Token  Secret
		hidden Secret
	}
	h := holder{"x", s, s}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T %v"} {
		_, _ = fmt.Fprintf(&out, verb+"\n", s)
		_, _ = fmt.Fprintf(&out, verb+"\n", h)
		_, _ = fmt.Fprintf(&out, verb+"\n", &h)
	}
	b, err := json.Marshal(map[string]any{"h": h, "s": s, "p": &s})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(b)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "s", s, "h", h)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "s", s, "h", h)
	if got := out.String(); strings.Contains(got, "hunter2") || strings.Contains(strings.ToLower(got), fmt.Sprintf("%x", text)) {
		t.Errorf("a secret was printed:\n%s", got)
	}
	if s.Reveal() != text || s.Empty() || !(Secret{}).Empty() || reflect.TypeOf(s).NumField() != 1 {
		t.Error("Reveal or Empty is wrong")
	}
}

func TestWWWAuthenticateQuotes(t *testing.T) {
	if got, want := WWWAuthenticate("a\"b\\c\r\nX: y", "insufficient_scope", "é"), `Bearer realm="a\"b\\cX: y", error="insufficient_scope", error_description=""`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func FuzzAuthenticate(f *testing.F) {
	now := time.Now()
	es := newSigner(f, "es", jwa.ES256())
	a := mustNew(f, Options{JWT: []JWTIssuer{{Issuer: issuerName, Audiences: []string{audience}, KeysFile: file(f, keySetText(f, es.public(f, nil)))}}})
	if err := a.Load(f.Context()); err != nil {
		f.Fatal(err)
	}
	good := es.sign(f, claims(now), nil)
	f.Add("Bearer " + good)
	f.Add("Bearer a.b.c")
	f.Add("Bearer eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, h string) {
		p, err := a.Authenticate(t.Context(), []string{h}, nil)
		if p != nil && strings.Trim(h[len("bearer "):], " \t") != good {
			t.Fatalf("accepted %q", h)
		}
		if (p == nil) == (err == nil) {
			t.Fatalf("%v, %v", p, err)
		}
	})
}

func BenchmarkAuthenticate(b *testing.B) {
	text, _ := NewKey()
	es, rs := newSigner(b, "es", jwa.ES256()), newSigner(b, "rs", jwa.RS256())
	o := Options{
		APIKeys: []APIKey{{ID: "x", Digest: DigestOf(text)}},
		JWT:     []JWTIssuer{{Issuer: issuerName, Audiences: []string{audience}, KeysFile: file(b, keySetText(b, es.public(b, nil), rs.public(b, nil)))}},
	}
	a := mustNew(b, o)
	if err := a.Load(b.Context()); err != nil {
		b.Fatal(err)
	}
	bench := func(name, credential string, forget bool) {
		h := []string{"Bearer " + credential}
		d := DigestOf(credential)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if forget {
					a.cache.Invalidate(d)
				}
				if _, err := a.Authenticate(b.Context(), h, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	bench("key", text, false)
	bench("jwt-cached", rs.sign(b, claims(time.Now()), nil), false)
	bench("jwt-ES256", es.sign(b, claims(time.Now()), nil), true)
	bench("jwt-RS256", rs.sign(b, claims(time.Now()), nil), true)
}

// TestCachedTokensAreCheap holds the budget of a known credential: the digest's input is all it may allocate.
func TestCachedTokensAreCheap(t *testing.T) {
	text, _ := NewKey()
	es := newSigner(t, "es", jwa.ES256())
	a := mustNew(t, Options{APIKeys: []APIKey{{ID: "x", Digest: DigestOf(text)}}, JWT: []JWTIssuer{{Issuer: issuerName, Audiences: []string{audience}, KeysFile: file(t, keySetText(t, es.public(t, nil)))}}})
	if err := a.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, credential := range []string{text, es.sign(t, claims(time.Now()), nil)} {
		h := []string{"Bearer " + credential}
		if n := testing.AllocsPerRun(100, func() { _, _ = a.Authenticate(context.Background(), h, nil) }); n > 1 {
			t.Errorf("%d-byte credential: %v allocations", len(credential), n)
		}
	}
}
