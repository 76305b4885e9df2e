package opa

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/mcpgw/mcpgw/pkg/policy"
)

// benchArguments are 300 bytes, as a tool call has them.
const benchArguments = `{"repo_path":"/srv/work/repository","max_count":20,"start_timestamp":"2026-11-01T00:00:00Z","end_timestamp":"2026-11-25T00:00:00Z","filters":{"author":"ann@example.com","paths":["pkg/opa","policies","docs"],"merges":false},"format":"oneline","note":"the quick brown fox jumps over the lazy dog twice"}`

func BenchmarkDecide(b *testing.B) {
	for _, bc := range []struct {
		name   string
		engine *Engine
		cached bool
	}{
		{"example/cached", load(b, example, exampleGrants), true},
		{"example/fresh", load(b, example, exampleGrants), false},
		{"rules200/cached", load(b, manyRules(200), manyGrants()), true},
		{"rules200/fresh", load(b, manyRules(200), manyGrants()), false},
	} {
		b.Run(bc.name, func(b *testing.B) {
			bc.engine.reusable = bc.cached
			q := call(tool("git_log", `{"readOnlyHint":true}`), benchArguments, "reader")
			bc.engine.Decide(b.Context(), q)
			b.ReportAllocs()
			for b.Loop() {
				if r := bc.engine.Decide(b.Context(), q); r.Effect != policy.Allow || r.Cached != bc.cached {
					b.Fatalf("%+v", r)
				}
			}
		})
	}
	b.Run("1MB/cached", func(b *testing.B) {
		e := load(b, example, exampleGrants)
		q := call(tool("git_log", `{"readOnlyHint":true}`), `{"max_count":20,"blob":"`+strings.Repeat("x", 1<<20)+`"}`, "reader")
		e.Decide(b.Context(), q)
		b.ReportAllocs()
		for b.Loop() {
			e.Decide(b.Context(), q)
		}
	})
}

// bare is OPA's own prepared query for the entry point, and the input that the engine would build.
func bare(t testing.TB, e *Engine, q *policy.Question) (rego.PreparedEvalQuery, *ast.Term) {
	t.Helper()
	p, err := rego.New(rego.Compiler(e.compiler), rego.Store(e.store), rego.Transaction(e.txn), rego.Query("x = "+mainEntry), rego.StrictBuiltinErrors(true)).PrepareForEval(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	input, err := e.selection.input(q, new(scratch), false)
	if err != nil {
		t.Fatal(err)
	}
	return p, input
}

// BenchmarkAgainstBare evaluates one question by the engine and by OPA's prepared query in turn, and reports the ratio of the two.
func BenchmarkAgainstBare(b *testing.B) {
	for name, e := range map[string]*Engine{"example": load(b, example, exampleGrants), "rules200": load(b, manyRules(200), manyGrants())} {
		b.Run(name, func(b *testing.B) {
			p, input := bare(b, e, call(tool("git_log", `{"readOnlyHint":true}`), benchArguments, "reader"))
			var own, theirs time.Duration
			for b.Loop() {
				start := time.Now()
				if _, err := e.rule(b.Context(), input); err != nil {
					b.Fatal(err)
				}
				between := time.Now()
				if _, err := p.Eval(b.Context(), rego.EvalParsedInput(input.Value)); err != nil {
					b.Fatal(err)
				}
				own, theirs = own+between.Sub(start), theirs+time.Since(between)
			}
			b.ReportMetric(float64(own.Nanoseconds())/float64(b.N), "ns-own/op")
			b.ReportMetric(float64(theirs.Nanoseconds())/float64(b.N), "ns-bare/op")
			b.ReportMetric(float64(own)/float64(theirs), "ratio")
		})
	}
}

func BenchmarkList(b *testing.B) {
	items := thousand()
	for name, module := range map[string]string{"example": example, "rules200": manyRules(200)} {
		e := load(b, module, manyGrants())
		b.Run(name+"/cold", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e.views.InvalidateAll()
				list(b, e, items, "reader")
			}
		})
		b.Run(name+"/warm", func(b *testing.B) {
			list(b, e, items, "reader")
			b.ReportAllocs()
			for b.Loop() {
				list(b, e, items, "reader")
			}
		})
	}
	b.Run("key", func(b *testing.B) {
		e := load(b, example, exampleGrants)
		q := call(items[0], "", "reader")
		b.ReportAllocs()
		for b.Loop() {
			e.ListKey(q)
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	for name, module := range map[string]string{"example": example, "rules200": manyRules(200)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				load(b, module, exampleGrants)
			}
		})
	}
}

// manyRules is the example and as many more rules, of which half read arguments.
func manyRules(n int) string {
	var b strings.Builder
	b.WriteString(example)
	for i := range n / 4 {
		fmt.Fprintf(&b, "\nallow if {\n\tinput.resource.server == \"s%d\"\n\t\"r%d\" in input.subject.roles\n}\n", i, i)
		fmt.Fprintf(&b, "\nallow if {\n\tinput.resource.name == \"t%d\"\n\tinput.arguments.mode == \"m%d\"\n\t\"q%d\" in input.subject.roles\n}\n", i, i, i)
		fmt.Fprintf(&b, "\ndeny contains \"no %d\" if {\n\tinput.resource.name == \"u%d\"\n\tnot \"r%d\" in input.subject.roles\n}\n", i, i, i)
		fmt.Fprintf(&b, "\ndeny contains \"not so %d\" if {\n\tinput.resource.name == \"v%d\"\n\tnot proved%d\n}\n\nproved%d if input.arguments.size < %d\n", i, i, i, i, i)
	}
	return b.String()
}

// manyGrants are 10,000 grants.
func manyGrants() string {
	var b strings.Builder
	b.WriteString("grants:\n")
	for s := range 100 {
		fmt.Fprintf(&b, "  s%d:\n", s)
		for n := range 100 {
			fmt.Fprintf(&b, "    tool_%d: [writer, operator]\n", n)
		}
	}
	return b.String()
}
