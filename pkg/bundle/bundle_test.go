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
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// TestHTTP: an unchanged bundle is sent once; a changed one is taken; a server that is down loses nothing.
func TestHTTP(t *testing.T) {
	s := newSite(t, false)
	s.put(`"one"`, built(t, "one", nil))
	f := follow(t, Options{URL: s.URL + "/bundles/live.tar.gz"})
	f.awaitRevision(t, "rev-one")
	f.await(t, "304s", func() bool { _, _, same := s.counts(); return same >= 3 })
	if _, fresh, _ := s.counts(); fresh != 1 {
		t.Errorf("the bundle was sent %d times", fresh)
	}
	c := f.took[0]
	if c.ETag != `"one"` || c.Signed || len(c.Modules) != 1 || c.Modules[0].Name != "policy/main.rego" || len(c.Data) != 1 {
		t.Errorf("%+v", c)
	}
	if want := `{"grants":{"git_log":["reader",9007199254740993]}}` + "\n"; string(c.Data[0].Text) != want {
		t.Errorf("data %s, want %s", c.Data[0].Text, want)
	}
	st := f.Status()
	if st.Activated.IsZero() || !st.Confirmed.After(st.Activated) || st.Error != "" || st.Failures != 0 || st.Source != s.URL+"/bundles/live.tar.gz" {
		t.Errorf("%+v", st)
	}

	s.fail(http.StatusServiceUnavailable)
	f.await(t, "the failure shows", func() bool { return strings.Contains(f.Status().Error, "status 503") && f.Status().Failures >= 3 })
	if n := strings.Count(f.log.String(), "no new policy bundle"); n != 1 {
		t.Errorf("the failure was logged %d times", n)
	}
	if st := f.Status(); st.Revision != "rev-one" || st.ETag != `"one"` || st.ErrorTime.IsZero() {
		t.Errorf("%+v", st)
	}
	s.fail(0)
	f.await(t, "it recovers", func() bool { return f.Status().Error == "" })
	if _, fresh, _ := s.counts(); fresh != 1 {
		t.Errorf("after a failure the bundle was sent again, %d times", fresh)
	}
	s.put(`"two"`, built(t, "two", nil))
	f.awaitRevision(t, "rev-two")
	s.put(`"three"`, built(t, "two", nil)) // the same under another ETag
	f.await(t, "the new ETag counts", func() bool { return f.Status().ETag == `"three"` })
	s.put("", built(t, "four", nil)) // no ETag at all
	f.awaitRevision(t, "rev-four")
	if got := f.revisions(); !slices.Equal(got, []string{"rev-one", "rev-two", "rev-four"}) {
		t.Errorf("took %v", got)
	}
	f.await(t, "no old ETag is sent", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.asked[len(s.asked)-1] == "" })
}

// TestLongPoll: the server holds the request, so a change arrives at once though the next poll is an hour away.
func TestLongPoll(t *testing.T) {
	s := newSite(t, false)
	s.long = true
	s.put(`"one"`, built(t, "one", nil))
	f := follow(t, Options{URL: s.URL, Poll: time.Hour, LongPoll: 5 * time.Second})
	f.awaitRevision(t, "rev-one")
	f.await(t, "the request is held", func() bool { gets, _, _ := s.counts(); return gets == 2 })
	s.mu.Lock()
	if !strings.Contains(s.prefer[1], "wait=5") {
		t.Errorf("asked with Prefer: %s", s.prefer[1])
	}
	s.mu.Unlock()
	start := time.Now()
	s.put(`"two"`, built(t, "two", nil))
	f.awaitRevision(t, "rev-two")
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("the change came after %v", took)
	}
	if gets, _, _ := s.counts(); gets > 4 {
		t.Errorf("%d requests for two bundles", gets)
	}
}

