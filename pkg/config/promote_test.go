package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

const promoteHead = "# first\nlisteners:\n  - address: 127.0.0.1:0\n\n"

func TestPromote(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"lines", `# the policy
policy:
  # ours
  directory: policies # today's
  data_files:
    - a.json
    # and
    - b.json
  timeout: 2s # short

  # tomorrow's
  # policy
  shadow:
    # reviewed
    directory: next # yes
    data_files: [c.json]
    samples: 5

  explain: {keep: 5}
# the end
admin: {address: 127.0.0.1:1}
`, `# the policy
policy:
  # ours
  # reviewed
  directory: next # yes
  data_files: [c.json]
  timeout: 2s # short


  explain: {keep: 5}
# the end
admin: {address: 127.0.0.1:1}
`},
		{"shadow between braces, at the end, without newline", "policy:\n  directory: policies\n  shadow: { directory: next, data_files: [\"c.json\"] }", "policy:\n  directory: next\n  data_files: [\"c.json\"]\n"},
		{"shadow first", "policy:\n    shadow:\n      directory: next\n      data_files:\n      - c.json\n      - d.json\n    directory: policies\n", "policy:\n    directory: next\n    data_files:\n    - c.json\n    - d.json\n"},
		{"to a bundle", "policy:\n  directory: policies\n  data_files: [a.json]\n  shadow:\n    bundle:\n      path: next.tar.gz\n      verification:\n        key_file: key.pem\n  timeout: 1s\n", "policy:\n  bundle:\n    path: next.tar.gz\n    verification:\n      key_file: key.pem\n  timeout: 1s\n"},
		{"between braces", "policy: { directory: policies, timeout: 2s, shadow: { directory: next } } # all\n\n# below\nadmin: {address: 127.0.0.1:1}\n", "policy: # all\n  directory: next\n  timeout: 2s\n\n# below\nadmin: {address: 127.0.0.1:1}\n"},
		{"braces over lines", "policy: {\n  directory: policies,\n  shadow: { directory: next }\n}\n", "policy:\n  directory: next\n"},
		{"windows", "policy:\r\n  directory: policies\r\n  shadow: {directory: next}\r\n", "policy:\r\n  directory: next\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			head := promoteHead
			if strings.Contains(tc.text, "\r") {
				head = strings.ReplaceAll(head, "\n", "\r\n")
			}
			got, err := Promote([]byte(head + tc.text))
			if err != nil || string(got) != head+tc.want {
				t.Errorf("%v\n%s\nwant\n%s", err, got, head+tc.want)
			}
		})
	}
	for text, want := range map[string]string{
		"policy: {directory: a}":                           "no policy.shadow",
		"policy:\n  directory: a":                          "no policy.shadow",
		"{policy: {directory: a, shadow: {directory: b}}}": "by hand",
		"servers: []":                                      "no policy",
		"policy: [":                                        "yaml",
		"":                                                 "no fields",
		"policy:\n  timeout: 1s\n  shadow: {directory: b}":           "neither directory nor bundle",
		"policy:\n  directory: a\n  shadow:\n  explain: {keep: 100}": "no policy.shadow",
	} {
		if got, err := Promote([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	if _, err := Promote([]byte("policy: {directory: a}")); !errors.Is(err, ErrNoShadow) {
		t.Error(err)
	}
}

// TestPropertyPromoteChangesNothingElse: whatever the layout, the new text says what the old one said with the shadow as its policy, and
// every line that is about something else is still there.
func TestPropertyPromoteChangesNothingElse(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"policies", "next", "deep/er"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a.json", "b.yaml"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "mcpgw.yaml")
	source := func(rt *rapid.T, label, pad string) string {
		var b strings.Builder
		comment := func() {
			if rapid.Bool().Draw(rt, label+" comment") {
				b.WriteString(pad + "# about it\n")
			}
		}
		comment()
		b.WriteString(pad + "directory: " + rapid.SampledFrom([]string{"policies", "next # where", `"deep/er"`}).Draw(rt, label+" directory") + "\n")
		comment()
		b.WriteString(rapid.SampledFrom([]string{
			"", pad + "data_files: [a.json]\n", pad + "data_files:\n" + pad + "- a.json\n" + pad + "- b.yaml\n", pad + "data_files:\n\n" + pad + "    # why\n" + pad + "    - b.yaml\n",
			pad + "data_files: [\n" + pad + "  a.json, b.yaml\n" + pad + "  ]\n",
		}).Draw(rt, label+" data"))
		return b.String()
	}
	rapid.Check(t, func(rt *rapid.T) {
		pad := rapid.SampledFrom([]string{" ", "  ", "    "}).Draw(rt, "indent")
		parts := []string{
			source(rt, "live", pad),
			pad + "# next\n" + pad + "shadow:\n" + source(rt, "shadow", pad+rapid.SampledFrom([]string{"  ", "   "}).Draw(rt, "shadow indent")),
			pad + "timeout: 2s # keep-1\n",
			"\n" + pad + "# keep-2\n" + pad + "explain: {keep: 7}\n",
		}
		text := "# keep-3\nlisteners:\n  - address: 127.0.0.1:0\n    anonymous: {}\npolicy: # keep-4\n" + strings.Join(rapid.Permutation(parts).Draw(rt, "order"), "") + "# keep-5\nadmin: {address: 127.0.0.1:1}\n"
		old, err := Parse(file, []byte(text))
		if err != nil {
			rt.Fatal(err)
		}
		want := proto.CloneOf(old.Proto)
		want.Policy.Directory, want.Policy.DataFiles, want.Policy.Bundle, want.Policy.Shadow = want.Policy.Shadow.Directory, want.Policy.Shadow.DataFiles, want.Policy.Shadow.Bundle, (*configv1.Shadow)(nil)
		next, err := Promote([]byte(text))
		if err != nil {
			rt.Fatal(err)
		}
		got, err := Parse(file, next)
		if err != nil || !proto.Equal(got.Proto, want) {
			rt.Fatalf("%v\n%s\nbecame\n%s", err, text, next)
		}
		for _, keep := range []string{"# keep-1", "# keep-2", "# keep-3", "# keep-4", "# keep-5"} {
			if !strings.Contains(string(next), keep) {
				rt.Fatalf("%s is gone:\n%s\nbecame\n%s", keep, text, next)
			}
		}
	})
}
