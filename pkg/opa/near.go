package opa

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/mcpgw/mcpgw/pkg/policy"
)

// Near is what became of one rule in an evaluation that was looked at closely: it held, or this condition of it failed.
type Near struct {
	File   string  `json:"file"`
	Line   int     `json:"line"` // where the rule begins
	Rule   string  `json:"rule"`
	Held   bool    `json:"held"`
	At     int     `json:"at,omitempty"`        // line of the condition that failed
	Text   string  `json:"condition,omitempty"` // that condition, in one line
	Values []Value `json:"values,omitempty"`    // what it read
}

// Value is what one reference or variable was, as Rego writes it, cut where it is long; "undefined" is one that was nothing.
type Value struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Bounds of what is said about one failed test.
const (
	maxNear       = 12  // rules
	maxValue      = 240 // bytes of a value or a condition
	maxConditions = 5000
)

// Near evaluates the question once more and says which rules of the policy held, and of the others which condition failed. It is for
// tests, and what it finds holds the question's values: unlike [Engine.Explain], which is for calls, it masks nothing. It sees each rule as
// Rego tests are seen, with the same tracer, so that a failed table reads as a failed Rego test does.
func (e *Engine) Near(ctx context.Context, q *policy.Question) (near []Near, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	if q.Subject == nil || q.Item == nil {
		return nil, errIncomplete
	}
	input, err := ast.ValueFromReader(strings.NewReader(string(q.AppendJSON(nil))))
	if err != nil {
		return nil, err
	}
	t := &nearTracer{}
	cancel := topdown.NewCancel()
	defer time.AfterFunc(e.timeout, cancel.Cancel).Stop()
	err = topdown.NewQuery(e.ruling.body).
		WithCompiler(e.compiler).WithStore(e.store).WithTransaction(e.txn).WithInput(ast.NewTerm(input)).WithCancel(cancel).
		WithStrictBuiltinErrors(true).WithQueryTracer(t).
		WithIndexing(false).WithEarlyExit(false). // else rules that were not looked into are not seen
		Iter(ctx, func(topdown.QueryResult) error { return nil })
	return t.found(), err
}

// nearTracer keeps, for each rule, how its last evaluation went. With a test set, it forgets what earlier expressions of that test
// evaluated, and keeps apart what belongs to each case of it.
type nearTracer struct {
	test    *ast.Rule
	shipped bool // the gateway's own rules are looked at too

	frames     map[uint64]frame
	rules      map[*ast.Rule]*nearRule
	names      map[ast.Var]string // of variables in the source
	order      []*ast.Rule
	stale      bool // the test has begun another expression
	conditions int

	cases []nearCase
}

// nearCase is one case of a test of the form test_name[note].
type nearCase struct {
	note string
	near []Near
}

// frame is what a query of the evaluation belongs to.
type frame struct {
	rule  *ast.Rule
	root  uint64     // the query of the rule's own body
	every *ast.Every // around it, nil for none
}

type nearRule struct {
	held  bool
	best  int // index of the failed expression, -1 before the first
	near  Near
	inner *Near // within an every
}

func (*nearTracer) Enabled() bool { return true }

func (*nearTracer) Config() topdown.TraceConfig { return topdown.TraceConfig{PlugLocalVars: true} }

func (t *nearTracer) TraceEvent(e topdown.Event) {
	if t.frames == nil {
		t.frames, t.rules, t.names = map[uint64]frame{}, map[*ast.Rule]*nearRule{}, map[ast.Var]string{}
	}
	for v, m := range e.LocalMetadata {
		if m.Name != "" && !strings.HasPrefix(string(m.Name), ast.LocalVarPrefix) {
			t.names[v] = string(m.Name)
		}
	}
	if r, ok := e.Node.(*ast.Rule); ok && e.Op == topdown.EnterOp {
		t.enter(e.QueryID, r)
		return
	}
	f, ok := t.frames[e.QueryID]
	if !ok {
		if f, ok = t.frames[e.ParentID]; !ok {
			return
		}
		if expr, ok := e.Node.(*ast.Expr); ok && e.Op == topdown.EnterOp {
			if every, ok := expr.Terms.(*ast.Every); ok {
				f.every = every
			}
		}
		t.frames[e.QueryID] = f
	}
	n := t.rules[f.rule]
	if n == nil {
		return
	}
	switch e.Op {
	case topdown.ExitOp:
		if _, ok := e.Node.(*ast.Rule); ok && e.QueryID == f.root {
			n.held = true
		}
	case topdown.EvalOp:
		t.stale = t.stale || f.rule == t.test
	case topdown.FailOp:
		expr, ok := e.Node.(*ast.Expr)
		if !ok || t.conditions >= maxConditions {
			return
		}
		t.conditions++
		t.fail(n, f, expr, &e)
	case topdown.TestCaseOp:
		t.endCase()
		if expr, ok := e.Node.(*ast.Expr); ok {
			if a, ok := expr.Operand(0).Value.(*ast.Array); ok {
				t.cases = append(t.cases, nearCase{note: note(a)})
			}
		}
		n.best, n.inner = -1, nil
	}
}