// TestLongPollAfterOnce: whoever looked once and then follows does not wait for the next poll either.
func TestLongPollAfterOnce(t *testing.T) {
	s := newSite(t, false)
	s.long = true
	s.put(`"one"`, built(t, "one", nil))
	src, err := Open(Options{URL: s.URL, Poll: time.Hour, LongPoll: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	f := &follower{Source: src, log: &syncBuffer{}}
	if err := src.Once(t.Context(), f.take); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- src.Run(ctx, f.take) }()
	f.await(t, "the request is held", func() bool { gets, _, _ := s.counts(); return gets == 2 })
	s.put(`"two"`, built(t, "two", nil))
	f.awaitRevision(t, "rev-two")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestLongPollThatIsNone: a server that promises to hold requests and does not is asked once a second at most.
func TestLongPollThatIsNone(t *testing.T) {
	s := newSite(t, false)
	s.long, s.deaf = true, true
	s.put(`"one"`, built(t, "one", nil))
	f := follow(t, Options{URL: s.URL, Poll: time.Hour, LongPoll: 5 * time.Second})
	f.awaitRevision(t, "rev-one")
	time.Sleep(300 * time.Millisecond)
	if gets, _, _ := s.counts(); gets > 2 {
		t.Errorf("%d requests within 0.3 s", gets)
	}
}

// bad is a bundle that must not count, and a word of the reason.
type bad struct {
	body []byte
	want string
}

// refusals are for a source that verifies with RS256, key pair 0, scope "live", and takes 1 MiB.
func refusals(t testing.TB) map[string]bad {
	own, foreign := rsaPair(t, 0), rsaPair(t, 1)
	secret := write(t, filepath.Join(t.TempDir(), "secret"), strings.Repeat("s", 40))
	sign := func(p pair, alg, id, scope string) *Signing {
		return &Signing{KeyFile: p.private, Algorithm: alg, KeyID: id, Scope: scope}
	}
	good := built(t, "two", sign(own, "", "", "live"))
	entries, err := unpack(good, 1<<20, true)
	if err != nil {
		t.Fatal(err)
	}
	again := func(edit func(map[string]string)) []byte {
		m := map[string]string{}
		for _, e := range entries {
			m[e.name] = string(e.text)
		}
		edit(m)
		var list []member
		for _, name := range slices.Sorted(maps.Keys(m)) {
			list = append(list, member{name: "/" + name, text: m[name]})
		}
		return archive(t, list...)
	}
	if _, err := Read(again(func(map[string]string) {}), Options{Verification: &Verification{KeyFile: own.public, Scope: "live"}}); err != nil {
		t.Fatalf("what every case begins with is not good: %v", err)
	}
	rego := "package mcpgw.policy\n\nallow if true\n"
	var many []member
	for i := range 64 {
		many = append(many, member{name: fmt.Sprintf("f%d.txt", i), text: strings.Repeat("a", 32<<10)})
	}
	var most []member
	for i := range maxEntries + 1 {
		most = append(most, member{name: fmt.Sprintf("d%d/", i), kind: tar.TypeDir})
	}
	return map[string]bad{
		"unsigned":              {built(t, "two", nil), "missing .signatures.json"},
		"another key":           {built(t, "two", sign(foreign, "", "", "live")), "another key or algorithm"},
		"another algorithm":     {built(t, "two", sign(own, "PS256", "", "live")), "another key or algorithm"},
		"a secret":              {built(t, "two", &Signing{KeyFile: secret, Algorithm: "HS256", Scope: "live"}), "another key or algorithm"},
		"another scope":         {built(t, "two", sign(own, "", "", "test")), "another scope"},
		"no scope":              {built(t, "two", sign(own, "", "", "")), "another scope"},
		"another key id":        {built(t, "two", sign(own, "", "other", "live")), "another name"},
		"changed after signing": {again(func(m map[string]string) { m["policy/main.rego"] += "\n# more\n" }), "changed after signing"},
		"added after signing":   {again(func(m map[string]string) { m["more.rego"] = "package mcpgw.policy\n\nallow if true\n" }), "added after signing"},
		"taken after signing":   {again(func(m map[string]string) { delete(m, "policy/main.rego") }), "not found"},
		"signature emptied":     {again(func(m map[string]string) { m[signatures] = `{"signatures": []}` }), "missing JWT"},
		"another verifier":      {again(func(m map[string]string) { m[signatures] = `{"signatures": ["a.b.c"], "plugin": "yes"}` }), "no verifier"},
		"delta":                 {archive(t, member{name: "patch.json", text: `{"data":[{"op":"upsert","path":"/grants","value":{}}]}`}), "delta bundle"},
		"one large file":        {archive(t, member{name: "a.rego", text: rego + strings.Repeat("#", 2<<20)}), "max_bytes"},
		"many files":            {archive(t, many...), "max_bytes"},
		"many entries":          {archive(t, most...), "more than 10000"},
		"bomb":                  {bomb(t, 64<<20), "max_bytes"},
		"garbage":               {[]byte("<html>not found</html>"), "no .tar.gz"},
		"empty":                 {nil, "no .tar.gz"},
		"cut":                   {good[:len(good)/2], "damaged"},
		"leads out":             {archive(t, member{name: "../a.rego", text: rego}), "leads out"},
		"leads out inside":      {archive(t, member{name: "a/../../b.rego", text: rego}), "leads out"},
		"link":                  {archive(t, member{name: "a.rego", text: "/etc/passwd", kind: tar.TypeSymlink}), "neither a file nor a directory"},
		"twice":                 {archive(t, member{name: "a.rego", text: rego}, member{name: "/a.rego", text: rego}), "twice"},
		"wasm":                  {archive(t, member{name: "a.rego", text: rego}, member{name: "policy.wasm", text: "\x00asm"}), "another engine"},
		"plan":                  {archive(t, member{name: "a.rego", text: rego}, member{name: "plan.json", text: "{}"}), "another engine"},
	}
}

// bomb is an archive of one file of n zeros.
func bomb(t testing.TB, n int64) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: "bomb.txt", Mode: 0o600, Size: n, Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	for range n / (1 << 20) {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
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

// unsignedRefusals are for a source without verification.
func unsignedRefusals(t testing.TB) map[string]bad {
	const rego = "package mcpgw.policy\n\nallow if true\n"
	one := func(name, text string, more ...member) []byte {
		return archive(t, append([]member{{name: name, text: text}}, more...)...)
	}
	return map[string]bad{
		"signed":         {built(t, "two", &Signing{KeyFile: rsaPair(t, 0).private}), "no key is configured"},
		"broken Rego":    {one("a.rego", "package mcpgw.policy\n\nallow if {\n"), "a.rego"},
		"no Rego":        {one("data.json", `{"a":1}`), "no policy"},
		"tests alone":    {one("a_test.rego", "package mcpgw.policy_test\n\ntest_a if true\n"), "no policy"},
		"unknown field":  {one("a.rego", "package mcpgw.policy\n\nallow if input.subject.rolez\n"), "rolez"},
		"foreign roots":  {one("a.rego", rego, member{name: ".manifest", text: `{"roots":["other"]}`}), "roots"},
		"overlap":        {one("a.rego", rego, member{name: ".manifest", text: `{"roots":["mcpgw","mcpgw/policy"]}`}), "overlapped"},
		"data on top":    {one("a.rego", rego, member{name: "mcpgw/data.json", text: `{"policy":{"allow":true}}`}), "mcpgw"},
		"broken data":    {one("a.rego", rego, member{name: "data.json", text: `{`}), "data.json"},
		"old Rego":       {one("a.rego", "package mcpgw.policy\n\nallow { true }\n"), "a.rego"},
		"shipped name":   {one("a.rego", "package mcpgw.main\n\nruling := {\"effect\": \"allow\"}\n"), "mcpgw.main"},
		"veto":           {built(t, "vetoed", nil), "not today"},
		"unsigned delta": {one("patch.json", `{"data":[]}`), "delta bundle"},
	}
}

// TestRefusals: what must not count never reaches the callback or is refused by it, is told, is tried again with the ETag of the last
// good one, and does not stand in the way of the next good one.
func TestRefusals(t *testing.T) {
	own := rsaPair(t, 0)
	signing := &Signing{KeyFile: own.private, Scope: "live"}
	for group, g := range map[string]struct {
		cases map[string]bad
		sign  *Signing
		o     Options
	}{
		"verified": {refusals(t), signing, Options{Verification: &Verification{KeyFile: own.public, Scope: "live"}, MaxBytes: 1 << 20}},
		"unsigned": {unsignedRefusals(t), nil, Options{MaxBytes: 1 << 20}},
	} {
		one, three := built(t, "one", g.sign), built(t, "three", g.sign)
		for name, c := range g.cases {
			t.Run(group+"/"+name, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, false)
				s.put(`"one"`, one)
				o := g.o
				o.URL = s.URL
				f := follow(t, o)
				f.mu.Lock()
				f.veto = func(c *Content) error {
					if c.Revision == "rev-vetoed" {
						return fmt.Errorf("not today")
					}
					return nil
				}
				f.mu.Unlock()
				f.awaitRevision(t, "rev-one")
				s.put(`"two"`, c.body)
				f.await(t, "it is refused again", func() bool { return f.Status().Failures >= 2 })
				if st := f.Status(); !strings.Contains(st.Error, c.want) || st.Revision != "rev-one" || st.ETag != `"one"` {
					t.Errorf("want %q: %+v", c.want, st)
				}
				if n := strings.Count(f.log.String(), "no new policy bundle"); n != 1 {
					t.Errorf("logged %d times:\n%s", n, f.log)
				}
				s.mu.Lock()
				if last := s.asked[len(s.asked)-1]; last != `"one"` {
					t.Errorf("asked with the ETag %s after a refusal", last)
				}
				s.mu.Unlock()
				s.put(`"three"`, three)
				f.awaitRevision(t, "rev-three")
				if got := f.revisions(); !slices.Equal(got, []string{"rev-one", "rev-three"}) {
					t.Errorf("took %v", got)
				}
				if st := f.Status(); st.Error != "" {
					t.Errorf("%+v", st)
				}
			})
		}
	}
}

// TestFirst: as long as there was never a good bundle nothing counts, whatever the server says.
func TestFirst(t *testing.T) {
	s := newSite(t, false)
	s.fail(http.StatusNotModified)
	f := follow(t, Options{URL: s.URL})
	f.await(t, "304 is no answer", func() bool { return strings.Contains(f.Status().Error, "nothing was ever had") })
	s.put(`"bad"`, []byte("x"))
	f.await(t, "garbage", func() bool { return strings.Contains(f.Status().Error, "no .tar.gz") })
	s.mu.Lock()
	s.asked = nil
	s.mu.Unlock()
	f.await(t, "it is fetched again", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.asked) > 1 })
	s.mu.Lock()
	if s.asked[1] != "" {
		t.Errorf("the ETag %s of what was refused is remembered", s.asked[1])
	}
	s.mu.Unlock()
	s.put(`"one"`, built(t, "one", nil))
	f.awaitRevision(t, "rev-one")
}

// TestOnce: what its callback refuses does not count, and comes again.
func TestOnce(t *testing.T) {
	s := newSite(t, false)
	s.put(`"one"`, built(t, "one", nil))
	src, err := Open(Options{URL: s.URL, Poll: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if err := src.Once(t.Context(), func(context.Context, *Content) error { return fmt.Errorf("entry point missing") }); err == nil || Absent(err) {
		t.Error(err)
	}
	if st := src.Status(); st.Error != "entry point missing" || st.Revision != "" || !st.Activated.IsZero() {
		t.Errorf("%+v", st)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var got *Content
	if err := src.Run(ctx, func(_ context.Context, c *Content) error { got = c; cancel(); return nil }); err != nil || got == nil || got.Revision != "rev-one" {
		t.Error(got, err)
	}
	s.fail(http.StatusUnauthorized)
	if err := src.Once(t.Context(), nil); !Absent(err) {
		t.Error(err)
	}
}
