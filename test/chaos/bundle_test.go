package chaos

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	layer "github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/mcpgw/mcpgw/pkg/bundle"
	"github.com/mcpgw/mcpgw/test/collector"
	"github.com/mcpgw/mcpgw/test/harness"
)

// TestBundles: a signed bundle from a server rules; another takes its place while calls run, and no call fails, and every log line and
// span names one policy whole; what is not good is refused and shown, and the next good one counts.
func TestBundles(t *testing.T) {
	for _, f := range []front{run, ads} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			b := harness.StartBackend(t, harness.Modern, nil)
			spans, address := harness.StartCollector(t)
			s, sh := newSite(t, f), newShelf(t)
			const token = "bundle-token-that-no-log-holds"
			sh.token = token
			harness.WriteFile(t, filepath.Join(s.dir, "token"), token+"\n")
			private, public := signingKeys(t, s.dir)
			foreign, _ := signingKeys(t, t.TempDir())
			sign := []string{"--signing-key", private, "--scope", "live"}
			sh.put(s.pack(t, "one", sign...))
			s.write(t, s.from(fmt.Sprintf("url: %q, poll: 0.1s, token: { file: token }, verification: { key_file: %q, scope: live }", sh.URL+"/live.tar.gz?sig=s3cret", public),
				mainListener+servers(map[string]string{"a": b.URL})+fmt.Sprintf("\ntelemetry: { otlp: { endpoint: %q, sampling_percent: 100 }, log: { format: json } }\n", address)))
			s.startAll(t)
			s.await(t, "a_echo")
			calm := s.undisturbed(t)
			l := startLoad(t, s.url, "a_echo")
			l.await(t, 20, "ok")
			l.await(t, 5, "denied")
			revisions := map[string]string{"one": s.policyStatus(t).Live.Policy}
			for _, word := range []string{"two", "three", "four"} {
				before := s.inForce(t)
				sh.put(s.pack(t, word, sign...))
				s.awaitRuledBy(t, word)
				l.await(t, 20, "ok")
				l.await(t, 5, "denied")
				st := s.policyStatus(t)
				if st.Live.Source.Revision != word || !st.Live.Source.Signed || st.Live.Source.ETag == "" || st.Live.Source.Error != "" || st.Live.Policy == "" {
					t.Errorf("%+v", st)
				}
				if st.Live.Source.Source != sh.URL+"/live.tar.gz" {
					t.Errorf("the source is shown as %s", st.Live.Source.Source)
				}
				revisions[word] = st.Live.Policy
				if s.inForce(t) != before {
					t.Error("a bundle has changed more than the policy")
				}
			}
			for name, c := range map[string]struct {
				body []byte
				says string
			}{
				"unsigned":    {s.pack(t, "unsigned"), "not signed"},
				"another key": {s.pack(t, "foreign", "--signing-key", foreign, "--scope", "live"), "another key"},
				"no scope":    {s.pack(t, "scope", "--signing-key", private), "another scope"},
				"garbage":     {[]byte("<html>"), "no .tar.gz"},
			} {
				failures := s.metric(t, `mcpgw_bundle_failures_total{policy="live"}`)
				sh.put(c.body)
				harness.Eventually(t, patience, name+" is refused twice", func() bool {
					return s.metric(t, `mcpgw_bundle_failures_total{policy="live"}`) >= failures+2
				})
				if st := s.policyStatus(t); !strings.Contains(st.Live.Source.Error, c.says) || st.Live.Source.Revision != "four" || st.Live.Policy != revisions["four"] {
					t.Errorf("%s: %+v", name, st)
				}
				if by := s.ruledBy(t); by != "four" {
					t.Errorf("%s: ruled by %s", name, by)
				}
			}
			sh.put(s.pack(t, "five", sign...))
			s.awaitRuledBy(t, "five")
			st := s.policyStatus(t)
			revisions["five"] = st.Live.Policy
			if st.Live.Source.Error != "" || s.metric(t, `mcpgw_bundle_last_success_timestamp_seconds{policy="live"}`) < float64(time.Now().Add(-time.Minute).Unix()) {
				t.Errorf("%+v", st)
			}
			text := command(t, s.dir, "policy", "status", "--config", s.file, "--admin", "unix:"+filepath.Dir(s.run)+"/a.sock")
			for _, want := range []string{"live policy", revisions["five"], "five", "yes, verified"} {
				if !strings.Contains(text.stdout, want) {
					t.Errorf("mcpgw policy status does not say %q:\n%s", want, text.stdout)
				}
			}
			l.await(t, 20, "ok")
			l.stop()
			l.only(t, "ok", "denied")
			l.agree(t, b)
			calm()
			s.clean(t)

			word := func(rule string) string { return rule[strings.LastIndexByte(rule, ' ')+1:] }
			seen := map[string]int{}
			for _, line := range s.logLines(t) {
				if line.Msg != "exchange" || line.Effect == "" {
					continue
				}
				parts := strings.Split(line.Snapshot, ".")
				if len(parts) != 4 || !strings.HasPrefix(line.PolicyRevision, parts[1]) {
					t.Errorf("a line's snapshot is not of its policy: %+v", line)
				}
				if line.Effect == "deny" && (len(line.Reasons) != 1 || revisions[word(line.Reasons[0])] != line.PolicyRevision) {
					t.Errorf("a line names another policy than the one that ruled: %+v", line)
				}
				seen[line.PolicyRevision]++
			}
			for w, r := range revisions {
				if seen[r] == 0 {
					t.Errorf("no line is of %s", w)
				}
			}
			if len(seen) != len(revisions) {
				t.Errorf("lines are of %d policies, there were %d", len(seen), len(revisions))
			}
			denied := 0
			harness.AwaitSpans(t, spans, patience, func(all []collector.Span) bool {
				denied = 0
				for _, sp := range all {
					if sp.Attributes["mcpgw.policy.decision"] == "deny" && sp.Attributes["mcpgw.policy.bundle.revision"] == revisions["five"] {
						denied++
					}
				}
				return denied > 0
			})
			for _, sp := range spans.Spans() {
				a := sp.Attributes
				if a["mcpgw.policy.decision"] == "" {
					continue
				}
				parts := strings.Split(a["mcpgw.snapshot.version"], ".")
				if len(parts) != 4 || !strings.HasPrefix(a["mcpgw.policy.bundle.revision"], parts[1]) {
					t.Errorf("a span's snapshot is not of its policy: %v", a)
				}
				if rule := strings.Trim(a["mcpgw.policy.rule_ids"], `[]"`); a["mcpgw.policy.decision"] == "deny" && revisions[word(rule)] != a["mcpgw.policy.bundle.revision"] {
					t.Errorf("a span names another policy than the one that ruled: %v", a)
				}
			}
			if said := s.mcpgw.Stderr.String(); strings.Contains(said, token) || strings.Contains(said, "s3cret") {
				t.Error("the log holds a secret")
			}
		})
	}
}

