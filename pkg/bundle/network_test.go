package bundle

import (
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// harbour is a real registry that counts what is asked of it.
type harbour struct {
	*httptest.Server
	mu    sync.Mutex
	token string
	asked []string // method and path
	sent  []string // Authorization
	away  string   // blobs are redirected there
}

func newHarbour(t testing.TB, tls bool) *harbour {
	h := &harbour{}
	inner := registry.New(registry.Logger(log.New(&syncBuffer{}, "", 0)))
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.asked, h.sent = append(h.asked, r.Method+" "+r.URL.Path), append(h.sent, r.Header.Get("Authorization"))
		token, away := h.token, h.away
		h.mu.Unlock()
		if token != "" && r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if away != "" && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, away+r.URL.Path, http.StatusTemporaryRedirect)
			return
		}
		inner.ServeHTTP(w, r)
	})
	if tls {
		h.Server = httptest.NewTLSServer(handler)
	} else {
		h.Server = httptest.NewServer(handler)
	}
	t.Cleanup(h.Close)
	return h
}

func (h *harbour) image() string {
	u, err := url.Parse(h.URL)
	if err != nil {
		panic(err)
	}
	return u.Host + "/policies/live:v1"
}

// push makes an image of one layer and puts the tag on it.
func (h *harbour) push(t testing.TB, layer []byte, kind types.MediaType) {
	t.Helper()
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), static.NewLayer(layer, kind))
	if err != nil {
		t.Fatal(err)
	}
	h.pushImage(t, img)
}

func (h *harbour) pushImage(t testing.TB, img v1.Image) {
	t.Helper()
	ref, err := name.ParseReference(h.image())
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithTransport(h.Client().Transport)); err != nil {
		t.Fatal(err)
	}
}

func (h *harbour) blobs() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range h.asked {
		if strings.HasPrefix(a, "GET ") && strings.Contains(a, "/blobs/") {
			n++
		}
	}
	return n
}

// TestOCI: an image is taken once, another under the same tag is taken, what is bad is refused and retried, and nothing gathers on disk.
func TestOCI(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	own := rsaPair(t, 0)
	signing := &Signing{KeyFile: own.private, Scope: "live"}
	h := newHarbour(t, false)
	one := built(t, "one", signing)
	h.push(t, one, types.OCILayer)
	f := follow(t, Options{OCI: h.image(), Verification: &Verification{KeyFile: own.public, Scope: "live"}, MaxBytes: 1 << 20})
	f.awaitRevision(t, "rev-one")
	if c := f.took[0]; !c.Signed || c.ETag != fmt.Sprintf("%x", sha256.Sum256(one)) || c.Modules[0].Name != "policy/main.rego" {
		t.Errorf("%+v", c)
	}
	want := []string{"rev-one"}
	cases := refusals(t)
	for _, name := range []string{"unsigned", "another key", "another scope", "delta", "one large file", "bomb", "garbage", "cut", "leads out", "link"} {
		c := cases[name]
		t.Run(name, func(t *testing.T) {
			failures := f.Status().Failures
			h.push(t, c.body, types.OCILayer)
			f.await(t, "it is refused again", func() bool { return f.Status().Failures >= failures+2 })
			st := f.Status()
			if name == "garbage" { // no gzip, so it is not looked into before OPA does
				c.want = "gzip"
			}
			if !strings.Contains(st.Error, c.want) || st.Revision != want[len(want)-1] {
				t.Errorf("want %q: %+v", c.want, st)
			}
			h.push(t, built(t, name, signing), types.OCILayer)
			f.awaitRevision(t, "rev-"+name)
			want = append(want, "rev-"+name)
		})
	}
	if got := f.revisions(); !slices.Equal(got, want) {
		t.Errorf("took %v, want %v", got, want)
	}
	h.push(t, one, types.MediaType("application/x-tar"))
	f.await(t, "an image without the right layer is refused", func() bool { return strings.Contains(f.Status().Error, "no tarball") })
	h.push(t, one, types.OCILayer)
	f.await(t, "it recovers", func() bool { return f.Status().Error == "" && f.Status().Revision == "rev-one" })
	before := h.blobs()
	f.await(t, "more looks", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.asked) > 400 || time.Since(f.Status().Activated) > time.Second
	})
	if n := h.blobs() - before; n > 20 {
		t.Errorf("an image that stays was read again %d times", n)
	}
	stores, err := filepath.Glob(filepath.Join(tmp, "mcpgw-oci-*"))
	if err != nil || len(stores) > 1 {
		t.Errorf("%d stores lie about, %v", len(stores), err)
	}
	files := 0
	_ = filepath.WalkDir(tmp, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(path, "mcpgw-oci-") {
			files++
		}
		return nil
	})
	if files > 3*maxLooks+3 {
		t.Errorf("%d files in the store", files)
	}
}

// caFile is the certificate of a TLS test server.
func caFile(t testing.TB, s *httptest.Server) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
}

