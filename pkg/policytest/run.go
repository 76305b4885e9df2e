package policytest

import (
	"cmp"
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// Options say what to test, and how.
type Options struct {
	Modules, Data []opa.File // policy and Rego tests, and what they read as data
	Tables        []opa.File // table tests
	Entrypoint    string     // as [opa.Options] has it

	Questions Questions      // its Labels are those of this policy
	Run       *regexp.Regexp // only tests whose full name matches: data.PACKAGE.test_NAME, or FILE: NAME for table tests; nil for all

	Timeout     time.Duration // of one ruling in a table test; 0 means 1 s
	TestTimeout time.Duration // of one Rego test; 0 means 10 s
}

// The results of a test.
const (
	Passed  = "passed"
	Failed  = "failed"
	Broken  = "error" // it could not be run to its end
	Skipped = "skipped"
)

// Report is how the tests went.
type Report struct {
	Passed   int      `json:"passed"`
	Failed   int      `json:"failed"`
	Broken   int      `json:"errors"`
	Skipped  int      `json:"skipped"`
	Seconds  float64  `json:"seconds"` // in all, loading included
	Tests    []Result `json:"tests"`   // Rego tests by place, then table tests by place
	Coverage Coverage `json:"coverage"`
}

// Result is how one test went. Members that say nothing are empty.
type Result struct {
	Name    string     `json:"name"` // data.PACKAGE.test_NAME, or what a table test is called
	File    string     `json:"file"`
	Line    int        `json:"line"`
	Result  string     `json:"result"`
	Message string     `json:"message,omitempty"`
	Near    []opa.Near `json:"near,omitempty"`  // of a failed test: which rules held, and which conditions failed
	Cases   []Case     `json:"cases,omitempty"` // that failed, of a Rego test with cases
	Ruling  *Ruling    `json:"ruling,omitempty"`
	Output  string     `json:"output,omitempty"` // what it printed
	Seconds float64    `json:"seconds"`
}

// Case is a failed case of a Rego test.
type Case struct {
	Note    string     `json:"note"`
	Message string     `json:"message,omitempty"`
	Near    []opa.Near `json:"near,omitempty"`
}

// Ruling is what the engine ruled in a table test.
type Ruling struct {
	Effect   policy.Effect   `json:"effect"`
	Reasons  []policy.Reason `json:"reasons,omitempty"`
	Revision string          `json:"revision"`

	// Question is what was asked, as policies see it.
	Question json.RawMessage `json:"question,omitempty"`
}

// Coverage says which rules of the policy held in some test. Percent is 100 where there are no rules.
type Coverage struct {
	Percent float64           `json:"percent"`
	Covered int               `json:"covered"`
	Rules   []opa.CoveredRule `json:"rules"`
}

// Run runs all tests. The error is [opa.Faults] where there is something wrong with policy, tests or data; then nothing was run.
func Run(ctx context.Context, o Options) (*Report, error) {
	start := time.Now()
	var tables []tableTest
	var faults opa.Faults
	for _, f := range o.Tables {
		tests, more := parseTable(f)
		faults = append(faults, more...)
		for _, t := range tests {
			if o.Run == nil || o.Run.MatchString(t.file+": "+t.name) {
				tables = append(tables, t)
			}
		}
	}
	if len(faults) > 0 {
		return nil, faults
	}
	coverage := &opa.Coverage{}
	r := &Report{Tests: []Result{}}
	load := sync.OnceValues(func() (*opa.Engine, error) {
		return opa.Load(opa.Options{Modules: o.Modules, Data: o.Data, Entrypoint: o.Entrypoint, Timeout: o.Timeout, Coverage: coverage})
	})
	o.Questions.Labels = func() ([]string, error) {
		engine, err := load()
		if err != nil {
			return nil, err
		}
		return engine.Labels(), nil
	}
	rego, err := opa.RunTests(ctx, opa.TestOptions{
		Modules: o.Modules, Data: o.Data, Run: o.Run, Timeout: o.TestTimeout, Coverage: coverage, Question: o.Questions.JSON,
	})
	if err != nil {
		return nil, err
	}
	for _, t := range rego {
		r.Tests = append(r.Tests, regoResult(t))
	}
	if len(tables) > 0 {
		engine, err := load()
		if err != nil {
			return nil, err
		}
		for i := range tables {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			r.Tests = append(r.Tests, tables[i].result(ctx, engine, &o.Questions))
		}
	}
	for _, t := range r.Tests {
		switch t.Result {
		case Passed:
			r.Passed++
		case Failed:
			r.Failed++
		case Broken:
			r.Broken++
		default:
			r.Skipped++
		}
	}
	r.Coverage = covered(coverage.Rules(o.Modules))
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

func covered(rules []opa.CoveredRule) Coverage {
	c := Coverage{Percent: 100, Rules: rules}
	for _, rule := range rules {
		if rule.Covered {
			c.Covered++
		}
	}
	if len(rules) > 0 {
		c.Percent = 100 * float64(c.Covered) / float64(len(rules))
	}
	return c
}

func regoResult(t opa.TestResult) Result {
	r := Result{Name: t.Package + "." + t.Name, File: t.File, Line: t.Line, Near: t.Near, Output: t.Output, Seconds: t.Duration.Seconds()}
	switch {
	case t.Skipped:
		r.Result = Skipped
	case t.Err != nil:
		r.Result, r.Message = Broken, t.Err.Error()
	case t.Passed:
		r.Result = Passed
	default:
		r.Result = Failed
		r.Message = "it is not true"
		for _, c := range t.Cases {
			r.Cases = append(r.Cases, Case(c))
		}
		slices.SortStableFunc(r.Cases, func(a, b Case) int { return cmp.Compare(a.Note, b.Note) })
	}
	return r
}

// result runs one table test.
func (t *tableTest) result(ctx context.Context, e *opa.Engine, questions *Questions) Result {
	start := time.Now()
	r := Result{Name: t.name, File: t.file, Line: t.line, Result: Passed}
	q, ruling, wrong, err := t.run(ctx, e, questions)
	if ruling != nil {
		r.Ruling = &Ruling{Effect: ruling.Effect, Reasons: ruling.Reasons, Revision: ruling.Revision}
	}
	switch {
	case err != nil:
		r.Result, r.Message = Broken, err.Error()
	case wrong != "":
		r.Result, r.Message = Failed, wrong
		if ruling != nil {
			r.Ruling.Question = q.AppendJSON(nil)
			r.Near = t.explain(ctx, e, q)
		}
	}
	r.Seconds = time.Since(start).Seconds()
	return r
}

// explain says which rules held, and which failed that could have made the ruling what the test expects.
func (t *tableTest) explain(ctx context.Context, e *opa.Engine, q *policy.Question) []opa.Near {
	near, _ := e.Near(ctx, q) // the ruling stands; what can be said of it is said
	other := map[string]string{"allow": "deny", "deny": "allow"}[t.expect.effect]
	return slices.DeleteFunc(near, func(n opa.Near) bool { return !n.Held && n.Rule == other })
}