// TestNoBundleYet: with a bundle that cannot be had the gateway starts, says why it is not ready and refuses every call; it serves as soon
// as there is one, by itself or by a changed configuration.
func TestNoBundleYet(t *testing.T) {
	for _, f := range []front{run, ads} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			b := harness.StartBackend(t, harness.Modern, nil)
			s, sh := newSite(t, f), newShelf(t)
			sh.fail(http.StatusServiceUnavailable)
			_, public := signingKeys(t, s.dir)
			rest := mainListener + servers(map[string]string{"a": b.URL})
			s.write(t, s.from(fmt.Sprintf("url: %q, poll: 0.2s, verification: { key_file: %q }", sh.URL, public), rest))
			if f != run {
				s.startEnvoy(t)
			}
			name := map[front]string{run: "run", ads: "serve"}[f]
			s.mcpgw = harness.Start(t, harness.Command{
				Name: "mcpgw " + name, Path: harness.Mcpgw(t), Args: []string{name, "--config", s.file}, Env: []string{"ENVOY=" + harness.Tools(t).Envoy}, Dir: s.dir,
			})
			s.locate(t)
			refused := func(why string) {
				t.Helper()
				harness.Eventually(t, patience, "readyz says "+why, func() bool {
					p, err := get(s.client, "http://mcpgw/readyz")
					return err == nil && p.status == 503 && strings.Contains(string(p.body), "policy bundle not loaded") && strings.Contains(string(p.body), why)
				})
				for _, method := range []string{"tools/list", "tools/call"} {
					r := harness.NewModern(s.url, key).Call(t, method, map[string]any{"name": "a_echo", "arguments": map[string]any{"text": "x"}})
					if r.Status != 503 || r.Failure(t).Code != -32603 {
						t.Errorf("%s got %d %s", method, r.Status, r.Body)
					}
				}
				if s.mcpgw.Stdout.String() != "" {
					t.Errorf("it says %q", s.mcpgw.Stdout)
				}
			}
			refused("status 503")
			sh.put(s.pack(t, "unsigned"))
			refused("not signed")
			if st := s.policyStatus(t); st.Live.Policy != "" || !strings.Contains(st.Live.Source.Error, "not signed") || st.Live.Source.Failures == 0 {
				t.Errorf("%+v", st)
			}
			if f == run { // the configuration is mended
				s.write(t, s.from(fmt.Sprintf("url: %q, poll: 0.2s", sh.URL), rest))
			} else { // the bundle is
				private, again := signingKeys(t, t.TempDir())
				harness.WriteFile(t, public, read(t, again))
				sh.put(s.pack(t, "unsigned", "--signing-key", private))
			}
			s.mcpgw.Stdout.Await(t, `(?m)^ready .*$`, patience)
			s.await(t, "a_echo")
			if by := s.ruledBy(t); by != "unsigned" {
				t.Errorf("ruled by %s", by)
			}
			if r := s.ask(t, "/readyz"); r != "ready\n" {
				t.Error(r)
			}
		})
	}
}

