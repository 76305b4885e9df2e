package opa

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/types"
)

// TestOptions say which Rego tests to run, and how.
type TestOptions struct {
	// Modules are policy and tests, Data what both read, as in [Options]. With no modules at all the tests of the shipped ones are run.
	Modules, Data []File

	Run      *regexp.Regexp // only tests whose full name matches, as in data.team_test.test_push; nil for all
	Timeout  time.Duration  // of one test; 0 means 10 s
	Coverage *Coverage      // notes which rules held; may be nil

	// Question answers package mcpgw.test, with which tests make questions: it turns a description, the text of one JSON object, into
	// the text of a question. It is called concurrently. Its error is the test's. Nil has no answer.
	Question func(description []byte) ([]byte, error)
}

// TestResult is how one Rego test went: a rule whose name begins with test_, or todo_test_ for one that is only planned.
type TestResult struct {
	File          string
	Line          int
	Package, Name string
	Passed        bool
	Skipped       bool       // a planned one; neither passed nor failed
	Output        string     // what it printed
	Err           error      // why it could not be run to its end; nil if it was just not true
	Near          []Near     // of a test that was not true: its own condition that failed, then what became of the policy's rules
	Cases         []TestCase // that failed, of a test of the form test_name[note]
	Duration      time.Duration
}

// TestCase is a case of a test that failed.
type TestCase struct {
	Note    string
	Message string // what is wrong beside that it was not true
	Near    []Near
}

// Bounds of one Rego test: its time, how often that passes before one that cannot be interrupted is left behind, what it may print. A test
// that failed is evaluated twice.
const (
	maxTest   = 10 * time.Second
	patience  = 4
	maxOutput = 64 << 10
)

// questionBuiltin is the function behind package mcpgw.test. Only tests know it.
var questionBuiltin = &ast.Builtin{
	Name: "mcpgw.question",
	Decl: types.NewFunction(types.Args(types.A), types.NewObject(nil, types.NewDynamicProperty(types.S, types.A))),
}

// forTests marks the shipped modules that only tests may use.
const forTests = shippedPrefix + "test/"

// RunTests runs Rego tests, as strictly compiled as [Load] would and with the shipped modules at hand. As in the gateway, a built-in
// function that fails is an error. Results come by place. The error is [Faults] if nothing could be run.
func RunTests(ctx context.Context, o TestOptions) ([]TestResult, error) {
	if o.Timeout <= 0 {
		o.Timeout = maxTest
	}
	r := &testRun{o: o}
	if faults, err := r.compile(ctx); err != nil {
		return nil, err
	} else if len(faults) > 0 {
		faults.sort()
		return nil, faults
	}
	var rules []*ast.Rule
	for _, m := range r.compiler.Modules {
		for _, rule := range m.Rules {
			if testName(rule) != "" && (o.Run == nil || o.Run.MatchString(fullName(rule))) {
				rules = append(rules, rule)
			}
		}
	}
	slices.SortFunc(rules, func(a, b *ast.Rule) int {
		return cmp.Or(cmp.Compare(a.Location.File, b.Location.File), cmp.Compare(a.Location.Row, b.Location.Row), cmp.Compare(a.Location.Col, b.Location.Col))
	})
	out := make([]TestResult, len(rules))
	next := make(chan int)
	var workers sync.WaitGroup
	for range max(1, min(runtime.GOMAXPROCS(0), len(rules))) {
		workers.Go(func() {
			for i := range next {
				out[i] = r.test(ctx, rules[i])
			}
		})
	}
	for i := range rules {
		next <- i
	}
	close(next)
	workers.Wait()
	return out, ctx.Err()
}

// testRun is what all tests of one run share.
type testRun struct {
	o        TestOptions
	compiler *ast.Compiler
	store    storage.Store
	txn      storage.Transaction
	builtins map[string]*topdown.Builtin
	shipped  bool // the tests are the gateway's own
}

