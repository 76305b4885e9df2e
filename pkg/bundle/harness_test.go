package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mcpgw/mcpgw/pkg/opa"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/maypok86/otter/v2.(*cache[...]).periodicCleanUp"))
}

const patience = 10 * time.Second

// rules are a policy whose text names its revision.
func rules(word string) map[string]string {
	return map[string]string{
		"policy/main.rego":      "package mcpgw.policy\n\nallow if \"" + word + "\" in input.subject.roles\n\nallow if some role in data.grants[input.resource.name]\n",
		"policy/main_test.rego": "package mcpgw.policy_test\n\ntest_x if true\n",
		"grants/data.yaml":      "git_log: [reader, 9007199254740993]\n",
	}
}

func dirOf(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		write(t, filepath.Join(dir, name), text)
	}
	return dir
}

func write(t testing.TB, name, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// built is a bundle of a policy as this package makes it.
func built(t testing.TB, word string, s *Signing) []byte {
	t.Helper()
	b, err := Build(BuildOptions{Dir: dirOf(t, rules(word)), Revision: "rev-" + word, Signing: s})
	if err != nil {
		t.Fatal(err)
	}
	return b.Archive
}

// member is a file of an archive that is written by hand.
type member struct {
	name, text string
	kind       byte // 0 is a file
}

func archive(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Mode: 0o600, Size: int64(len(m.text)), Typeflag: tar.TypeReg}
		if m.kind != 0 {
			h.Typeflag, h.Size, h.Linkname = m.kind, 0, m.text
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte(m.text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pair is a key pair in files.
type pair struct{ private, public string }

var (
	keysOnce sync.Once
	rsaKeys  [2]*rsa.PrivateKey
	ecKeys   = map[string]*ecdsa.PrivateKey{}
)

func keyPair(t testing.TB, private any, public any) pair {
	t.Helper()
	dir := t.TempDir()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	p := pair{filepath.Join(dir, "key.pem"), filepath.Join(dir, "public.pem")}
	write(t, p.private, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	if der, err = x509.MarshalPKIXPublicKey(public); err != nil {
		t.Fatal(err)
	}
	write(t, p.public, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	return p
}

func makeKeys(t testing.TB) {
	keysOnce.Do(func() {
		for i := range rsaKeys {
			k, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				t.Fatal(err)
			}
			rsaKeys[i] = k
		}
		for alg, curve := range map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()} {
			k, err := ecdsa.GenerateKey(curve, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			ecKeys[alg] = k
		}
	})
}

func rsaPair(t testing.TB, i int) pair {
	makeKeys(t)
	return keyPair(t, rsaKeys[i], &rsaKeys[i].PublicKey)
}

// site is an HTTP server that serves one bundle with an ETag, and can hold requests as OPA's long polling has it.
type site struct {
	*httptest.Server
	mu       sync.Mutex
	changed  chan struct{}
	body     []byte
	etag     string
	status   int // instead of 200
	long     bool
	deaf     bool // long polling is promised, not done
	gets     int
	fresh    int // answers with a body
	same     int // answers with 304
	asked    []string
	prefer   []string
	header   []http.Header
	redirect string
}

func newSite(t testing.TB, tls bool) *site {
	s := &site{changed: make(chan struct{})}
	if tls {
		s.Server = httptest.NewTLSServer(s)
	} else {
		s.Server = httptest.NewServer(s)
	}
	t.Cleanup(s.Close)
	return s
}

func (s *site) put(etag string, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.etag, s.body, s.status = etag, body, 0
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *site) fail(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.gets++
	s.asked = append(s.asked, r.Header.Get("If-None-Match"))
	s.prefer = append(s.prefer, r.Header.Get("Prefer"))
	s.header = append(s.header, r.Header.Clone())
	changed := s.changed
	if s.redirect != "" {
		defer s.mu.Unlock()
		http.Redirect(w, r, s.redirect, http.StatusFound)
		return
	}
	if s.long && !s.deaf && s.etag != "" && r.Header.Get("If-None-Match") == s.etag {
		s.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		case <-time.After(2 * time.Second):
		}
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	if s.long {
		w.Header().Set("Content-Type", longPollType)
	} else {
		w.Header().Set("Content-Type", "application/gzip")
	}
	if s.status != 0 {
		w.WriteHeader(s.status)
		return
	}
	w.Header().Set("ETag", s.etag)
	if s.etag != "" && r.Header.Get("If-None-Match") == s.etag {
		s.same++
		w.WriteHeader(http.StatusNotModified)
		return
	}
	s.fresh++
	_, _ = w.Write(s.body)
}

func (s *site) counts() (gets, fresh, same int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gets, s.fresh, s.same
}

// follower runs a source and keeps what it takes. veto, where set, judges first.
type follower struct {
	*Source
	log  *syncBuffer
	mu   sync.Mutex
	took []*Content
	veto func(*Content) error
}

func follow(t testing.TB, o Options) *follower {
	t.Helper()
	f := &follower{log: &syncBuffer{}}
	o.Log = slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if o.Poll == 0 {
		o.Poll = 20 * time.Millisecond
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	f.Source = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Run(ctx, f.take); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		s.Close()
	})
	return f
}

func (f *follower) take(_ context.Context, c *Content) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.veto != nil {
		if err := f.veto(c); err != nil {
			return err
		}
	}
	if _, err := opa.Load(opa.Options{Modules: c.Modules, Data: c.Data}); err != nil {
		return err
	}
	f.took = append(f.took, c)
	return nil
}

func (f *follower) revisions() (out []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.took {
		out = append(out, c.Revision)
	}
	return out
}

func (f *follower) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s; took %v, status %+v\n%s", what, f.revisions(), f.Status(), f.log)
		}
	}
}

func (f *follower) awaitRevision(t testing.TB, want string) {
	t.Helper()
	f.await(t, want+" is taken", func() bool { return slices.Contains(f.revisions(), want) && f.Status().Revision == want })
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
