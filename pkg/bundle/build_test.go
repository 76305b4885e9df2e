package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/bundle"
	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/opa"
)

// TestBuild: equal input gives equal bytes; OPA's own reader takes them; the engine of the bundle is that of the directory.
func TestBuild(t *testing.T) {
	own := rsaPair(t, 0)
	extra := write(t, filepath.Join(t.TempDir(), "extra.json"), `{"limits":{"big":9007199254740993,"exact":1.0}}`)
	for _, s := range []*Signing{nil, {KeyFile: own.private, Scope: "live", KeyID: "k1"}} {
		var archives [][]byte
		for range 2 {
			b, err := Build(BuildOptions{Dir: dirOf(t, rules("one")), DataFiles: []string{extra}, Signing: s})
			if err != nil {
				t.Fatal(err)
			}
			archives = append(archives, b.Archive)
			if b.Content.Revision != b.Engine.Revision() || b.Content.Signed != (s != nil) {
				t.Errorf("%+v", b.Content)
			}
			e, err := opa.Load(opa.Options{Modules: b.Content.Modules, Data: b.Content.Data})
			if err != nil || e.Revision() != b.Engine.Revision() {
				t.Errorf("read back it is another policy: %v", err)
			}
			if got, want := string(b.Content.Data[0].Text), `{"grants":{"git_log":["reader",9007199254740993]},"limits":{"big":9007199254740993,"exact":1.0}}`+"\n"; got != want {
				t.Errorf("data %s, want %s", got, want)
			}
		}
		if !bytes.Equal(archives[0], archives[1]) {
			t.Error("two builds differ")
		}
		r := bundle.NewReader(bytes.NewReader(archives[0]))
		if s != nil {
			r = r.WithBundleVerificationConfig(bundle.NewVerificationConfig(map[string]*bundle.KeyConfig{"k1": {Key: read(t, own.public), Algorithm: "RS256"}}, "k1", "live", nil))
		}
		b, err := r.Read()
		if err != nil || len(b.Modules) != 1 || b.Modules[0].Path != "/policy/main.rego" || b.Manifest.RegoVersion == nil || *b.Manifest.RegoVersion != 1 {
			t.Errorf("OPA reads %+v, %v", b, err)
		}
	}
}

func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestAlgorithms: each signs and verifies; no other key of its kind verifies it.
func TestAlgorithms(t *testing.T) {
	makeKeys(t)
	for _, alg := range algorithms {
		t.Run(alg, func(t *testing.T) {
			p := rsaPair(t, 0)
			switch alg[0] {
			case 'E':
				p = keyPair(t, ecKeys[alg], &ecKeys[alg].PublicKey)
			case 'H':
				f := write(t, filepath.Join(t.TempDir(), "secret"), strings.Repeat("s", 64)+"\n")
				p = pair{f, f}
			}
			b := built(t, "one", &Signing{KeyFile: p.private, Algorithm: alg})
			if c, err := Read(b, Options{Verification: &Verification{KeyFile: p.public, Algorithm: alg}}); err != nil || !c.Signed || c.Revision != "rev-one" {
				t.Error(c, err)
			}
			if alg[0] == 'H' {
				p.public = write(t, filepath.Join(t.TempDir(), "secret"), strings.Repeat("s", 64))
			} else {
				p.public, alg = rsaPair(t, 1).public, "RS256"
			}
			if c, err := Read(b, Options{Verification: &Verification{KeyFile: p.public, Algorithm: alg}}); err == nil {
				t.Error("another key verifies it", c)
			}
		})
	}
}