// TestTLS: a server behind an own CA is reached with it, not without it; TLS is never left on the way.
func TestTLS(t *testing.T) {
	s := newSite(t, true)
	s.Config.ErrorLog = log.New(&syncBuffer{}, "", 0)
	s.put(`"one"`, built(t, "one", nil))
	follow(t, Options{URL: s.URL, CAFile: caFile(t, s.Server)}).awaitRevision(t, "rev-one")
	without := follow(t, Options{URL: s.URL})
	without.await(t, "the certificate is not trusted", func() bool { return strings.Contains(without.Status().Error, "certificate") })

	h := newHarbour(t, true)
	h.push(t, built(t, "image", nil), types.OCILayer)
	follow(t, Options{OCI: h.image(), CAFile: caFile(t, h.Server)}).awaitRevision(t, "rev-image")

	bare := newSite(t, false)
	bare.put(`"two"`, built(t, "two", nil))
	s.mu.Lock()
	s.redirect = bare.URL
	s.mu.Unlock()
	down := follow(t, Options{URL: s.URL, CAFile: caFile(t, s.Server)})
	down.await(t, "a redirect out of TLS is refused", func() bool { return strings.Contains(down.Status().Error, "without TLS") })
	if gets, _, _ := bare.counts(); gets != 0 {
		t.Error("it was followed")
	}
}

// TestToken: the token goes to the configured server in every request and to nobody else, and stands in no log, status or error; nor
// does the query of a URL.
func TestToken(t *testing.T) {
	const token, query = "t0ken-that-nobody-may-see", "sig=s3cret"
	get := func() (string, error) { return token, nil }
	away := newSite(t, false)
	away.put(`"one"`, built(t, "one", nil))
	s := newSite(t, false)
	s.redirect = away.URL + "/elsewhere?" + query
	f := follow(t, Options{URL: s.URL + "/b.tar.gz?" + query, Token: get})
	f.awaitRevision(t, "rev-one")
	away.fail(http.StatusForbidden)
	f.await(t, "403", func() bool { return strings.Contains(f.Status().Error, "status 403") })
	away.Close()
	f.await(t, "gone", func() bool { return strings.Contains(f.Status().Error, "refused") })
	s.mu.Lock()
	for _, h := range s.header {
		if h.Get("Authorization") != "Bearer "+token {
			t.Errorf("the server got %q", h.Get("Authorization"))
		}
	}
	s.mu.Unlock()
	away.mu.Lock()
	for _, h := range away.header {
		if h.Get("Authorization") != "" {
			t.Errorf("another server got %q", h.Get("Authorization"))
		}
	}
	away.mu.Unlock()

	h := newHarbour(t, false)
	h.push(t, built(t, "image", nil), types.OCILayer)
	blobs := newHarbour(t, false) // where the registry keeps its blobs
	blobs.push(t, built(t, "image", nil), types.OCILayer)
	blobs.asked, blobs.sent = nil, nil
	h.mu.Lock()
	h.token, h.away = token, blobs.URL
	h.mu.Unlock()
	o := follow(t, Options{OCI: h.image(), Token: get})
	o.awaitRevision(t, "rev-image")
	blobs.mu.Lock()
	if len(blobs.sent) == 0 || slices.ContainsFunc(blobs.sent, func(a string) bool { return a != "" }) {
		t.Errorf("the server of blobs got %q", blobs.sent)
	}
	blobs.mu.Unlock()
	h.mu.Lock()
	h.token = "another"
	h.mu.Unlock()
	o.await(t, "401", func() bool { return strings.Contains(o.Status().Error, "401") })

	broken := follow(t, Options{URL: s.URL, Token: func() (string, error) { return "", fmt.Errorf("no such file") }})
	broken.await(t, "a token that cannot be read", func() bool { return strings.Contains(broken.Status().Error, "no such file") })

	for _, f := range []*follower{f, o, broken} {
		said := f.log.String() + fmt.Sprintf("%+v", f.Status())
		if strings.Contains(said, token) || strings.Contains(said, "s3cret") {
			t.Errorf("a secret is told: %s", said)
		}
	}
}

// TestOptions: what cannot work is told before anything is asked.
func TestOptions(t *testing.T) {
	own := rsaPair(t, 0)
	short := write(t, filepath.Join(t.TempDir(), "short"), "secret")
	noPEM := write(t, filepath.Join(t.TempDir(), "no.pem"), "x")
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"image without tag":  {Options{OCI: "registry.example/policies"}, "HOST/REPOSITORY:TAG"},
		"image without host": {Options{OCI: "policies:v1"}, "HOST/REPOSITORY:TAG"},
		"no URL":             {Options{URL: "ftp://x/y"}, "no http"},
		"no key file":        {Options{URL: "http://x/", Verification: &Verification{KeyFile: "/nowhere"}}, "no such file"},
		"private key":        {Options{URL: "http://x/", Verification: &Verification{KeyFile: own.private}}, "-pubout"},
		"key of another":     {Options{URL: "http://x/", Verification: &Verification{KeyFile: own.public, Algorithm: "ES256"}}, "no key for ES256"},
		"short secret":       {Options{URL: "http://x/", Verification: &Verification{KeyFile: short, Algorithm: "HS256"}}, "at least 32"},
		"no PEM":             {Options{URL: "http://x/", Verification: &Verification{KeyFile: noPEM}}, "no PEM"},
		"no CA":              {Options{URL: "https://x/", CAFile: noPEM}, "no certificate"},
	} {
		if s, err := Open(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v, want %q", name, s, err, c.want)
		}
	}
	for ref, want := range map[string]string{
		"localhost:5000/a/b:v1": "http://localhost:5000", "127.0.0.1/a:v1": "http://127.0.0.1", "registry.example.org/a/b@sha256:00": "https://registry.example.org", "[::1]:5000/a:v1": "http://[::1]:5000",
	} {
		o := Options{OCI: ref}
		if u, path, err := o.place(); err != nil || u.String() != want || path != ref {
			t.Errorf("%s: %v %v %v", ref, u, path, err)
		}
	}
}
