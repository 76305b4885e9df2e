package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
)

// algorithm is a signature algorithm we know, and the keys it goes with (RFC 7518 section 3.1, RFC 8037 section 3.1). Everything
// else is refused when the configuration is read: "none" and the HMAC family, whose key would be a public one, before all.
type algorithm struct {
	jwa   jwa.SignatureAlgorithm
	kty   jwa.KeyType
	curve string
}

func algorithms() map[string]algorithm {
	m := map[string]algorithm{}
	for _, a := range []algorithm{
		{jwa.RS256(), jwa.RSA(), ""},
		{jwa.RS384(), jwa.RSA(), ""},
		{jwa.RS512(), jwa.RSA(), ""},
		{jwa.PS256(), jwa.RSA(), ""},
		{jwa.PS384(), jwa.RSA(), ""},
		{jwa.PS512(), jwa.RSA(), ""},
		{jwa.ES256(), jwa.EC(), "P-256"},
		{jwa.ES384(), jwa.EC(), "P-384"},
		{jwa.ES512(), jwa.EC(), "P-521"},
		{jwa.EdDSA(), jwa.OKP(), "Ed25519"},
	} {
		m[a.jwa.String()] = a
	}
	return m
}

// key is one public signature key of an issuer.
type key struct {
	jwk   jwk.Key
	kty   jwa.KeyType
	curve string
	alg   string // the one algorithm it is for, if the set says
}

func (k key) fits(a algorithm) bool {
	return k.kty == a.kty && k.curve == a.curve && (k.alg == "" || k.alg == a.jwa.String())
}

// keySet is an issuer's keys by key id, as one text gave them. It is immutable.
type keySet struct {
	byID map[string][]key
	all  []key
}

// maxCandidates bounds the signature checks that one token can cause.
const maxCandidates = 4

// find is the keys that may have made a signature: those of the id, or without an id the only key that fits at all.
func (s *keySet) find(id string, a algorithm) []key {
	among := s.all
	if id != "" {
		among = s.byID[id]
	}
	var fit []key
	for _, k := range among {
		if k.fits(a) {
			fit = append(fit, k)
		}
	}
	if id == "" && len(fit) > 1 || len(fit) > maxCandidates {
		return nil
	}
	return fit
}

var errNoKeys = errors.New("it holds no public signature key")

// parseKeySet reads a JWK set (RFC 7517). Entries that are not for signatures, symmetric or unknown are passed over, as section 5
// asks; of a private key only the public half is kept.
func parseKeySet(raw []byte) (*keySet, error) {
	set, err := jwk.Parse(raw, jwk.WithStrictKeySetParsing(false), jwk.WithMaxKeys(100))
	if err != nil {
		return nil, err
	}
	s := &keySet{byID: map[string][]key{}}
	for i := range set.Len() {
		j, _ := set.Key(i)
		if jwk.IsUnsupportedKey(j) || j.KeyType() == jwa.OctetSeq() {
			continue
		}
		if use, ok := j.KeyUsage(); ok && use != "sig" {
			continue
		}
		pub, err := j.PublicKey()
		if err != nil || pub.Validate() != nil {
			continue
		}
		k := key{jwk: pub, kty: pub.KeyType()}
		if c, ok := pub.(interface {
			Crv() (jwa.EllipticCurveAlgorithm, bool)
		}); ok {
			if crv, ok := c.Crv(); ok {
				k.curve = crv.String()
			}
		}
		if a, ok := pub.Algorithm(); ok {
			k.alg = a.String()
		}
		s.all = append(s.all, k)
		if id, ok := pub.KeyID(); ok && id != "" {
			s.byID[id] = append(s.byID[id], k)
		}
	}
	if len(s.all) == 0 {
		return s, errNoKeys
	}
	return s, nil
}

// source keeps one issuer's keys fresh. Readers take current and never wait; what changes it is refresh, from Load or Run.
type source struct {
	name      string // for the log
	file, url string
	client    *http.Client
	every     time.Duration // between two looks when all is well
	gap       time.Duration // at least, between two looks that tokens caused or that failed

	current atomic.Pointer[keySet] // nil until the first look succeeded
	wanted  chan struct{}          // a token named a key we do not have

	mu   sync.Mutex // guards the rest: one refresh at a time
	raw  []byte
	seen fs.FileInfo
}

// want asks for a look soon; it never blocks.
func (s *source) want() {
	select {
	case s.wanted <- struct{}{}:
	default:
	}
}

// refresh looks at the source once. On a fault the keys stay as they were; a readable set without a key is no fault of reading, so
// it replaces them, and is reported.
func (s *source) refresh(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, err := s.read(ctx)
	if err != nil {
		return fmt.Errorf("keys of %s: %w", s.name, err)
	}
	if raw == nil || s.raw != nil && bytes.Equal(raw, s.raw) {
		return nil
	}
	set, err := parseKeySet(raw)
	if set != nil {
		s.raw = raw
		s.current.Store(set)
	}
	if err != nil {
		return fmt.Errorf("keys of %s: %w", s.name, err)
	}
	return nil
}

// read is the source's text; nil when a file has not changed.
func (s *source) read(ctx context.Context) ([]byte, error) {
	if s.url != "" {
		return fetch(ctx, s.client, s.url)
	}
	st, err := os.Stat(s.file) // before it is opened: opening a pipe would wait for its writer
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	if o := s.seen; o != nil && os.SameFile(o, st) && o.ModTime().Equal(st.ModTime()) && o.Size() == st.Size() {
		return nil, nil
	}
	f, err := os.Open(s.file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := readAll(f)
	if err == nil {
		s.seen = st
	}
	return b, err
}

// run looks at the source now and then, and soon after a token named an unknown key, until ctx ends.
func (s *source) run(ctx context.Context, log *slog.Logger) {
	var (
		timer  = time.NewTimer(0)
		wanted <-chan struct{}
		last   time.Time
		faults int
	)
	if s.current.Load() != nil { // Load was here
		timer.Reset(jitter(s.every))
		wanted = s.wanted
	}
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-wanted:
			if rest := s.gap - time.Since(last); rest > 0 {
				timer.Reset(rest)
				wanted = nil // one look answers all who want one till then
				continue
			}
		}
		select {
		case <-s.wanted:
		default:
		}
		last, wanted = time.Now(), s.wanted
		if err := s.refresh(ctx); err != nil {
			if ctx.Err() != nil {
				return
			}
			faults++
			log.WarnContext(ctx, "signature keys could not be refreshed", "error", err, "faults", faults)
			timer.Reset(jitter(min(s.gap<<min(faults-1, 10), max(s.every, s.gap))))
			continue
		}
		faults = 0
		timer.Reset(jitter(s.every))
	}
}

// jitter spreads d by a tenth, so that a fleet does not knock at once.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)/5*float64(d))
}