// TestBundleSettings: a configuration that is loaded anew keeps the bundle without asking for it again; another source counts once it was
// had, and until then the policy before stays, and the change is tried again by itself.
func TestBundleSettings(t *testing.T) {
	b := harness.StartBackend(t, harness.Modern, nil)
	s, first, second := newSite(t, run), newShelf(t), newShelf(t)
	first.put(s.pack(t, "one"))
	second.fail(http.StatusNotFound)
	rest := mainListener + servers(map[string]string{"a": b.URL})
	at := func(sh *shelf) string { return s.from(fmt.Sprintf("url: %q, poll: 0.1s", sh.URL), rest) }
	s.write(t, at(first))
	s.startAll(t)
	s.await(t, "a_echo")
	l := startLoad(t, s.url, "a_echo")
	l.await(t, 10, "ok")
	first.fail(http.StatusBadGateway) // not even reachable
	s.change(t, func() { s.write(t, at(first)+"# another text\n") })
	if by := s.ruledBy(t); by != "one" {
		t.Errorf("ruled by %s", by)
	}
	if _, fresh := first.counts(); fresh != 1 {
		t.Errorf("the bundle was sent %d times", fresh)
	}
	first.put(s.pack(t, "one"))

	s.write(t, at(second))
	harness.Eventually(t, patience, "the change is refused", func() bool { return s.metric(t, "mcpgw_config_last_reload_successful") == 0 })
	if st := s.policyStatus(t); !strings.Contains(st.Fault, "status 404") || st.Live.Source.Source != first.URL {
		t.Errorf("%+v", st)
	}
	if by := s.ruledBy(t); by != "one" {
		t.Errorf("ruled by %s", by)
	}
	first.put(s.pack(t, "one again")) // the source in force still counts
	s.awaitRuledBy(t, "one again")
	second.put(s.pack(t, "two"))
	s.awaitRuledBy(t, "two")
	harness.Eventually(t, patience, "the first source is not asked any more", func() bool {
		before, _ := first.counts()
		time.Sleep(500 * time.Millisecond)
		after, _ := first.counts()
		return before == after
	})
	if st := s.policyStatus(t); st.Fault != "" || st.Live.Source.Source != second.URL || st.Live.Source.Revision != "two" {
		t.Errorf("%+v", st)
	}

	// An image of a registry, and beside it a shadow, which has no bundle yet and changes nothing.
	harbour := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer harbour.Close()
	image := strings.TrimPrefix(harbour.URL, "http://") + "/policies/live:v1"
	push := func(word string) {
		img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layer.NewLayer(s.pack(t, word), types.OCILayer))
		if err != nil {
			t.Fatal(err)
		}
		ref, err := name.ParseReference(image)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, img); err != nil {
			t.Fatal(err)
		}
	}
	push("image")
	shade := newShelf(t)
	shade.fail(http.StatusForbidden)
	s.write(t, strings.Replace(s.from(fmt.Sprintf("oci: %q, poll: 0.1s", image), rest), " } }\n", fmt.Sprintf(" }, shadow: { bundle: { url: %q, poll: 0.1s } } }\n", shade.URL), 1))
	s.awaitRuledBy(t, "image")
	push("image again")
	s.awaitRuledBy(t, "image again")
	shade.put(s.pack(t, "shade"))
	harness.Eventually(t, patience, "the shadow is there", func() bool {
		st := s.policyStatus(t)
		return st.Shadow != nil && st.Shadow.Source.Revision == "shade" && st.Shadow.Policy != "" && st.Shadow.Policy != st.Live.Policy && st.Live.Source.Source == image
	})
	if by := s.ruledBy(t); by != "image again" {
		t.Errorf("ruled by %s", by)
	}

	// A bundle in a file, then in a directory; both are watched.
	file := filepath.Join(s.dir, "b.tar.gz")
	harness.WriteFile(t, file, string(s.pack(t, "three")))
	s.write(t, s.from("path: b.tar.gz", rest))
	s.awaitRuledBy(t, "three")
	harness.WriteFile(t, file, "broken")
	harness.Eventually(t, patience, "the file is refused", func() bool { return strings.Contains(s.policyStatus(t).Fault, "no .tar.gz") })
	harness.WriteFile(t, file, string(s.pack(t, "four")))
	s.awaitRuledBy(t, "four")
	harness.WriteFile(t, filepath.Join(s.dir, "dir", "sub", "p.rego"), bundled("five"))
	s.write(t, s.from("path: dir", rest))
	s.awaitRuledBy(t, "five")
	harness.WriteFile(t, filepath.Join(s.dir, "dir", "sub", "p.rego"), bundled("six"))
	s.awaitRuledBy(t, "six")
	s.change(t, func() { s.policy(t, bundled("seven")); s.write(t, s.settings(rest)) })
	s.awaitRuledBy(t, "seven")
	l.await(t, 10, "ok")
	l.stop()
	l.only(t, "ok", "denied")
}