func (r *testRun) compile(ctx context.Context) (Faults, error) {
	document, faults := mergeData(r.o.Data)
	ship, err := shipped()
	if err != nil {
		return nil, err
	}
	r.shipped = len(r.o.Modules) == 0
	if !r.shipped { // then the tests of the gateway are not the question
		ship = slices.DeleteFunc(ship, func(f File) bool { return holdsTests(f.Name) })
	}
	parsed, own, more := parse(ship, r.o.Modules, true)
	if faults = append(faults, more...); len(faults) > 0 {
		return faults, nil
	}
	if r.compiler, err = newCompiler(questionBuiltin); err != nil {
		return nil, err
	}
	r.store = inmem.NewFromObjectWithOpts(document, inmem.OptRoundTripOnWrite(false), inmem.OptReturnASTValuesOnRead(true))
	if r.txn, err = r.store.NewTransaction(ctx); err != nil { // nobody writes to this store
		return nil, err
	}
	r.builtins = map[string]*topdown.Builtin{questionBuiltin.Name: {Decl: questionBuiltin, Func: r.question}}
	r.compiler.
		WithEnablePrintStatements(true).
		WithPathConflictsCheck(storage.NonEmpty(ctx, r.store, r.txn))
	// OPA's runner compiles, because that names repeated tests apart and prepares cases; it runs none, since it cannot catch a panic.
	results, err := tester.NewRunner().SetCompiler(r.compiler).SetStore(r.store).SetModules(parsed).Filter(`\A\z`).RunTests(ctx, r.txn)
	if err != nil {
		return faultsOf(err, ""), nil
	}
	for range results { // none
	}
	return checkCompiled(r.compiler, own), nil
}

// question answers mcpgw.question. Its error ends the test, also under a "not".
func (r *testRun) question(_ topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
	if r.o.Question == nil {
		return errors.New("questions are made by mcpgw policy test alone")
	}
	description, err := jsonText(operands[0].Value)
	if err != nil {
		return err
	}
	text, err := r.o.Question(description)
	if err != nil {
		return err
	}
	v, err := ast.ValueFromReader(bytes.NewReader(text))
	if err != nil {
		return err
	}
	return iter(ast.NewTerm(v))
}

// test runs one test in a goroutine of its own: one that heeds no cancellation is left behind, so that it cannot hold up the others.
func (r *testRun) test(ctx context.Context, rule *ast.Rule) TestResult {
	t := TestResult{File: rule.Location.File, Line: rule.Location.Row, Package: rule.Module.Package.Path.String(), Name: testName(rule)}
	if strings.HasPrefix(t.Name, tester.SkipTestPrefix) {
		t.Skipped = true
		return t
	}
	done := make(chan TestResult, 1)
	go func() {
		start := time.Now()
		ended := t
		defer func() {
			if p := recover(); p != nil {
				ended.Passed, ended.Err = false, fmt.Errorf("panic: %v", p)
			}
			ended.Duration = time.Since(start)
			done <- ended
		}()
		r.evaluate(ctx, rule, &ended)
	}()
	late := time.NewTimer(patience * r.o.Timeout)
	defer late.Stop()
	select {
	case ended := <-done:
		return ended
	case <-late.C:
		t.Err = fmt.Errorf("it did not end within %v and cannot be interrupted", r.o.Timeout)
		t.Duration = patience * r.o.Timeout
		return t
	}
}

func (r *testRun) evaluate(ctx context.Context, rule *ast.Rule, t *TestResult) {
	var out bytes.Buffer
	cases := &caseTracer{}
	tracers := []topdown.QueryTracer{}
	if r.o.Coverage != nil {
		tracers = append(tracers, r.o.Coverage)
	}
	many := rule.Head.DocKind() == ast.PartialObjectDoc
	if many {
		tracers = append(tracers, cases)
	}
	value, err := r.query(ctx, rule, &out, true, r.o.Coverage == nil, tracers...)
	t.Output = strings.ToValidUTF8(out.String(), "�")
	switch {
	case err != nil:
		t.Err = err
		return
	case many:
		t.Cases = cases.failed(value)
		t.Passed = len(t.Cases) == 0
	default:
		t.Passed = value != nil && value.Value.Compare(ast.Boolean(true)) == 0
	}
	if t.Passed {
		return
	}
	// Once more, to see why. What it printed is known, and an error now is no news.
	near := &nearTracer{test: rule, shipped: r.shipped}
	_, _ = r.query(ctx, rule, &bytes.Buffer{}, false, false, near)
	if !many {
		t.Near = near.found()
		return
	}
	near.endCase()
	for i := range t.Cases {
		for _, c := range near.cases {
			if c.note == t.Cases[i].Note && t.Cases[i].Message == "" {
				t.Cases[i].Near = c.near
			}
		}
	}
}

