package policytest

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

var update = flag.Bool("update", false, "write the expected reports in testdata anew")

// team is the policy in testdata, with its tests.
func team(t testing.TB) Options {
	t.Helper()
	dir := filepath.Join("testdata", "policy")
	modules, err := opa.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := ReadTables(dir)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join("testdata", "catalog.json"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := catalog.ReadSaved(text)
	if err != nil {
		t.Fatal(err)
	}
	return Options{Modules: modules, Tables: tables, Questions: Questions{Catalog: d}}
}

// TestReports compares every form of output with what lies in testdata: passed, failed and broken tests, of Rego and of tables.
func TestReports(t *testing.T) {
	r, err := Run(t.Context(), team(t))
	if err != nil {
		t.Fatal(err)
	}
	if r.OK() {
		t.Error("failed tests are reported as well")
	}
	timeless(r)
	junit := func(w io.Writer) error { return r.WriteJUnit(w) }
	for name, write := range map[string]func(io.Writer) error{
		"report.txt":         func(w io.Writer) error { return r.WriteText(w, false) },
		"report.verbose.txt": func(w io.Writer) error { return r.WriteText(w, true) },
		"report.xml":         junit,
		"report.json": func(w io.Writer) error {
			enc := json.NewEncoder(w)
			enc.SetIndent("", "  ")
			return enc.Encode(r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := write(&got); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got.String()); d != "" {
				t.Error(d)
			}
		})
	}
	var b bytes.Buffer
	if err := junit(&b); err != nil {
		t.Fatal(err)
	}
	var read junitSuites
	if err := xml.Unmarshal(b.Bytes(), &read); err != nil || read.Tests != len(r.Tests) || len(read.Suites) != 2 {
		t.Errorf("the XML reads as %+v, %v", read, err)
	}
}

// timeless takes out what differs from run to run and from version to version.
func timeless(r *Report) {
	r.Seconds = 0
	for i := range r.Tests {
		r.Tests[i].Seconds = 0
		if r.Tests[i].Ruling != nil {
			r.Tests[i].Ruling.Revision = "R"
		}
	}
}

// TestNothingRunsWithFaults: whatever is wrong is told with its place before any test is run.
func TestNothingRunsWithFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"a table": {func(o *Options) { o.Tables = append(o.Tables, opa.File{Name: "x_test.yaml", Text: []byte("a: b")}) }, `x_test.yaml:1:1: unknown member "a"`},
		"a policy": {func(o *Options) {
			o.Modules = append(o.Modules, opa.File{Name: "x.rego", Text: []byte("package x\n\na if")})
		}, "x.rego:3:"},
		"a test": {func(o *Options) {
			o.Modules = append(o.Modules, opa.File{Name: "x_test.rego", Text: []byte("package x\n\ntest_a if b")})
		}, "x_test.rego:3:"},
		"data":      {func(o *Options) { o.Data = append(o.Data, opa.File{Name: "x.json", Text: []byte("{]")}) }, "x.json:1:"},
		"the entry": {func(o *Options) { o.Entrypoint = "data.team.nothing" }, "the entry point data.team.nothing is no rule"},
	} {
		o := team(t)
		tc.change(&o)
		if r, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %+v, error %v, want %q", name, r, err, tc.want)
		}
	}
}