func (t *nearTracer) enter(query uint64, r *ast.Rule) {
	if t.stale && r != t.test {
		for _, old := range t.order {
			if old != t.test {
				delete(t.rules, old)
			}
		}
		t.order = slices.DeleteFunc(t.order, func(old *ast.Rule) bool { return old != t.test })
		t.stale = false
	}
	t.frames[query] = frame{rule: r, root: query}
	if t.rules[r] == nil {
		t.order = append(t.order, r)
	}
	t.rules[r] = &nearRule{best: -1}
}

func (t *nearTracer) fail(n *nearRule, f frame, expr *ast.Expr, e *topdown.Event) {
	_, every := expr.Terms.(*ast.Every)
	if e.QueryID != f.root {
		if !every { // its own failure follows that of what stands in it
			inner := t.condition(f, expr, e)
			n.inner = &inner
		}
		return
	}
	if expr.Index < n.best {
		return
	}
	n.best = expr.Index
	n.near = t.condition(f, expr, e)
	if every && n.inner != nil {
		n.near.At, n.near.Text, n.near.Values = n.inner.At, n.inner.Text, n.inner.Values
	}
	n.inner = nil
}

// endCase gives what was found to the case that ends.
func (t *nearTracer) endCase() {
	if len(t.cases) > 0 {
		t.cases[len(t.cases)-1].near = t.found()
	}
}

// found lists the test first, then rules that held, then those that did not, the ones that came nearest first.
func (t *nearTracer) found() []Near {
	var own, held, failed []Near
	var best []*ast.Rule
	for _, r := range t.order {
		n := t.rules[r]
		if n == nil || r.Location == nil || !t.shipped && strings.HasPrefix(r.Location.File, shippedPrefix) {
			continue
		}
		near := t.describe(r)
		switch {
		case r == t.test:
			if n.best >= 0 {
				near.Held = false
				own = append(own, near)
			}
		case n.held && (constant(r) || isTest(near.File)), !n.held && n.best < 0: // says nothing
		case n.held:
			near.At, near.Text, near.Values = 0, "", nil
			held = append(held, near)
		default:
			best = append(best, r)
		}
	}
	slices.SortStableFunc(best, func(a, b *ast.Rule) int { return cmp.Compare(t.rules[b].best, t.rules[a].best) })
	for _, r := range best {
		failed = append(failed, t.describe(r))
	}
	out := slices.Concat(own, held, failed)
	return out[:min(len(out), maxNear)]
}

// constant reports whether a rule has no condition.
func constant(r *ast.Rule) bool {
	return r.Default || len(r.Body) == 1 && r.Body[0].Equal(ast.NewExpr(ast.BooleanTerm(true)))
}

func (t *nearTracer) describe(r *ast.Rule) Near {
	n := t.rules[r].near
	n.File, n.Line, n.Rule, n.Held = r.Location.File, r.Location.Row, r.Head.Ref().GroundPrefix().String(), t.rules[r].held
	return n
}

// condition describes an expression that failed.
func (t *nearTracer) condition(f frame, expr *ast.Expr, e *topdown.Event) Near {
	n := Near{}
	at := expr.Location
	if at == nil || at.File == "" {
		at = f.rule.Location
	}
	whole := at
	if expr.Generated { // a part of what is written, which the compiler evaluates first
		ast.WalkExprs(f.rule, func(e *ast.Expr) bool {
			if l := e.Location; !e.Generated && l != nil && l.Offset <= at.Offset && l.Offset+len(l.Text) >= at.Offset+len(at.Text) &&
				(whole == at || len(l.Text) < len(whole.Text)) {
				whole = l
			}
			return false
		})
	}
	n.At, n.Text = whole.Row, inline(string(whole.Text))
	v := &valueReader{rule: f.rule, event: e, names: t.names, seen: map[string]bool{}}
	v.expr(expr)
	if f.every != nil && e.QueryID != f.root {
		for _, x := range []*ast.Term{f.every.Key, f.every.Value} {
			if x != nil {
				v.term(x)
			}
		}
	}
	n.Values = v.values
	return n
}

// valueReader reads the values of an expression's terms while it is evaluated.
type valueReader struct {
	rule   *ast.Rule
	event  *topdown.Event
	names  map[ast.Var]string
	seen   map[string]bool
	depth  int // of calls within calls
	values []Value
}

// expr reads the operands of an expression.
func (v *valueReader) expr(e *ast.Expr) {
	switch terms := e.Terms.(type) {
	case []*ast.Term:
		for _, t := range terms[1:] {
			v.term(t)
		}
	case *ast.Term:
		v.term(terms)
	case *ast.Not:
		for _, inner := range terms.Body {
			v.expr(inner)
		}
	}
}

