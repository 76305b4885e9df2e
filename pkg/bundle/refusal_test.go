package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

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
