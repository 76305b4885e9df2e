//go:build !race

package opa

// The race detector makes sync.Pool forget at random, so allocations are counted without it.

import (
	"testing"

	"github.com/open-policy-agent/opa/v1/rego"
)

// Budgets, in allocations: a cached ruling from raw bytes, where only the pool may have to make a new buffer, and one that is
// evaluated, of which OPA takes two thirds.
const (
	cachedAllocs = 12
	freshAllocs  = 460
)

func TestAllocations(t *testing.T) {
	e := load(t, example, exampleGrants)
	q := call(tool("git_log", ""), benchArguments, "reader")
	e.Decide(t.Context(), q)
	if n := testing.AllocsPerRun(200, func() { e.Decide(t.Context(), q) }); n > cachedAllocs {
		t.Errorf("a cached ruling costs %v allocations, want at most %d", n, cachedAllocs)
	}
	p, input := bare(t, e, q)
	own := testing.AllocsPerRun(50, func() { _, _ = e.rule(t.Context(), input) })
	if theirs := testing.AllocsPerRun(50, func() { _, _ = p.Eval(t.Context(), rego.EvalParsedInput(input.Value)) }); own > theirs {
		t.Errorf("an evaluation costs %v allocations, OPA's own prepared query %v", own, theirs)
	}
	e.reusable = false
	if n := testing.AllocsPerRun(50, func() { e.Decide(t.Context(), q) }); n > freshAllocs {
		t.Errorf("a fresh ruling costs %v allocations, want at most %d", n, freshAllocs)
	}
}