// TestHundredBundles: with 200 rules and 10,000 grants, a hundred bundles come into force while calls run, and none of them fails.
func TestHundredBundles(t *testing.T) {
	b := harness.StartBackend(t, harness.Modern, nil)
	s, sh := newSite(t, run), newShelf(t)
	dir := t.TempDir()
	grants := map[string]map[string][]string{}
	for i := range 100 {
		grants[fmt.Sprintf("s%d", i)] = map[string][]string{}
		for n := range 100 {
			grants[fmt.Sprintf("s%d", i)][fmt.Sprintf("tool_%d", n)] = []string{fmt.Sprintf("role-%d", n)}
		}
	}
	data, err := json.Marshal(map[string]any{"grants": grants})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	make := func(word string) []byte {
		var text strings.Builder
		text.WriteString(bundled(word))
		text.WriteString("\nallow if {\n\tsome role in data.grants[input.resource.server][input.resource.name]\n\trole in input.subject.roles\n}\n")
		for i := range 197 {
			fmt.Fprintf(&text, "\nallow if {\n\tinput.resource.name == \"t%d\"\n\t\"r%d\" in input.subject.roles\n}\n", i, i)
		}
		harness.WriteFile(t, filepath.Join(dir, "p.rego"), text.String())
		made, err := bundle.Build(bundle.BuildOptions{Dir: dir, Revision: word})
		if err != nil {
			t.Fatal(err)
		}
		return made.Archive
	}
	sh.put(make("n0"))
	s.write(t, s.from(fmt.Sprintf("url: %q, long_poll: 5s", sh.URL), mainListener+servers(map[string]string{"a": b.URL})+"\ntelemetry: { log: { level: warn } }\n"))
	s.startAll(t)
	s.await(t, "a_echo")
	l := startLoad(t, s.url, "a_echo")
	l.await(t, 20, "ok")
	const bundles = 100
	var took []time.Duration // from the moment that the server has it
	start := time.Now()
	for n := 1; n <= bundles; n++ {
		body := make(fmt.Sprintf("n%d", n))
		put := time.Now()
		sh.put(body)
		want := fmt.Sprintf(`"revision": "n%d"`, n)
		harness.Eventually(t, patience, want, func() bool { return strings.Contains(s.ask(t, "/policy/status"), want) })
		took = append(took, time.Since(put))
	}
	all := time.Since(start)
	if by := s.ruledBy(t); by != fmt.Sprintf("n%d", bundles) {
		t.Errorf("ruled by %s", by)
	}
	l.await(t, 20, "ok")
	l.stop()
	l.only(t, "ok", "denied")
	l.agree(t, b)
	slices.Sort(took)
	if median := took[len(took)/2]; median > time.Second {
		t.Errorf("half of the bundles took %v or more to come into force", median)
	}
	t.Logf("%d bundles in %v, each in force within %v (median) to %v (longest); %d calls, the slowest took %v",
		bundles, all.Round(time.Millisecond), took[len(took)/2], took[len(took)-1], len(l.all()), l.slowest())
}

