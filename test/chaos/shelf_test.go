package chaos

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/pkg/bundle"
	"github.com/mcpgw/mcpgw/test/harness"
)

// shelf is a server of one bundle, with ETag. Whoever asks for it may wait there until there is another.
type shelf struct {
	*httptest.Server
	mu    sync.Mutex
	news  chan struct{} // closed by the next bundle
	n     int
	body  []byte
	fails int // status instead of a bundle
	fresh int // bundles sent
	gets  int
	token string
}

func newShelf(t testing.TB) *shelf {
	s := &shelf{news: make(chan struct{})}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.gets++
		if strings.Contains(r.Header.Get("Prefer"), "wait=") {
			w.Header().Set("Content-Type", "application/vnd.openpolicyagent.bundles")
			if news := s.news; r.Header.Get("If-None-Match") == fmt.Sprintf(`"n%d"`, s.n) {
				s.mu.Unlock()
				select {
				case <-news:
				case <-r.Context().Done():
				case <-time.After(5 * time.Second):
				}
				s.mu.Lock()
			}
		}
		etag := fmt.Sprintf(`"n%d"`, s.n)
		switch {
		case s.fails != 0:
			w.WriteHeader(s.fails)
		case s.token != "" && r.Header.Get("Authorization") != "Bearer "+s.token:
			w.WriteHeader(http.StatusUnauthorized)
		case r.Header.Get("If-None-Match") == etag:
			w.WriteHeader(http.StatusNotModified)
		default:
			s.fresh++
			w.Header().Set("ETag", etag)
			_, _ = w.Write(s.body)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *shelf) put(body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	s.body, s.fails = body, 0
	close(s.news)
	s.news = make(chan struct{})
}

func (s *shelf) fail(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = status
}

func (s *shelf) counts() (gets, fresh int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gets, s.fresh
}

// bundled is a policy that allows readers, and names itself when it refuses.
func bundled(word string) string {
	return strings.Replace(rules, "that word is not for servers", "ruled by "+word, 1)
}

// signingKeys makes a key pair in files of a folder.
func signingKeys(t testing.TB, dir string) (private, public string) {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	private, public = filepath.Join(dir, "key.pem"), filepath.Join(dir, "public.pem")
	harness.WriteFile(t, private, string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)})))
	harness.WriteFile(t, public, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	return private, public
}

// pack makes a bundle with the command that users have.
func (s *site) pack(t testing.TB, word string, flags ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	harness.WriteFile(t, filepath.Join(dir, "p", "p.rego"), bundled(word))
	out := filepath.Join(dir, "b.tar.gz")
	r := command(t, s.dir, append([]string{"policy", "bundle", filepath.Join(dir, "p"), "-o", out, "--revision", word}, flags...)...)
	if r.status != 0 {
		t.Fatalf("mcpgw policy bundle: %s%s", r.stdout, r.stderr)
	}
	return []byte(read(t, out))
}

// from is the settings with a bundle, given as YAML, in the place of the directory.
func (s *site) from(bundle, extra string) string {
	return strings.Replace(s.settings(extra), "policy: { directory: policy }", "policy: { bundle: { "+bundle+" } }", 1)
}

// policyState is what `mcpgw policy status` shows of the live policy.
type policyState struct {
	Live struct {
		Policy string
		Source bundle.Status
	}
	Shadow *struct {
		Policy string
		Source bundle.Status
	}
	Fault string
}

func (s *site) policyStatus(t testing.TB) (st policyState) {
	t.Helper()
	r := command(t, s.dir, "policy", "status", "--config", s.file, "--admin", "unix:"+filepath.Dir(s.run)+"/a.sock", "--output", "json")
	if r.status != 0 {
		t.Fatalf("mcpgw policy status: %s%s", r.stdout, r.stderr)
	}
	if err := json.Unmarshal([]byte(r.stdout), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// ruledBy is the word of the policy that refuses a call now.
func (s *site) ruledBy(t testing.TB) string {
	t.Helper()
	f := harness.NewModern(s.url, key).Tool(t, "a_echo", map[string]any{"text": "forbidden"}).Failure(t)
	return strings.TrimPrefix(f.Message, "ruled by ")
}

func (s *site) awaitRuledBy(t testing.TB, word string) {
	t.Helper()
	harness.Eventually(t, patience, "calls are ruled by "+word, func() bool { return s.ruledBy(t) == word })
}

// exchangeLine is one line of the log about a call.
type exchangeLine struct {
	Msg            string   `json:"msg"`
	Effect         string   `json:"effect"`
	Reasons        []string `json:"reasons"`
	PolicyRevision string   `json:"policy_revision"`
	Snapshot       string   `json:"snapshot"`
}

func (s *site) logLines(t testing.TB) (out []exchangeLine) {
	t.Helper()
	for line := range strings.Lines(s.mcpgw.Stderr.String()) {
		var l exchangeLine
		if err := json.Unmarshal([]byte(line), &l); err == nil {
			out = append(out, l)
		}
	}
	return out
}