func (v *valueReader) add(name string, value *ast.Term) {
	name = inline(name)
	if name == "" || v.seen[name] || len(v.values) >= maxNear {
		return
	}
	v.seen[name] = true
	text := "undefined"
	if value != nil && value.IsGround() {
		text = inline(value.String())
	}
	v.values = append(v.values, Value{name, text})
}

func (v *valueReader) term(t *ast.Term) {
	switch x := t.Value.(type) {
	case ast.Var:
		name, source, call := v.name(x)
		if source != nil { // a reference that the compiler has given a name
			v.ref(source, name)
			return
		}
		value := v.event.Plug(t)
		if v.depth == 0 || value.IsGround() && ast.IsScalar(value.Value) {
			v.add(name, value)
		}
		if call != nil && v.depth < 4 { // what it was called with
			v.depth++
			terms := call.Terms.([]*ast.Term)
			for _, argument := range terms[1 : len(terms)-1] {
				v.term(argument)
			}
			v.depth--
		}
	case ast.Ref:
		v.ref(t, t.String())
	case *ast.Array, ast.Object, ast.Set:
		ast.WalkTerms(t, func(inner *ast.Term) bool {
			switch inner.Value.(type) {
			case ast.Var, ast.Ref:
				v.term(inner)
				return true
			case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
				return true
			}
			return false
		})
	}
}

// ref reads a reference into the question or into a variable. Rules are not read: what became of them stands beside.
func (v *valueReader) ref(t *ast.Term, name string) {
	ref, ok := t.Value.(ast.Ref)
	if !ok || len(ref) == 0 {
		v.add(name, v.event.Plug(t))
		return
	}
	var root *ast.Term
	switch {
	case ref[0].Equal(ast.InputRootDocument):
		root = v.event.Input()
	case ref[0].Equal(ast.DefaultRootDocument):
		return
	default:
		root = v.event.Plug(ref[0])
		if source, _, _ := v.name(ref[0].Value.(ast.Var)); source != "" {
			name = strings.Replace(name, ref[0].String(), source, 1)
		}
	}
	path := make(ast.Ref, 0, len(ref)-1)
	for _, p := range ref[1:] {
		path = append(path, v.event.Plug(p))
	}
	if root == nil {
		v.add(name, nil)
		return
	}
	value, err := root.Value.Find(path)
	if err != nil {
		v.add(name, nil)
		return
	}
	v.add(name, ast.NewTerm(value))
}

// name is what the source calls a variable, or the text whose value the compiler keeps in it: that of a reference, which source then
// is, or that of a call.
func (v *valueReader) name(x ast.Var) (name string, source *ast.Term, call *ast.Expr) {
	if !strings.HasPrefix(string(x), ast.LocalVarPrefix) {
		return string(x), nil, nil
	}
	if name, ok := v.names[x]; ok {
		return name, nil, nil
	}
	ast.WalkExprs(v.rule, func(e *ast.Expr) bool {
		if terms, ok := e.Terms.([]*ast.Term); ok && len(terms) > 2 && source == nil && call == nil {
			switch {
			case e.IsEquality() && terms[1].Value.Compare(x) == 0:
				source = terms[2]
			case !e.IsEquality() && terms[len(terms)-1].Value.Compare(x) == 0:
				call = e
			}
		}
		return source != nil || call != nil
	})
	switch {
	case call != nil && call.Location != nil:
		return string(call.Location.Text), nil, call
	case source == nil:
		return "", nil, call
	}
	if _, ok := source.Value.(ast.Ref); ok {
		return source.String(), source, nil
	}
	if source.Location != nil && len(source.Location.Text) > 0 {
		return string(source.Location.Text), nil, nil
	}
	return source.String(), nil, nil
}

// inline is a text in one line, of bounded length.
func inline(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxValue {
		s = strings.ToValidUTF8(s[:maxValue], "") + "…"
	}
	return s
}

// note names a case as OPA's own tester does: by its text, several of them separated by a slash.
func note(a *ast.Array) string {
	parts := make([]string, a.Len())
	for i := range parts {
		parts[i] = caseName(a.Elem(i))
	}
	return strings.Join(parts, "/")
}

func caseName(t *ast.Term) string {
	if s, ok := t.Value.(ast.String); ok {
		return string(s)
	}
	return t.String()
}

// jsonText writes a value as JSON, with all digits of its numbers. JSON has no sets.
func jsonText(v ast.Value) ([]byte, error) {
	sets := false
	ast.WalkTerms(ast.NewTerm(v), func(t *ast.Term) bool {
		if s, ok := t.Value.(ast.Set); ok {
			sets = true
			v = s
		}
		return sets
	})
	if sets {
		return nil, fmt.Errorf("%s is a set, which JSON has no form for; write an array", inline(v.String()))
	}
	native, err := ast.JSON(v)
	if err != nil {
		return nil, err
	}
	return json.Marshal(native)
}
