package bundle

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"
)

// Options say where bundles come from. Exactly one of Path, URL and OCI is set.
type Options struct {
	Path string // a directory, or a .tar.gz file
	URL  string // http or https; may have a query, which is shown nowhere
	OCI  string // HOST/REPOSITORY:TAG or HOST/REPOSITORY@DIGEST; a loopback host without CAFile is asked over plain HTTP

	// Verification is the key that bundles must be signed with. Without it only unsigned bundles are taken.
	Verification *Verification

	Poll     time.Duration // between two looks; 0 is 60 s
	LongPoll time.Duration // how long the server of URL may hold a request; whole seconds; 0 is never
	MaxBytes int64         // of a bundle, unpacked; 0 is 64 MiB

	// Token gives the bearer token, asked for each request. It goes to the host of URL or OCI alone, and is never logged.
	Token  func() (string, error)
	CAFile string // PEM file of the CA certificates, instead of the system's

	Log *slog.Logger // nil logs nothing
}

// Verification is how a signature is judged.
type Verification struct {
	KeyFile   string // PEM file of the public key, or for HS algorithms the secret: every byte of the file, as for opa sign
	KeyID     string // what the signature must call its key; empty is "default"
	Algorithm string // empty is RS256
	Scope     string // what the signature must name as its scope; empty: none
}

const (
	defaultMaxBytes = 64 << 20
	defaultPoll     = time.Minute
	defaultKeyID    = "default"
	defaultAlg      = "RS256"
)

// Algorithms of signatures.
var algorithms = []string{"ES256", "ES384", "ES512", "HS256", "HS384", "HS512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"}

func (o *Options) setDefaults() {
	if o.MaxBytes <= 0 {
		o.MaxBytes = defaultMaxBytes
	}
	if o.Poll <= 0 {
		o.Poll = defaultPoll
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// name is the source for logs and errors: no query, no user, no password.
func (o *Options) name() string {
	switch {
	case o.Path != "":
		return o.Path
	case o.URL != "":
		return withoutQuery(o.URL)
	}
	return o.OCI
}

func withoutQuery(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "an unreadable URL"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// place splits what is asked over a network into the server and the path there. For registries the path is the whole reference.
func (o *Options) place() (server *url.URL, path string, err error) {
	if o.URL != "" {
		u, err := url.Parse(o.URL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, "", errors.New("the bundle's url is no http or https URL")
		}
		return &url.URL{Scheme: u.Scheme, Host: u.Host}, u.RequestURI(), nil
	}
	host, rest, ok := strings.Cut(o.OCI, "/")
	name := rest[strings.LastIndexByte(rest, '/')+1:]
	if !ok || host == "" || name == "" || !strings.ContainsAny(name, ":@") || strings.HasSuffix(name, ":") || strings.Contains(host, "@") {
		return nil, "", fmt.Errorf("%s is no image reference; write HOST/REPOSITORY:TAG, without a scheme", o.OCI)
	}
	u := &url.URL{Scheme: "https", Host: host}
	if o.CAFile == "" && loopback(u.Hostname()) {
		u.Scheme = "http"
	}
	return u, o.OCI, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// maxKey bounds a key file.
const maxKey = 64 << 10

// minSecret is the least length of an HS secret: that of the hash, as RFC 7518 has it.
const minSecret = 32

// config reads the key, and turns all into OPA's words. nil stays nil: only unsigned bundles are read then.
func (v *Verification) config() (*bundle.VerificationConfig, error) {
	if v == nil {
		return nil, nil
	}
	id, alg := v.KeyID, v.Algorithm
	if id == "" {
		id = defaultKeyID
	}
	if alg == "" {
		alg = defaultAlg
	}
	key, err := readBounded(v.KeyFile, maxKey)
	if err != nil {
		return nil, fmt.Errorf("verification key: %w", err)
	}
	if err := checkPublic(key, alg); err != nil {
		return nil, fmt.Errorf("verification key %s: %w", v.KeyFile, err)
	}
	// No key id in the configuration itself: with one OPA would not look at what the signature calls its key.
	return bundle.NewVerificationConfig(map[string]*bundle.KeyConfig{id: {Key: string(key), Algorithm: alg}}, "", v.Scope, nil), nil
}

var algorithm = regexp.MustCompile(`^(RS|PS|ES|HS)(256|384|512)$`)

// checkPublic tells early what would else be an odd fault of every bundle.
func checkPublic(key []byte, alg string) error {
	if !algorithm.MatchString(alg) {
		return fmt.Errorf("there is no algorithm %q: want RS, PS, ES or HS with 256, 384 or 512", alg)
	}
	if strings.HasPrefix(alg, "HS") {
		return checkSecret(key)
	}
	block, _ := pem.Decode(key)
	if block == nil {
		return errors.New("is no PEM file")
	}
	var public any
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		public, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		public, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var c *x509.Certificate
		if c, err = x509.ParseCertificate(block.Bytes); err == nil {
			public = c.PublicKey
		}
	default:
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return errors.New("is a private key, which only whoever signs should have; take the public one: openssl pkey -in KEY -pubout")
		}
		return fmt.Errorf("holds a PEM block of type %s, not a public key", block.Type)
	}
	if err != nil {
		return err
	}
	switch public.(type) {
	case *rsa.PublicKey:
		if alg[0] == 'R' || alg[0] == 'P' {
			return nil
		}
	case *ecdsa.PublicKey:
		if alg[0] == 'E' {
			return nil
		}
	}
	return fmt.Errorf("is no key for %s", alg)
}

func checkSecret(secret []byte) error {
	if len(secret) < minSecret {
		return fmt.Errorf("the secret has %d bytes; it needs at least %d", len(secret), minSecret)
	}
	return nil
}

func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: larger than %d bytes", name, limit)
	}
	return b, err
}
