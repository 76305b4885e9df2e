package policies_test

import (
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/tester"

	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/policies"
)

// TestRego runs the Rego tests that lie beside the shipped modules.
func TestRego(t *testing.T) {
	results, err := opa.RunTests(t.Context(), opa.TestOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) < 80 {
		t.Fatalf("only %d tests found", len(results))
	}
	for _, r := range results {
		t.Run(r.Package+"/"+r.Name, func(t *testing.T) {
			if !r.Passed {
				t.Errorf("%s:%d: failed: %v\n%s", r.File, r.Line, r.Err, r.Output)
			}
		})
	}
}

// leastCovered is the share of the shipped rules, in percent, that Rego tests must reach as a whole.
const leastCovered = 95

// TestCoverage counts as covered a rule that was true at least once in the tests, and of which no expression was left out. Built-in
// functions that fail are errors, as they are in the gateway: what is not understood must close one thing, not everything.
func TestCoverage(t *testing.T) {
	modules := map[string]*ast.Module{}
	err := fs.WalkDir(policies.Files, "mcpgw", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".rego") {
			return err
		}
		text, err := policies.Files.ReadFile(path)
		if err != nil {
			return err
		}
		modules[path], err = ast.ParseModuleWithOpts(path, string(text), ast.ParserOptions{RegoVersion: ast.RegoV1})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	covered := cover.New()
	results, err := tester.NewRunner().RaiseBuiltinErrors(true).SetModules(modules).SetCoverageQueryTracer(covered).RunTests(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for r := range results {
		if !r.Pass() {
			t.Errorf("%s: %v", r, r.Error)
		}
	}
	report := covered.Report(modules)
	all, reached := 0, 0
	for file, m := range modules {
		if strings.HasSuffix(file, "_test.rego") {
			continue
		}
		f := report.Files[file]
		count := func(r *ast.Rule) {
			all++
			last := max(r.Head.Location.Row, endOf(r))
			whole := f.IsCovered(r.Head.Location.Row) &&
				!slices.ContainsFunc(f.NotCovered, func(n cover.Range) bool { return n.Start.Row <= last && n.End.Row >= r.Location.Row })
			if whole {
				reached++
			} else {
				t.Logf("%s: %s is not covered", r.Location, r.Head.Name)
			}
		}
		ast.WalkRules(m, func(r *ast.Rule) bool { count(r); return false })
	}
	t.Logf("%d of %d rules", reached, all)
	if all < 60 || reached*100 < all*leastCovered {
		t.Errorf("%d of %d rules are covered, want %d %%", reached, all, leastCovered)
	}
}

// endOf is the last row on which an expression of a rule begins.
func endOf(r *ast.Rule) (row int) {
	ast.WalkExprs(r.Body, func(e *ast.Expr) bool {
		row = max(row, e.Location.Row)
		return false
	})
	return row
}