// TestPolicyBundleCommand: what is built verifies, with the right key only; check reads bundles too.
func TestPolicyBundleCommand(t *testing.T) {
	s := newSite(t, run)
	private, public := signingKeys(t, s.dir)
	_, other := signingKeys(t, t.TempDir())
	harness.WriteFile(t, filepath.Join(s.dir, "grants.yaml"), "grants: {git: {log: [reader]}}\n")
	file := filepath.Join(s.dir, "b.tar.gz")
	build := []string{"policy", "bundle", "policy", "--data", "grants.yaml", "-o", file, "--signing-key", private, "--output", "json"}
	r := command(t, s.dir, build...)
	var built struct {
		Revision, Policy string
		Signed           bool
		Warnings         []string
	}
	if err := json.Unmarshal([]byte(r.stdout), &built); r.status != 0 || err != nil || !built.Signed || built.Policy == "" || built.Revision != built.Policy {
		t.Fatalf("%d %s%s", r.status, r.stdout, r.stderr)
	}
	first := read(t, file)
	if command(t, s.dir, build...); read(t, file) != first {
		t.Error("the same input gave other bytes")
	}
	if r := command(t, s.dir, "policy", "bundle", "verify", file, "--key", public); r.status != 0 || !strings.Contains(r.stdout, "signature verified") || !strings.Contains(r.stdout, built.Policy) {
		t.Errorf("%d %s%s", r.status, r.stdout, r.stderr)
	}
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"another key":    {[]string{"verify", file, "--key", other}, "another key"},
		"another alg":    {[]string{"verify", file, "--key", public, "--alg", "PS256"}, "another key or algorithm"},
		"another scope":  {[]string{"verify", file, "--key", public, "--scope", "x"}, "scope"},
		"no key":         {[]string{"verify", file}, "name the public key with --key"},
		"no file":        {[]string{"verify", "nowhere"}, "no such file"},
		"no directory":   {[]string{"nowhere", "-o", "x"}, "no directory"},
		"no output":      {[]string{"policy"}, "-o"},
		"scope, no key":  {[]string{"policy", "-o", "x", "--scope", "x"}, "--signing-key"},
		"into nothing":   {[]string{"policy", "-o", "nowhere/x"}, "no such file"},
		"key of verify":  {[]string{"policy", "-o", "x", "--signing-key", public}, "not a private key"},
		"broken data":    {[]string{"policy", "-o", "x", "--data", "mcpgw.yaml.new"}, "no such file"},
		"verify garbage": {[]string{"verify", public}, "no .tar.gz"},
	} {
		if r := command(t, s.dir, append([]string{"policy", "bundle"}, c.args...)...); r.status != 1 || !strings.Contains(r.stderr, c.says) {
			t.Errorf("%s: %d %q, want %q", name, r.status, r.stderr, c.says)
		}
	}
	if left, err := filepath.Glob(filepath.Join(s.dir, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	rest := mainListener + servers(map[string]string{"a": "http://127.0.0.1:1/mcp"})
	sh := newShelf(t)
	sh.put([]byte(first))
	verified := fmt.Sprintf("verification: { key_file: %q }", public)
	for name, c := range map[string]struct {
		bundle string
		status int
		says   string
	}{
		"file":           {"path: b.tar.gz, " + verified, 0, "ok: "},
		"file, unsigned": {"path: b.tar.gz", 1, "no key is configured"},
		"url":            {fmt.Sprintf("url: %q, %s", sh.URL, verified), 0, "ok: "},
		"url, refused":   {fmt.Sprintf("url: %q", sh.URL), 1, "no key is configured"},
		"nobody there":   {fmt.Sprintf("url: %q, %s", "http://127.0.0.1:1/b", verified), 0, "was not checked"},
		"no image":       {"oci: registry", 1, "HOST/REPOSITORY:TAG"},
	} {
		s.write(t, s.from(c.bundle, rest))
		if r := command(t, s.dir, "check", "--config", s.file); r.status != c.status || !strings.Contains(r.stdout, c.says) {
			t.Errorf("%s: %d\n%s%s", name, r.status, r.stdout, r.stderr)
		}
	}
}
