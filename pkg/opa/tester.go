package opa

import (
	"context"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
)

// TestResult is how one Rego test went: a rule whose name begins with test_, or todo_test_ for one that is only planned.
type TestResult struct {
	File          string
	Line          int
	Package, Name string
	Passed        bool
	Skipped       bool   // a planned one; neither passed nor failed
	Output        string // what it printed
	Err           error  // an error, or the cases that failed; nil if a failed test was just not true
	Duration      time.Duration
}

// maxTest bounds one Rego test.
const maxTest = 10 * time.Second

// Test runs the Rego tests among the modules, as strictly compiled as [Load] would, with the shipped modules and the data at hand.
// Those shipped with the gateway are run with no modules at all. The error is [Faults] if nothing could be run.
func Test(ctx context.Context, modules, data []File) ([]TestResult, error) {
	document, faults := mergeData(data)
	ship, err := shipped()
	if err != nil {
		return nil, err
	}
	if len(modules) > 0 { // then those of the gateway are not the question
		kept := ship[:0]
		for _, f := range ship {
			if !isTest(f.Name) {
				kept = append(kept, f)
			}
		}
		ship = kept
	}
	parsed, own, more := parse(ship, modules, true)
	if faults = append(faults, more...); len(faults) > 0 {
		faults.sort()
		return nil, faults
	}
	c, err := newCompiler()
	if err != nil {
		return nil, err
	}
	store := inmem.NewFromObjectWithOpts(document, inmem.OptRoundTripOnWrite(false))
	txn, err := store.NewTransaction(ctx, storage.WriteParams)
	if err != nil {
		return nil, err
	}
	defer store.Abort(ctx, txn)
	results, err := tester.NewRunner().
		SetCompiler(c.WithEnablePrintStatements(true).WithPathConflictsCheck(storage.NonEmpty(ctx, store, txn))).
		SetStore(store).
		SetModules(parsed).
		CapturePrintOutput(true).
		SetTimeout(maxTest).
		RunTests(ctx, txn)
	if err != nil {
		faults := faultsOf(err, "")
		faults.sort()
		return nil, faults
	}
	var out []TestResult
	for r := range results {
		t := TestResult{
			File: r.Location.File, Line: r.Location.Row, Package: r.Package, Name: r.Name,
			Passed: r.Pass(), Skipped: r.Skip, Output: string(r.Output), Err: r.Error, Duration: r.Duration,
		}
		for name, sub := range r.SubResults {
			if sub.Fail && t.Err == nil {
				t.Err = fmt.Errorf("case %s", name)
			}
		}
		out = append(out, t)
	}
	if faults := checkCompiled(c, own); len(faults) > 0 {
		faults.sort()
		return nil, faults
	}
	return out, nil
}
