package opa

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

const testedPolicy = `package mcpgw.policy

allow if {
	"reader" in input.subject.roles
	input.resource.annotations.readOnlyHint == true
}

deny contains "1 to 50" if {
	input.resource.name == "git_log"
	not small_count
}

small_count if {
	is_number(input.arguments.max_count)
	input.arguments.max_count >= 1
	input.arguments.max_count <= 50
}

grade := "high" if {
	input.arguments.max_count > 100
} else := "middle" if {
	input.arguments.max_count > 10
} else := "low"

default quota(_) := 1

quota(role) := 5 if role == "writer"
`

const testHead = `package mcpgw.policy_test

import data.mcpgw.main
import data.mcpgw.policy
import data.mcpgw.test as mcp

effect(x) := r.effect if r := main.ruling with input as x
used(x) if { mcp.question(x); policy.allow } # an import that is not used is an error
q(n) := {"subject": {"roles": ["reader"]}, "resource": {"name": "git_log", "annotations": {"readOnlyHint": true}}, "arguments": {"max_count": n}}

`

// runRego runs tests that begin on line 11.
func runRego(t *testing.T, tests string, change func(*TestOptions)) map[string]TestResult {
	t.Helper()
	o := TestOptions{Modules: []File{{"p.rego", []byte(testedPolicy)}, {"p_test.rego", []byte(testHead + tests)}}}
	if change != nil {
		change(&o)
	}
	results, err := RunTests(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]TestResult{}
	for _, r := range results {
		out[r.Name] = r
	}
	return out
}

// told is what is said about a failed test, one line a rule.
func told(list []Near) (out []string) {
	for _, n := range list {
		line := fmt.Sprintf("%s:%d %s", n.File, n.Line, n.Rule)
		if n.Held {
			out = append(out, line+" held")
			continue
		}
		line += fmt.Sprintf(" failed at %d: %s", n.At, n.Text)
		for _, v := range n.Values {
			line += fmt.Sprintf("; %s = %s", v.Name, v.Value)
		}
		out = append(out, line)
	}
	return out
}