// query evaluates a test to its value, nil where that is undefined.
func (r *testRun) query(ctx context.Context, rule *ast.Rule, out *bytes.Buffer, indexing, earlyExit bool, tracers ...topdown.QueryTracer) (value *ast.Term, err error) {
	ref := rule.Module.Package.Path.Extend(testRef(rule))
	body, err := r.compiler.QueryCompiler().Compile(ast.NewBody(ast.Equality.Expr(ast.VarTerm("x"), ast.NewTerm(ref))))
	if err != nil {
		return nil, err
	}
	cancel := topdown.NewCancel()
	defer time.AfterFunc(r.o.Timeout, cancel.Cancel).Stop()
	defer context.AfterFunc(ctx, cancel.Cancel)()
	q := topdown.NewQuery(body).
		WithCompiler(r.compiler).WithStore(r.store).WithTransaction(r.txn).WithCancel(cancel).WithBuiltins(r.builtins).
		WithMetrics(metrics.NoOp()).WithStrictBuiltinErrors(true).WithPrintHook(topdown.NewPrintHook(&bounded{out})).
		WithIndexing(indexing).WithEarlyExit(earlyExit)
	for _, t := range tracers {
		q = q.WithQueryTracer(t)
	}
	err = q.Iter(ctx, func(result topdown.QueryResult) error {
		value = result["x"]
		return nil
	})
	if topdown.IsCancel(err) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("it did not end within %v", r.o.Timeout)
	}
	return value, err
}

// testRef is the part of a rule's name that makes it a test, and all before it; nil if it is none.
func testRef(rule *ast.Rule) ast.Ref {
	ref := rule.Head.Ref().GroundPrefix()
	for i, t := range ref {
		name := ""
		switch v := t.Value.(type) {
		case ast.Var:
			name = string(v)
		case ast.String:
			name = string(v)
		}
		if strings.HasPrefix(name, tester.TestPrefix) || strings.HasPrefix(name, tester.SkipTestPrefix) {
			return ref[:i+1]
		}
	}
	return nil
}

func testName(rule *ast.Rule) string { return testRef(rule).String() }

func fullName(rule *ast.Rule) string { return rule.Module.Package.Path.String() + "." + testName(rule) }

// caseTracer collects the cases that a test of the form test_name[note] went through.
type caseTracer struct{ seen []*ast.Array }

func (*caseTracer) Enabled() bool { return true }

func (*caseTracer) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

func (c *caseTracer) TraceEvent(e topdown.Event) {
	if e.Op != topdown.TestCaseOp {
		return
	}
	if expr, ok := e.Node.(*ast.Expr); ok {
		if a, ok := expr.Operand(0).Value.(*ast.Array); ok {
			c.seen = append(c.seen, a)
		}
	}
}

// failed compares the cases with the value, which holds those that were true.
func (c *caseTracer) failed(value *ast.Term) (out []TestCase) {
	times := map[string]int{}
	for _, a := range c.seen {
		name := note(a)
		if times[name]++; times[name] > 1 {
			if times[name] == 2 { // one of the two could hide that the other failed
				out = slices.DeleteFunc(out, func(t TestCase) bool { return t.Note == name })
				out = append(out, TestCase{Note: name, Message: "the note stands for more than one case; each needs a note of its own"})
			}
			continue
		}
		path := make(ast.Ref, 0, a.Len())
		a.Foreach(func(t *ast.Term) { path = append(path, t) })
		if value != nil {
			if v, err := value.Value.Find(path); err == nil && v.Compare(ast.Boolean(true)) == 0 {
				continue
			}
		}
		out = append(out, TestCase{Note: name})
	}
	if len(c.seen) == 0 {
		out = append(out, TestCase{Message: "there is no case"})
	}
	return out
}

// bounded drops what a test prints beyond a bound.
type bounded struct{ *bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), max(0, maxOutput-b.Len()))])
	return len(p), nil
}