// TestBuildRefuses: what a gateway would refuse is not built; what is doubtful is told.
func TestBuildRefuses(t *testing.T) {
	own := rsaPair(t, 0)
	good := rules("one")
	for name, c := range map[string]struct {
		files map[string]string
		o     BuildOptions
		want  string
	}{
		"broken Rego":     {map[string]string{"a.rego": "package mcpgw.policy\n\nallow if {\n"}, BuildOptions{}, "a.rego"},
		"unknown field":   {map[string]string{"a.rego": "package mcpgw.policy\n\nallow if input.subject.rolez\n"}, BuildOptions{}, "rolez"},
		"no policy":       {map[string]string{"data.json": "{}"}, BuildOptions{}, "no policy"},
		"entry point":     {good, BuildOptions{Entrypoint: "data.mine.ruling"}, "entry point"},
		"data twice":      {good, BuildOptions{DataFiles: []string{write(t, filepath.Join(t.TempDir(), "g.json"), `{"grants":{"git_log":[]}}`)}}, "git_log"},
		"no data file":    {good, BuildOptions{DataFiles: []string{"/nowhere.json"}}, "no such file"},
		"no key":          {good, BuildOptions{Signing: &Signing{KeyFile: "/nowhere"}}, "no such file"},
		"public key":      {good, BuildOptions{Signing: &Signing{KeyFile: own.public}}, "not a private key"},
		"key of another":  {good, BuildOptions{Signing: &Signing{KeyFile: own.private, Algorithm: "ES256"}}, "no key for ES256"},
		"no algorithm":    {good, BuildOptions{Signing: &Signing{KeyFile: own.private, Algorithm: "none"}}, "no signing algorithm none"},
		"foreign roots":   {map[string]string{"a.rego": "package mcpgw.policy\n\nallow if true\n", ".manifest": `{"roots":["x"]}`}, BuildOptions{}, "roots"},
		"nothing":         {nil, BuildOptions{}, "no policy"},
		"policy in delta": {map[string]string{"a.rego": "package mcpgw.policy\n\nallow if true\n", "patch.json": "{}"}, BuildOptions{}, "delta"},
	} {
		c.o.Dir = dirOf(t, c.files)
		if b, err := Build(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v, want %q", name, b, err, c.want)
		}
	}
	open := keyPair(t, rsaKeys[0], &rsaKeys[0].PublicKey)
	if err := os.Chmod(open.private, 0o644); err != nil {
		t.Fatal(err)
	}
	good["limits.yaml"] = "a: 1\n"
	good["table_test.yaml"], good["catalog.json"] = "a: 1\n", "{}"
	good[".manifest"] = `{"revision":"from the file","roots":["mcpgw","grants"],"metadata":{"by":"me"}}`
	b, err := Build(BuildOptions{Dir: dirOf(t, good), Signing: &Signing{KeyFile: open.private}})
	if err != nil {
		t.Fatal(err)
	}
	if said := strings.Join(b.Warnings, "\n"); !strings.Contains(said, "chmod 600") || !strings.Contains(said, "limits.yaml is left out") {
		t.Errorf("warnings: %s", said)
	}
	if said := strings.Join(b.Warnings, "\n"); strings.Contains(said, "table_test") || strings.Contains(said, "catalog.json") {
		t.Errorf("tests are taken for data: %s", said)
	}
	if b.Content.Revision != "from the file" || !reflect.DeepEqual(b.Content.Roots, []string{"mcpgw", "grants"}) {
		t.Errorf("%+v", b.Content)
	}
}