// TestFailuresShowValues: a failed test shows its own condition with the values in it, and what became of the policy's rules.
func TestFailuresShowValues(t *testing.T) {
	small := "p.rego:13 small_count failed at 16: input.arguments.max_count <= 50; input.arguments.max_count = 51"
	denied := "p.rego:8 deny held"
	for name, tc := range map[string]struct {
		test string
		want []string
	}{
		"a call": {
			`test_x if effect(q(51)) == "allow"`,
			[]string{`p_test.rego:11 test_x failed at 11: effect(q(51)) == "allow"; effect(q(51)) = "deny"`, denied, small},
		},
		"what came before does not count": {
			"test_x if {\n\teffect(q(5)) == \"allow\"\n\teffect(q(51)) == \"allow\"\n}",
			[]string{`p_test.rego:11 test_x failed at 13: effect(q(51)) == "allow"; effect(q(51)) = "deny"`, denied, small},
		},
		"a ruling in a variable": {
			"test_x if {\n\tr := main.ruling with input as q(51)\n\tr.effect == \"allow\"\n}",
			[]string{`p_test.rego:11 test_x failed at 13: r.effect == "allow"; r.effect = "deny"`, denied, small},
		},
		"every": {
			"test_x if {\n\tevery n in [1, 51, 50] {\n\t\teffect(q(n)) == \"allow\"\n\t}\n}",
			[]string{`p_test.rego:11 test_x failed at 13: effect(q(n)) == "allow"; effect(q(n)) = "deny"; n = 51`, denied, small},
		},
		"a negation": {
			`test_x if not policy.allow with input as q(5)`,
			[]string{"p_test.rego:11 test_x failed at 11: not policy.allow with input as q(5)", "p.rego:3 allow held"},
		},
		"nothing there": {
			`test_x if policy.small_count with input as {}`,
			[]string{
				"p_test.rego:11 test_x failed at 11: policy.small_count with input as {}",
				"p.rego:13 small_count failed at 14: is_number(input.arguments.max_count); input.arguments.max_count = undefined",
			},
		},
		"a value of the test": {
			"test_x if {\n\twant := {\"a\": [1, 9007199254740993]}\n\twant.a[1] == 9007199254740992\n}",
			[]string{"p_test.rego:11 test_x failed at 13: want.a[1] == 9007199254740992; want.a[1] = 9007199254740993"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := runRego(t, tc.test, nil)["test_x"]
			if r.Passed || r.Err != nil {
				t.Fatalf("passed %v, error %v", r.Passed, r.Err)
			}
			if d := cmp.Diff(tc.want, told(r.Near)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestCasesAreToldApart(t *testing.T) {
	results := runRego(t, `test_cases[note] if {
	some note, tc in {
		"few": {"n": 1, "effect": "allow"},
		"many": {"n": 51, "effect": "allow"},
		"many are refused": {"n": 100, "effect": "deny"},
	}
	effect(q(tc.n)) == tc.effect
}

test_twice[tc.note] if {
	some tc in [{"note": "a", "n": 51}, {"note": "a", "n": 5}, {"note": "b", "n": 5}]
	effect(q(tc.n)) == "allow"
}

test_none[note] if some note, _ in {}

test_fine[note] if {
	some note, n in {"one": 1, "two": 2}
	effect(q(n)) == "allow"
}
`, nil)
	cases := results["test_cases"].Cases
	if len(cases) != 1 || cases[0].Note != "many" || cases[0].Message != "" {
		t.Fatalf("failed: %+v", cases)
	}
	want := []string{
		`p_test.rego:11 test_cases failed at 17: effect(q(tc.n)) == tc.effect; effect(q(tc.n)) = "deny"; tc.n = 51; tc.effect = "allow"`,
		"p.rego:8 deny held", "p.rego:13 small_count failed at 16: input.arguments.max_count <= 50; input.arguments.max_count = 51",
	}
	if d := cmp.Diff(want, told(cases[0].Near)); d != "" {
		t.Error(d)
	}
	// OPA's own runner says that this test passes: one case hides the other.
	if r := results["test_twice"]; r.Passed || len(r.Cases) != 1 || r.Cases[0].Note != "a" || !strings.Contains(r.Cases[0].Message, "more than one case") {
		t.Errorf("a note that stands there twice: %+v", r)
	}
	if r := results["test_none"]; r.Passed || len(r.Cases) != 1 || r.Cases[0].Message != "there is no case" {
		t.Errorf("no case at all: %+v", r)
	}
	if r := results["test_fine"]; !r.Passed || r.Cases != nil {
		t.Errorf("cases that hold: %+v", r)
	}
}

// TestTestsEnd: one that loops, panics or fails in a built-in function is an error, and the others are run.
func TestTestsEnd(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	results := runRego(t, `test_loop if {
	some i in numbers.range(1, 100000)
	some j in numbers.range(1, 100000)
	i + j == -1
}

test_panic if mcp.call("panic", "s", "n", {})

test_hangs if mcp.call("hang", "s", "n", {})

test_set if not mcp.call("reader", "s", "n", {"a": [{1}]})

test_unknown if not policy.allow with input as mcp.call("reader", "s", "nope", {})

test_builtin if not to_number("x") == 1

test_prints if print("n is", 5)

todo_test_later if false

test_sound if true

test_false := false

test_text := "true"

test_twice if true

test_twice if false
`, func(o *TestOptions) {
		o.Timeout = 200 * time.Millisecond
		o.Question = func(d []byte) ([]byte, error) {
			switch {
			case strings.Contains(string(d), `"panic"`):
				panic("out of order")
			case strings.Contains(string(d), `"hang"`):
				<-hang
			}
			return nil, errors.New("there is no tool s/nope")
		}
	})
	for name, want := range map[string]string{
		"test_loop": "it did not end within 200ms", "test_panic": "panic: out of order", "test_unknown": "there is no tool s/nope", "test_builtin": "to_number",
		"test_hangs": "it did not end within 200ms and cannot be interrupted", "test_set": "{1} is a set, which JSON has no form for; write an array",
	} {
		if r := results[name]; r.Err == nil || !strings.Contains(r.Err.Error(), want) || r.Passed {
			t.Errorf("%s: %+v, want the error %q", name, r, want)
		}
	}
	if r := results["test_prints"]; !r.Passed || r.Output != "n is 5\n" {
		t.Errorf("test_prints: %+v", r)
	}
	if r := results["todo_test_later"]; !r.Skipped || r.Passed || r.Err != nil {
		t.Errorf("todo_test_later: %+v", r)
	}
	for name, passed := range map[string]bool{"test_sound": true, "test_false": false, "test_text": false, "test_twice": true, "test_twice#01": false} {
		if r, ok := results[name]; !ok || r.Passed != passed || r.Err != nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if len(results) != 13 {
		t.Errorf("%d results", len(results))
	}
}

func TestRunPicksTests(t *testing.T) {
	results := runRego(t, "test_a if true\n\ntest_b if true\n", func(o *TestOptions) { o.Run = regexp.MustCompile(`^data\.mcpgw\.policy_test\.test_b$`) })
	if len(results) != 1 || !results["test_b"].Passed {
		t.Errorf("ran %v", results)
	}
}

// TestTestsAreChecked: what Load refuses, tests do not run with; and what only tests may use, a policy may not.
func TestTestsAreChecked(t *testing.T) {
	for name, tc := range map[string]struct {
		file, text, want string
	}{
		"an unknown field":             {"a_test.rego", "package a_test\n\ntest_x if input.subject.rolez", "a_test.rego:3:"},
		"an unknown rule":              {"a_test.rego", "package a_test\n\nimport data.mcpgw.main\n\ntest_x if main.rulling", "there is no rule data.mcpgw.main.rulling"},
		"no Rego":                      {"a_test.rego", "package a_test\n\ntest_x if {", "a_test.rego:3:"},
		"a policy that asks questions": {"a.rego", "package mcpgw.policy\n\nallow if mcpgw.question({})", ""},
	} {
		modules := []File{{tc.file, []byte(tc.text)}}
		_, err := RunTests(t.Context(), TestOptions{Modules: modules})
		if tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: error %v, want %q", name, err, tc.want)
		}
		if tc.want == "" {
			if _, err := Load(Options{Modules: modules}); err == nil || !strings.Contains(err.Error(), "undefined function mcpgw.question") {
				t.Errorf("%s: Load gives %v", name, err)
			}
		}
	}
	imports := []File{{"a.rego", []byte("package mcpgw.policy\n\nimport data.mcpgw.test as mcp\n\nallow if mcp.call(\"r\", \"s\", \"t\", {})")}}
	if _, err := Load(Options{Modules: imports}); err == nil || !strings.Contains(err.Error(), "data.mcpgw.test.call") {
		t.Errorf("a policy that imports what tests are made with: Load gives %v", err)
	}
}

// TestCoverage: a rule is covered that held in a test or a ruling, each else and each of several rules of one name for itself.
func TestCoverage(t *testing.T) {
	modules := []File{{"p.rego", []byte(testedPolicy)}, {"p_test.rego", []byte(testHead + `test_x if {
	effect(q(51)) == "deny"
	policy.grade == "middle" with input as q(51)
	policy.quota("reader") == 1
}`)}}
	c := &Coverage{}
	check := func(want ...string) {
		t.Helper()
		var got []string
		for _, r := range c.Rules(modules) {
			got = append(got, fmt.Sprintf("%s:%d %s %v", r.File, r.Line, r.Rule, r.Covered))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
	if _, err := RunTests(t.Context(), TestOptions{Modules: modules, Coverage: c}); err != nil {
		t.Fatal(err)
	}
	// The allow was not looked at: a denial comes first.
	check("p.rego:3 data.mcpgw.policy.allow false", "p.rego:8 data.mcpgw.policy.deny true", "p.rego:13 data.mcpgw.policy.small_count false",
		"p.rego:19 data.mcpgw.policy.grade false", "p.rego:21 data.mcpgw.policy.grade true", "p.rego:23 data.mcpgw.policy.grade false",
		"p.rego:25 data.mcpgw.policy.quota true", "p.rego:27 data.mcpgw.policy.quota false")
	e, err := Load(Options{Modules: modules, Coverage: c})
	if err != nil {
		t.Fatal(err)
	}
	q := &policy.Question{
		Subject: &identity.Principal{Roles: []string{"reader"}}, Action: "tools/call", Arguments: []byte(`{"max_count": 5}`),
		Item: &catalog.Item{Server: "git", Name: "git_log", Annotations: []byte(`{"readOnlyHint":true}`)},
	}
	if r := e.Decide(t.Context(), q); r.Effect != policy.Allow {
		t.Fatalf("%+v", r)
	}
	check("p.rego:3 data.mcpgw.policy.allow true", "p.rego:8 data.mcpgw.policy.deny true", "p.rego:13 data.mcpgw.policy.small_count true",
		"p.rego:19 data.mcpgw.policy.grade false", "p.rego:21 data.mcpgw.policy.grade true", "p.rego:23 data.mcpgw.policy.grade false",
		"p.rego:25 data.mcpgw.policy.quota true", "p.rego:27 data.mcpgw.policy.quota false")
	q.Arguments = []byte(`{"max_count": 51}`)
	near, err := e.Near(t.Context(), q)
	if err != nil || !slices.Contains(told(near), "p.rego:13 small_count failed at 16: input.arguments.max_count <= 50; input.arguments.max_count = 51") {
		t.Errorf("near: %q, %v", told(near), err)
	}
}

// TestShippedTestsShowTheirRules: the gateway's own tests say why they fail, too.
func TestShippedTestsShowTheirRules(t *testing.T) {
	results, err := RunTests(t.Context(), TestOptions{})
	if err != nil || len(results) < 20 {
		t.Fatalf("%d tests, %v", len(results), err)
	}
	for _, r := range results {
		if !r.Passed || !strings.HasPrefix(r.File, shippedPrefix) {
			t.Errorf("%+v", r)
		}
	}
}
