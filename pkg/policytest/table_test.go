package policytest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mcpgw/mcpgw/pkg/opa"
)

// TestTablesAreReadStrictly: every mistake is a fault with its line, all at once.
func TestTablesAreReadStrictly(t *testing.T) {
	ok := "- {who: reader, calls: git/git_log, expect: allow}\n"
	for name, tc := range map[string]struct {
		text string
		want []string
	}{
		"empty":              {"", []string{"t_test.yaml:1:1: is empty (write tests: and below it entries that begin with - who:)"}},
		"not YAML":           {"tests:\n  - {who: reader", []string{"t_test.yaml:2:1: is not YAML: did not find expected ',' or '}'"}},
		"a list":             {ok, []string{"t_test.yaml:1:1: want an object (with members of tests)"}},
		"tests are no list":  {"tests: {}\n", []string{"t_test.yaml:1:8: tests is a list (write tests: and below it entries that begin with - who:)"}},
		"a misspelt head":    {"test:\n" + ok, []string{`t_test.yaml:1:1: unknown member "test" (did you mean tests?)`}},
		"an unknown member":  {"tests:\n- who: reader\n  call: git/git_log\n  expect: allow\n", []string{`t_test.yaml:3:3: unknown member "call" (did you mean calls?)`}},
		"twice":              {"tests:\n- who: reader\n  who: writer\n  expect: allow\n", []string{"t_test.yaml:3:3: who is there twice; the first is on line 2 (keep one)"}},
		"two documents":      {"tests:\n" + ok + "---\ntests: []\n", []string{"t_test.yaml:3:1: a second document begins here (keep one document in the file)"}},
		"a merge":            {"tests:\n- <<: {who: reader}\n  expect: allow\n", []string{`t_test.yaml:2:3: unknown member "<<" (there are: name, who, calls, reads, gets, with, annotations, title, tags, digest, drift, findings, claimed, endpoint, era, revision, client_address, request_id, round, time, labels, lost, expect, because)`}},
		"nothing expected":   {"tests:\n- {who: reader, calls: git/git_log}\n", []string{"t_test.yaml:2:3: what is expected is missing (add expect: allow, deny, ask, hidden or shown)"}},
		"an unknown effect":  {"tests:\n- {who: reader, calls: git/git_log, expect: alow}\n", []string{"t_test.yaml:2:45: expect is one of allow, deny, ask, hidden, shown"}},
		"a number in hex":    {"tests:\n- who: reader\n  calls: git/git_log\n  with: {n: 0x10}\n  expect: allow\n", []string{"t_test.yaml:4:13: 0x10 is no number as JSON writes it (put a text in quotes)"}},
		"a key that is none": {"tests:\n- who: reader\n  calls: git/git_log\n  with: {1: 2}\n  expect: allow\n", []string{"t_test.yaml:4:10: the name 1 is no text (put it in quotes)"}},
		"arguments twice":    {"tests:\n- who: reader\n  calls: git/git_log\n  with: {a: 2, a: 3}\n  expect: allow\n", []string{`t_test.yaml:4:16: the name "a" is there twice (keep one)`}},
		"a list's arguments": {"tests:\n- {who: reader, calls: git/git_log, with: {}, expect: shown}\n", []string{"t_test.yaml:2:3: a list knows no arguments (leave out with, or expect allow, deny or ask)"}},
		"an allow's reason":  {"tests:\n- {who: reader, calls: git/git_log, expect: allow, because: so}\n", []string{"t_test.yaml:2:3: only a deny and an ask give reasons (leave out because)"}},
		"a deny's label":     {"tests:\n- {who: reader, calls: git/git_log, expect: {effect: deny, label: [a]}}\n", []string{"t_test.yaml:2:45: only an allow and an ask have obligations (leave out rewrite, redact and label)"}},
		"a rewrite of what":  {"tests:\n- {who: reader, calls: git/git_log, expect: {rewrite: [{path: /a}]}}\n", []string{"t_test.yaml:2:56: want path or pattern, and value, with or remove: true (as in the rule that makes it)"}},
		"equal names":        {"tests:\n- {name: a, who: r, calls: s/t, expect: allow}\n- {name: a, who: r, calls: s/t, expect: deny}\n", []string{`t_test.yaml:3:3: the test on line 2 has the name "a" as well (give each test a name of its own)`}},
		"two at once":        {"tests:\n- {whoo: r, calls: s/t, expect: allow}\n- {who: r, calls: s/t, expect: 1}\n", []string{`t_test.yaml:2:4: unknown member "whoo" (did you mean who?)`, "t_test.yaml:3:32: expect is one of allow, deny, ask, hidden, shown"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, faults := parseTable(opa.File{Name: "t_test.yaml", Text: []byte(tc.text)})
			if d := cmp.Diff(tc.want, strings.Split(faults.Error(), "\n")); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestAliasesAreBounded: a file that unfolds to more than memory is refused.
func TestAliasesAreBounded(t *testing.T) {
	text := "tests:\n- who: r\n  calls: s/t\n  expect: allow\n  with:\n    a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for n := 1; n < 12; n++ {
		line := "    aN: &aN [*aM, *aM, *aM, *aM, *aM, *aM, *aM, *aM, *aM, *aM]\n"
		text += strings.NewReplacer("N", string(rune('a'+n)), "M", map[bool]string{true: "0", false: string(rune('a' + n - 1))}[n == 1]).Replace(line)
	}
	_, faults := parseTable(opa.File{Name: "t_test.yaml", Text: []byte(text)})
	if len(faults) == 0 || !strings.Contains(faults.Error(), "too large or too deep") {
		t.Errorf("faults: %v", faults)
	}
}

// TestTableDescriptions: what YAML says comes out as JSON, numbers as written, dates as text, aliases unfolded.
func TestTableDescriptions(t *testing.T) {
	tests, faults := parseTable(opa.File{Name: "t_test.yaml", Text: []byte(`
tests:
  - who: &ann {id: ann, roles: [reader]}
    calls: git/git_log
    with: {n: 9007199254740993, f: 1.50, day: 2026-01-02, none: null, yes: true, text: "5", list: [1, [2]]}
    time: 2026-03-01T12:00:00Z
    expect: deny
  - {who: *ann, calls: git/git_log, expect: {effect: ask, label: [b, a]}, because: sure}
`)})
	if len(faults) > 0 || len(tests) != 2 {
		t.Fatalf("%d tests, %v", len(tests), faults)
	}
	want := `{"who":{"id":"ann","roles":["reader"]},"calls":"git/git_log",` +
		`"with":{"n":9007199254740993,"f":1.50,"day":"2026-01-02","none":null,"yes":true,"text":"5","list":[1,[2]]},"time":"2026-03-01T12:00:00Z"}`
	if d := cmp.Diff(want, string(tests[0].text)); d != "" {
		t.Error(d)
	}
	if tests[0].line != 3 || tests[0].lines["with"] != 5 {
		t.Errorf("lines: %d, %v", tests[0].line, tests[0].lines)
	}
	if got := string(tests[1].text); got != `{"who":{"id":"ann","roles":["reader"]},"calls":"git/git_log"}` {
		t.Errorf("the second: %s", got)
	}
	if e := tests[1].expect; e.effect != "ask" || !cmp.Equal(e.label, []string{"a", "b"}) || e.rewrite != nil {
		t.Errorf("expects %+v", e)
	}
}

func TestReadTables(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a_test.yaml", "sub/b_test.yml", "sub/data.yaml", ".hidden/c_test.yaml", "p_test.rego"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{dir, link} {
		files, err := ReadTables(dir)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range files {
			name, err := filepath.Rel(dir, f.Name)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, name)
		}
		if d := cmp.Diff([]string{"a_test.yaml", "sub/b_test.yml"}, got); d != "" {
			t.Errorf("%s: %s", dir, d)
		}
	}
}