// TestPath: a directory and a file are read alike, a mounted volume too; its links do not lead out.
func TestPath(t *testing.T) {
	files := rules("one")
	files[".manifest"] = `{"revision":"rev-one"}`
	plain := dirOf(t, files)
	b, err := Build(BuildOptions{Dir: plain})
	if err != nil {
		t.Fatal(err)
	}
	file := write(t, filepath.Join(t.TempDir(), "b.tar.gz"), string(b.Archive))
	mount := t.TempDir() // as Kubernetes mounts a config map
	for name, text := range files {
		write(t, filepath.Join(mount, "..2026", name), text)
	}
	for from, to := range map[string]string{"..data": "..2026", "policy": "..data/policy", "grants": "..data/grants", ".manifest": "..data/.manifest"} {
		if err := os.Symlink(to, filepath.Join(mount, from)); err != nil {
			t.Fatal(err)
		}
	}
	var first *Content
	for _, path := range []string{plain, file, mount} {
		s, err := Open(Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		var got *Content
		if err := s.Once(t.Context(), func(_ context.Context, c *Content) error { got = c; return nil }); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if first == nil {
			first = got
		}
		if !reflect.DeepEqual(got.Modules, first.Modules) || !reflect.DeepEqual(got.Data, first.Data) || got.Revision != "rev-one" || len(got.Modules) != 1 {
			t.Errorf("%s: %+v", path, got)
		}
		if st := s.Status(); st.Source != path || st.Revision != "rev-one" || st.Activated.IsZero() {
			t.Errorf("%+v", st)
		}
		s.Close()
	}
	if err := os.Symlink("/etc/hosts", filepath.Join(plain, "policy", "hosts.rego")); err != nil {
		t.Fatal(err)
	}
	loop := t.TempDir()
	if err := os.Symlink(".", filepath.Join(loop, "again")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{plain: "escapes", loop: "too many levels", "/nowhere": "no such file", write(t, filepath.Join(t.TempDir(), "x.tar.gz"), "no"): "no .tar.gz"} {
		if _, err := readPath(path, nil, 1<<20); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if _, err := readPath(dirOf(t, map[string]string{"a.rego": strings.Repeat("#", 4096)}), nil, 1024); err == nil || !strings.Contains(err.Error(), "max_bytes") {
		t.Error(err)
	}
	// A signed directory counts its tests as well.
	signed := t.TempDir()
	entries, err := unpack(built(t, "signed", &Signing{KeyFile: rsaPair(t, 0).private}), 1<<20, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		write(t, filepath.Join(signed, e.name), string(e.text))
	}
	v := &Verification{KeyFile: rsaPair(t, 0).public}
	keys, err := v.config()
	if err != nil {
		t.Fatal(err)
	}
	if c, err := readPath(signed, keys, 1<<20); err != nil || c.Revision != "rev-signed" {
		t.Error(c, err)
	}
	write(t, filepath.Join(signed, "more_test.rego"), "package mcpgw.policy\n\nallow if true\n")
	if _, err := readPath(signed, keys, 1<<20); err == nil || !strings.Contains(err.Error(), "not included") {
		t.Error(err)
	}
}

// TestPropertyNames: a name that is taken is local, and has one reading.
func TestPropertyNames(t *testing.T) {
	part := rapid.OneOf(rapid.SampledFrom([]string{"", ".", "..", "/", "\\", "\x00", "a.rego", "data.json", "\xff"}), rapid.StringN(0, 8, 16))
	rapid.Check(t, func(t *rapid.T) {
		raw := strings.Join(rapid.SliceOfN(part, 1, 6).Draw(t, "parts"), rapid.SampledFrom([]string{"/", "", "//"}).Draw(t, "between"))
		n, err := cleanName(raw)
		if err != nil {
			return
		}
		again, err := cleanName(n)
		if !filepath.IsLocal(n) || strings.ContainsAny(n, "\\\x00") || err != nil || again != n || filepath.Clean(n) != n {
			t.Fatalf("%q became %q", raw, n)
		}
	})
}

// TestPropertyBuild: data of any shape comes through signing, archive and reading with the value it had.
func TestPropertyBuild(t *testing.T) {
	own := rsaPair(t, 0)
	var value func(depth int) *rapid.Generator[any]
	value = func(depth int) *rapid.Generator[any] {
		number := rapid.Custom(func(t *rapid.T) any { return json.Number(fmt.Sprint(rapid.Int64().Draw(t, "n"))) })
		leaf := rapid.OneOf(number, rapid.Custom(func(t *rapid.T) any { return rapid.StringN(0, 6, 20).Draw(t, "s") }), rapid.Just[any](nil), rapid.Custom(func(t *rapid.T) any { return rapid.Bool().Draw(t, "b") }))
		if depth == 0 {
			return leaf
		}
		return rapid.OneOf(leaf,
			rapid.Custom(func(t *rapid.T) any { return rapid.SliceOfN(value(depth-1), 0, 3).Draw(t, "list") }),
			rapid.Custom(func(t *rapid.T) any {
				return rapid.MapOfN(rapid.StringN(0, 4, 12), value(depth-1), 0, 3).Draw(t, "map")
			}))
	}
	dir, n := t.TempDir(), 0
	write(t, filepath.Join(dir, "a.rego"), "package mcpgw.policy\n\nallow if data.d\n")
	rapid.Check(t, func(t *rapid.T) {
		want, err := encode(map[string]any{"d": value(3).Draw(t, "data")})
		if err != nil {
			t.Fatal(err)
		}
		n++
		file := filepath.Join(dir, fmt.Sprintf(".d%d.json", n))
		if err := os.WriteFile(file, want, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := Build(BuildOptions{Dir: dir, DataFiles: []string{file}, Signing: &Signing{KeyFile: own.private}})
		if err != nil {
			t.Fatal(err)
		}
		if got := b.Content.Data[0].Text; !bytes.Equal(got, want) {
			t.Fatalf("%s became %s", want, got)
		}
	})
}

// BenchmarkReload is what a new bundle costs before it counts: 200 rules and 10,000 grants, read, verified and compiled.
func BenchmarkReload(b *testing.B) {
	own := rsaPair(b, 0)
	var text strings.Builder
	text.WriteString("package mcpgw.policy\n\nallow if {\n\tsome role in data.grants[input.resource.server][input.resource.name]\n\trole in input.subject.roles\n}\n")
	for i := range 199 {
		switch i % 3 {
		case 0:
			fmt.Fprintf(&text, "\nallow if {\n\tinput.resource.server == \"s%d\"\n\t\"r%d\" in input.subject.roles\n}\n", i, i)
		case 1:
			fmt.Fprintf(&text, "\ndeny contains \"no %d\" if {\n\tinput.resource.name == \"u%d\"\n\tnot \"r%d\" in input.subject.roles\n}\n", i, i, i)
		default:
			fmt.Fprintf(&text, "\nallow if {\n\tinput.resource.name == \"t%d\"\n\tinput.arguments.mode == \"m%d\"\n}\n", i, i)
		}
	}
	grants := map[string]map[string][]string{}
	for s := range 100 {
		grants[fmt.Sprintf("s%d", s)] = map[string][]string{}
		for n := range 100 {
			grants[fmt.Sprintf("s%d", s)][fmt.Sprintf("tool_%d", n)] = []string{fmt.Sprintf("role-%d", n), "operator"}
		}
	}
	data, err := json.Marshal(map[string]any{"grants": grants})
	if err != nil {
		b.Fatal(err)
	}
	made, err := Build(BuildOptions{Dir: dirOf(b, map[string]string{"a.rego": text.String(), "data.json": string(data)}), Signing: &Signing{KeyFile: own.private}})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		c, err := Read(made.Archive, Options{Verification: &Verification{KeyFile: own.public}})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := opa.Load(opa.Options{Modules: c.Modules, Data: c.Data}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(made.Archive)), "bytes/bundle")
}