func TestRunPicks(t *testing.T) {
	o := team(t)
	o.Run = regexp.MustCompile(`test_reader$|team_test\.yaml: guest calls`)
	r, err := Run(t.Context(), o)
	if err != nil || len(r.Tests) != 3 || r.Passed != 2 || r.Failed != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	o.Run = regexp.MustCompile(`nothing`)
	if r, err = Run(t.Context(), o); err != nil || len(r.Tests) != 0 || r.OK() {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestRulingsEnd: a ruling that takes too long is an error of its test, as it is a refusal in the gateway.
func TestRulingsEnd(t *testing.T) {
	o := Options{
		Modules: []opa.File{{Name: "p.rego", Text: []byte("package mcpgw.policy\n\nallow if {\n\tsome i in numbers.range(1, 100000)\n\tsome j in numbers.range(1, 100000)\n\ti + j == -1\n\tinput.subject.id\n}\n")}},
		Tables:  []opa.File{{Name: "p_test.yaml", Text: []byte("tests:\n- {who: r, calls: s/t, expect: deny}\n")}},
		Timeout: 50 * time.Millisecond, Questions: Questions{Plain: true},
	}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Tests[0]; got.Result != Broken || !strings.Contains(got.Message, "the policy had no time to rule") {
		t.Errorf("%+v", got)
	}
}

// TestTablesRuleAsTheEngine: over random tests, a table passes exactly if the engine, without the tests' tracing, rules as it expects.
func TestTablesRuleAsTheEngine(t *testing.T) {
	o := team(t)
	engine, err := opa.Load(opa.Options{Modules: o.Modules})
	if err != nil {
		t.Fatal(err)
	}
	o.Questions.Labels = func() ([]string, error) { return engine.Labels(), nil }
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		var text strings.Builder
		text.WriteString("tests:\n")
		var want []string
		for range rapid.IntRange(1, 8).Draw(t, "tests") {
			description := map[string]any{
				"who":      rapid.SampledFrom([]any{"reader", "writer", "guest", map[string]any{"roles": []string{"reader", "writer"}}}).Draw(t, "who"),
				"drift":    rapid.SampledFrom([]string{"", "new", "changed"}).Draw(t, "drift"),
				"endpoint": rapid.SampledFrom([]string{"mcp", "rehearsal"}).Draw(t, "endpoint"),
				"lost":     rapid.Bool().Draw(t, "lost"),
				"labels":   rapid.SampledFrom([][]string{{}, {"secret"}}).Draw(t, "labels"),
			}
			expect := rapid.SampledFrom(effects).Draw(t, "expect")
			list := expect == "hidden" || expect == "shown"
			switch rapid.IntRange(0, 2).Draw(t, "what") {
			case 0:
				description["reads"] = "git/file:///secret/a"
			default:
				description["calls"] = "git/" + rapid.SampledFrom([]string{"git_log", "git_push"}).Draw(t, "tool")
				if !list {
					description["with"] = map[string]any{
						"max_count": rapid.SampledFrom([]any{1, 50, 51, nil, "5", -1}).Draw(t, "count"),
						"broken":    rapid.SampledFrom([]any{"", 5}).Draw(t, "broken"),
					}
				}
			}
			b, err := json.Marshal(description)
			if err != nil {
				t.Fatal(err)
			}
			q, err := o.Questions.Question(b, list)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, outcome(t, engine, q, expect))
			seen[expect+" "+want[len(want)-1]]++
			description["expect"] = expect
			if b, err = json.Marshal(description); err != nil { // JSON is YAML
				t.Fatal(err)
			}
			fmt.Fprintf(&text, "- %s\n", b)
		}
		r, err := Run(t.Context(), Options{Modules: o.Modules, Tables: []opa.File{{Name: "r_test.yaml", Text: []byte(text.String())}}, Questions: o.Questions, Run: regexp.MustCompile(`^r_test`)})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, test := range r.Tests {
			got = append(got, test.Result)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("%s\n%s", d, text.String())
		}
	})
	for _, effect := range effects {
		if seen[effect+" "+Passed] == 0 || seen[effect+" "+Failed] == 0 {
			t.Errorf("the random tests do not reach everything: %v", seen)
		}
	}
	if seen["deny "+Broken] == 0 {
		t.Errorf("no policy failed: %v", seen)
	}
}

// outcome is what the engine says to a question, and whether that is what was expected.
func outcome(t *rapid.T, e *opa.Engine, q *policy.Question, expect string) string {
	got := ""
	if expect == "hidden" || expect == "shown" {
		visible, err := e.Visible(t.Context(), q)
		if err != nil {
			return Broken
		}
		got = map[bool]string{true: "shown", false: "hidden"}[visible]
	} else {
		r := e.Decide(t.Context(), q)
		if r.Err != nil {
			return Broken
		}
		got = string(r.Effect)
	}
	if got == expect {
		return Passed
	}
	return Failed
}

// BenchmarkThousandTests runs 1,000 tests with coverage: 1,000 table tests, or 1,000 Rego tests that build whole questions.
func BenchmarkThousandTests(b *testing.B) {
	o := team(b)
	policyOnly := o.Modules[:1]
	var table, rego strings.Builder
	table.WriteString("tests:\n")
	rego.WriteString("package t_test\n\nimport data.mcpgw.main\nimport data.mcpgw.test as mcp\n\n")
	for n := range 1000 {
		fmt.Fprintf(&table, "- {who: reader, calls: git/git_log, with: {max_count: %d}, expect: %s}\n", n, map[bool]string{true: "allow", false: "deny"}[n >= 1 && n <= 50])
		fmt.Fprintf(&rego, "test_%d if {\n\tr := main.ruling with input as mcp.call(\"reader\", \"git\", \"git_log\", {\"max_count\": %d})\n\tr.effect == %q\n}\n\n",
			n, n, map[bool]string{true: "allow", false: "deny"}[n >= 1 && n <= 50])
	}
	for name, o := range map[string]Options{
		"table": {Modules: policyOnly, Tables: []opa.File{{Name: "t_test.yaml", Text: []byte(table.String())}}, Questions: o.Questions},
		"rego":  {Modules: []opa.File{policyOnly[0], {Name: "t_test.rego", Text: []byte(rego.String())}}, Questions: o.Questions},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				r, err := Run(b.Context(), o)
				if err != nil || r.Passed != 1000 {
					b.Fatalf("%+v, %v", r, err)
				}
			}
		})
	}
}
