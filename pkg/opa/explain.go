package opa

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/mcpgw/mcpgw/pkg/policy"
)

// Explanation is why a question is ruled as it is. It holds no secret that can be told by its name: see [secrets]. Encoded as JSON it is
// what `mcpgw explain --output json` prints below "explanation".
type Explanation struct {
	Ruling policy.Ruling `json:"-"` // the same as Decide's

	Effect      policy.Effect   `json:"effect"`
	Reasons     []policy.Reason `json:"reasons"`               // public, as the caller reads them
	Obligations []string        `json:"obligations,omitempty"` // what has to be done together with the call, in words
	Fault       *Trouble        `json:"fault,omitempty"`       // why the policy could not rule

	Fired   []Rule     `json:"fired"`             // rules that held: first those that rule, then those they use
	Near    []NearMiss `json:"near"`              // rules that did not hold, those that matter first
	Omitted int        `json:"omitted,omitempty"` // how many more there are of both
	Partial string     `json:"partial,omitempty"` // why rules may be missing

	Revision string `json:"revision"`         // of policy and data
	Visible  bool   `json:"visible"`          // lists show the item to this caller
	Hidden   string `json:"hidden,omitempty"` // why they do not
}

// Place is where a rule stands. Lines count from 1.
type Place struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Name string `json:"name"` // without the package where that is mcpgw.policy
	Text string `json:"text"` // its first line
}

// Rule is a rule that held.
type Rule struct {
	Place
	Message string      `json:"message,omitempty"` // of a deny, an ask or a label
	Values  []ReadValue `json:"values"`            // what its conditions read
}

// NearMiss is a rule that did not hold, and the one condition at which it stopped: that of its last attempt to get far.
type NearMiss struct {
	Place
	Held   int         `json:"held"` // conditions that held before
	Of     int         `json:"of"`   // conditions of the rule
	Failed Condition   `json:"failed"`
	Values []ReadValue `json:"values"` // what the failed condition read

	// Distant says that it did not matter: none of its conditions held, and nothing that did matter uses it.
	Distant bool `json:"distant,omitempty"`
}

// Condition is one expression of a rule's body.
type Condition struct {
	Line int    `json:"line"`
	Text string `json:"text"`
}

// ReadValue is something that a condition read: a path and its value, as Rego writes it, cut where it is long; or one of the words absent
// (in the question), undefined (in data) and [Masked].
type ReadValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Trouble is why there is no ruling.
type Trouble struct {
	Code    string      `json:"code"` // OPA's, or timeout, undefined, panic, invalid
	Message string      `json:"message"`
	File    string      `json:"file,omitempty"`
	Line    int         `json:"line,omitempty"`
	Text    string      `json:"text,omitempty"`    // the expression that failed
	Builtin string      `json:"builtin,omitempty"` // the built-in function that failed
	Values  []ReadValue `json:"values,omitempty"`  // what the expression read
}

// Bounds of an explanation.
const (
	maxExplained = 200     // rules that fired, and as many that came near
	maxMessages  = 16      // of one rule
	maxReads     = 16      // of one rule
	maxAttempts  = 200_000 // rule bodies that are followed
	maxText      = 200     // bytes of an expression's text
)

// Explain rules on a question as Decide does, in the same time, and tells which rules made the ruling and which came near. The ruling
// comes of an evaluation of its own; the rules come of a second one, in which the engine takes no short cut. Built-in functions of the
// policy that reach outside, such as http.send, are called again by each. It is safe for concurrent use. An error means that there is no
// explanation at all; a policy that cannot rule is explained.
func (e *Engine) Explain(ctx context.Context, q *policy.Question) (x *Explanation, err error) {
	if q.Subject == nil || q.Item == nil {
		return nil, errIncomplete
	}
	s := secretsOf(q)
	defer func() {
		if p := recover(); p != nil {
			x, err = nil, errors.New("the policy cannot be explained: its evaluation panicked")
		}
	}()
	x = &Explanation{Revision: e.revision, Fired: []Rule{}, Near: []NearMiss{}, Reasons: []policy.Reason{}}
	start := time.Now()
	input, err := e.selection.input(q, new(scratch), false)
	if err != nil {
		x.take(refuse(err), e.revision, start, s)
		x.Fault = &Trouble{Code: "invalid", Message: s.cleanText(err.Error())}
		return x, nil
	}
	s.claims = input.Value.(ast.Object).Get(ast.InternedTerm("subject")).Value.(ast.Object).Get(ast.InternedTerm("claims"))
	ruling, told, fault := e.plainly(ctx, q, input)
	x.take(ruling, e.revision, start, s)

	t := &tracer{e: e, s: s, of: map[*ast.Rule]*story{}, attempts: map[uint64]*story{}}
	if !errors.Is(fault, policy.ErrTimeout) {
		// Not strict: without short cuts it may come to calls that fail and that Decide passes by.
		t.failing = location(fault)
		again, err := e.run(ctx, q, input, t, false)
		switch {
		case errors.Is(err, policy.ErrTimeout):
			x.Partial = "following the rules took too long"
		case err != nil && strings.HasPrefix(err.Error(), "panic: "):
			x.Partial = "following the rules ended in a panic"
		case fault == nil && (err != nil || !same(again, told)):
			x.Partial = "the policy reads what changes by itself: these are the rules of a second evaluation, which ended otherwise"
		case t.lost:
			x.Partial = "the policy tries too many rules to follow them all"
		}
	}
	if fault != nil {
		x.Fault = t.trouble(fault)
	}
	t.tell(x)
	x.Visible, x.Hidden = e.seen(ctx, q)
	return x, nil
}

func (x *Explanation) take(r policy.Ruling, revision string, start time.Time, s *secrets) {
	r.Revision, r.Duration = revision, time.Since(start)
	x.Ruling, x.Effect = r, r.Effect
	x.Reasons = append(x.Reasons, r.Reasons...)
	if o := r.Obligations; o != nil {
		x.Obligations = obliged(o, s)
	}
}

// obliged words obligations without the values they write, which may be made of arguments.
func obliged(o *policy.Obligations, s *secrets) (out []string) {
	for _, group := range []struct {
		verb    string
		changes []policy.Change
	}{{"rewrite", o.Rewrite}, {"redact", o.Redact}} {
		for _, c := range group.changes {
			if c.Path != "" {
				out = append(out, group.verb+" "+s.cleanText(c.Path))
			} else {
				out = append(out, group.verb+" what matches a pattern")
			}
		}
	}
	for _, l := range o.Label {
		out = append(out, "label "+s.cleanText(l))
	}
	return out
}

// plainly rules on the input; told is the value of the entry point, nil with a fault.
func (e *Engine) plainly(ctx context.Context, q *policy.Question, input *ast.Term) (r policy.Ruling, told *ast.Term, fault error) {
	told, fault = e.run(ctx, q, input, nil, true)
	if fault == nil && told == nil {
		fault = errUndefined
	}
	var m *policyRuling
	if fault == nil {
		m, fault = readRuling(told)
	}
	if fault != nil {
		return refuse(fault), nil, fault
	}
	return policy.Ruling{Effect: m.effect, Reasons: m.reasons, Obligations: m.obligations}, told, nil
}

// run evaluates the entry point as evaluate does, at the question's time. With a tracer it takes no short cut.
func (e *Engine) run(ctx context.Context, q *policy.Question, input *ast.Term, t *tracer, strict bool) (value *ast.Term, err error) {
	limit, err := e.limit(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if p := recover(); p != nil {
			value, err = nil, fmt.Errorf("panic: %v", p)
		}
	}()
	e.evaluations.Add(1)
	cancel := topdown.NewCancel()
	defer time.AfterFunc(limit, cancel.Cancel).Stop()
	query := topdown.NewQuery(e.ruling.body).
		WithCompiler(e.compiler).
		WithStore(e.store).
		WithTransaction(e.txn).
		WithInput(input).
		WithCancel(cancel).
		WithMetrics(metrics.NoOp()).
		WithStrictBuiltinErrors(strict)
	if !q.Context.Time.IsZero() {
		query = query.WithTime(q.Context.Time) // a question that was kept is explained as of then
	}
	if t != nil {
		t.ctx = ctx
		query = query.WithQueryTracer(t).WithIndexing(false).WithEarlyExit(false)
	}
	err = query.Iter(ctx, func(r topdown.QueryResult) error { value = r["x"]; return nil })
	if err != nil {
		return nil, timely(ctx, err)
	}
	return value, nil
}

func same(a, b *ast.Term) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(b)
}

// seen says whether lists show the item, and why not.
func (e *Engine) seen(ctx context.Context, q *policy.Question) (visible bool, hidden string) {
	visible, err := e.Visible(ctx, q)
	switch {
	case visible:
		return true, ""
	case err != nil:
		return false, "the policy cannot be evaluated without the arguments"
	case !e.main:
		return false, "the entry point refuses every call of it by this caller, whatever the arguments"
	}
	// A deny that is certain hides; else there is no way to a yes.
	const closed = "no allow or ask rule can hold for this caller, whatever the arguments"
	input, err := e.selection.input(q, new(scratch), true)
	if err != nil {
		return false, closed
	}
	denied := false
	if e.deny.unknown[withURI] {
		queries, err := e.partially(ctx, e.deny, input, uriUnknown)
		denied = err == nil && slices.ContainsFunc(queries, func(b ast.Body) bool { return len(b) == 0 })
	} else {
		t, err := e.evaluate(ctx, e.deny, input)
		denied = err == nil && t != nil
	}
	if denied {
		return false, "a deny rule refuses every call of it by this caller, whatever the arguments"
	}
	return false, closed
}

// tracer follows one evaluation. Of a rule it keeps whether it held, else the attempt that came farthest.
type tracer struct {
	e        *Engine
	s        *secrets
	ctx      context.Context // of the evaluation: reading data wants one
	attempts map[uint64]*story
	of       map[*ast.Rule]*story
	order    []*story
	failing  *ast.Location // where the plain evaluation failed
	read     []ReadValue   // what the expression there read
	lost     bool
}

// story is what became of one rule.
type story struct {
	rule     *ast.Rule
	order    int
	held     bool
	messages []string
	values   []ReadValue // that it read when it first held
	index    int         // of the failed expression; -1: none
	near     NearMiss
	needed   bool // it mattered: it held, came near, or is used by one that did
	because  bool // one that held, and rules, uses it
}

// body is the rule's, nothing where there is no rule, as within a comprehension.
func (s *story) body() ast.Body {
	if s == nil {
		return nil
	}
	return s.rule.Body
}

var _ topdown.QueryTracer = (*tracer)(nil)

// Enabled is always true.
func (t *tracer) Enabled() bool { return true }

// Config asks for no values of locals: they are looked up where they are needed.
func (t *tracer) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent hears of every step.
func (t *tracer) TraceEvent(v topdown.Event) {
	switch v.Op {
	case topdown.EnterOp:
		if r, ok := v.Node.(*ast.Rule); ok && telling(r) {
			t.enter(r, v.QueryID)
		}
	case topdown.ExitOp:
		if r, ok := v.Node.(*ast.Rule); ok {
			if s := t.of[r]; s != nil {
				t.fired(s, &v)
			}
		}
	case topdown.FailOp:
		x, ok := v.Node.(*ast.Expr)
		if !ok {
			return
		}
		s := t.attempts[v.QueryID]
		if t.failing != nil && t.read == nil && t.failing.Equal(x.Location) {
			t.read = t.values(s.body(), &v, x)
		}
		if s != nil && !s.held && x.Index > s.index {
			s.index = x.Index
			held, of, failed := t.conditions(s.rule, x)
			s.near = NearMiss{Place: t.placed(s.rule), Held: held, Of: of, Failed: failed, Values: t.values(s.rule.Body, &v, x)}
		}
	}
}

// telling leaves out the shipped main module, which only combines, and defaults.
func telling(r *ast.Rule) bool {
	return r.Location != nil && !r.Default && r.Module != nil && !r.Module.Package.Path.Equal(mainPackage)
}

var mainPackage = ast.MustParseRef("data.mcpgw.main")

func (t *tracer) enter(r *ast.Rule, query uint64) {
	s := t.of[r]
	if s == nil {
		s = &story{rule: r, index: -1, order: len(t.order)}
		t.of[r] = s
		t.order = append(t.order, s)
	}
	if len(t.attempts) >= maxAttempts {
		t.lost = true
		return
	}
	t.attempts[query] = s
}

func (t *tracer) fired(s *story, v *topdown.Event) {
	if !s.held {
		s.held = true
		s.values = t.values(s.rule.Body, v, s.rule.Body...)
	}
	if !root(s.rule) || len(s.messages) >= maxMessages || s.rule.Head.Key == nil {
		return
	}
	text, ok := v.Plug(s.rule.Head.Key).Value.(ast.String)
	m := string(text)
	if name := nameOf(s.rule); name != "deny" && name != "ask" { // whose messages are public
		m = t.s.cleanText(m)
	}
	if ok && !slices.Contains(s.messages, m) {
		s.messages = append(s.messages, m)
	}
}

// root reports whether a rule is one that the main module reads.
func root(r *ast.Rule) bool {
	name := nameOf(r)
	return name == "allow" || slices.Contains(obligations, name)
}

func nameOf(r *ast.Rule) string {
	name := r.Ref().GroundPrefix().String()
	if short, ok := strings.CutPrefix(name, policyPackage.String()+"."); ok {
		return short
	}
	return strings.TrimPrefix(name, "data.")
}

func (t *tracer) placed(r *ast.Rule) Place {
	text, _, _ := strings.Cut(string(r.Location.Text), "\n")
	text = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "{"))
	return Place{File: r.Location.File, Line: r.Location.Row, Name: nameOf(r), Text: cut(t.s.source(text), maxText)}
}

// condition is a part of a rule's text that is one expression to its author. The compiler makes several of it.
type condition struct {
	begin, end int
	last       int // index of its last expression
}

// conditionsOf finds them: what lies within the text of another is part of that.
func conditionsOf(r *ast.Rule) (all []condition, of []int) {
	of = make([]int, len(r.Body))
	span := func(x *ast.Expr) (int, int) {
		if x.Location == nil {
			return r.Location.Offset, r.Location.Offset
		}
		return x.Location.Offset, x.Location.Offset + len(x.Location.Text)
	}
	for i, x := range r.Body {
		begin, end := span(x)
		for _, y := range r.Body {
			if b, e := span(y); b <= begin && end <= e {
				begin, end = b, e
			}
		}
		k := slices.IndexFunc(all, func(c condition) bool { return c.begin == begin && c.end == end })
		if k < 0 {
			k = len(all)
			all = append(all, condition{begin: begin, end: end})
		}
		all[k].last = i
		of[i] = k
	}
	return all, of
}

// conditions counts the conditions of a rule, and those that held before an expression of it failed.
func (t *tracer) conditions(r *ast.Rule, failed *ast.Expr) (held, total int, c Condition) {
	all, of := conditionsOf(r)
	if failed.Index >= len(of) {
		return 0, len(all), Condition{}
	}
	mine := of[failed.Index]
	for k, other := range all {
		if k != mine && other.last < failed.Index {
			held++
		}
	}
	whole := failed
	for i, x := range r.Body {
		if of[i] == mine && x.Location != nil && x.Location.Offset == all[mine].begin && x.Location.Offset+len(x.Location.Text) == all[mine].end {
			whole = x
		}
	}
	if l := whole.Location; l != nil {
		text := oneLine(l.Text)
		if after, ok := strings.CutPrefix(text, "else "); ok { // the one condition of an else has the place of the whole
			if _, body, ok := strings.Cut(after, "if "); ok {
				text = body
			}
		}
		c = Condition{Line: l.Row, Text: cut(t.s.source(text), maxText)}
	}
	return held, len(all), c
}

func oneLine(b []byte) string { return strings.Join(strings.Fields(string(b)), " ") }

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// tell writes what was found, what matters first.
func (t *tracer) tell(x *Explanation) {
	denied := slices.ContainsFunc(t.order, func(s *story) bool { return s.held && nameOf(s.rule) == "deny" })
	for _, s := range t.order {
		if !root(s.rule) && t.e.main {
			continue
		}
		name := nameOf(s.rule)
		switch {
		case s.held:
			t.need(s, true)
		case s.index >= 0 && s.near.Held > 0, name == "allow" && !denied, !t.e.main:
			t.need(s, false)
		}
	}
	var near, fired []*story
	for _, s := range t.order {
		switch {
		case s.held:
			fired = append(fired, s)
		case s.index >= 0:
			s.near.Distant = !s.needed
			near = append(near, s)
		}
	}
	slices.SortStableFunc(fired, func(a, b *story) int { return cmp.Compare(rank(a), rank(b)) })
	slices.SortStableFunc(near, func(a, b *story) int {
		return cmp.Or(boolean(a.near.Distant, b.near.Distant), boolean(!a.because, !b.because), cmp.Compare(rank(a), rank(b)))
	})
	for _, s := range fired {
		messages := s.messages
		if len(messages) == 0 {
			messages = []string{""}
		}
		for _, m := range messages {
			if len(x.Fired) == maxExplained {
				x.Omitted++
				continue
			}
			x.Fired = append(x.Fired, Rule{Place: t.placed(s.rule), Message: m, Values: s.values})
		}
	}
	for _, s := range near {
		if len(x.Near) == maxExplained {
			x.Omitted++
			continue
		}
		x.Near = append(x.Near, s.near)
	}
}

func rank(s *story) int {
	if root(s.rule) {
		return 0
	}
	return 1
}

func boolean(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// need marks a rule and all that it uses as what matters.
func (t *tracer) need(s *story, because bool) {
	if s == nil || s.needed && (s.because || !because) {
		return
	}
	s.needed, s.because = true, because
	for d := range t.e.compiler.Graph.Dependencies(s.rule) {
		for r := d.(*ast.Rule); r != nil; r = r.Else {
			t.need(t.of[r], because)
		}
	}
	t.need(t.of[s.rule.Else], because)
}

// trouble words a fault. The texts of built-in functions repeat what they were given, so only what is known to be harmless is told.
func (t *tracer) trouble(fault error) *Trouble {
	var e *topdown.Error
	switch {
	case errors.Is(fault, policy.ErrTimeout):
		return &Trouble{Code: "timeout", Message: fmt.Sprintf("the policy had no time to rule: policy.timeout is %v", t.e.timeout)}
	case errors.Is(fault, errUndefined):
		return &Trouble{Code: "undefined", Message: "the entry point gives no ruling"}
	case !errors.As(fault, &e):
		if strings.HasPrefix(fault.Error(), "panic: ") {
			return &Trouble{Code: "panic", Message: "the evaluation panicked; the gateway's log has the cause"}
		}
		return &Trouble{Code: "invalid", Message: t.s.cleanText(fault.Error())}
	}
	out := &Trouble{Code: e.Code, Message: "the evaluation failed"}
	switch e.Code {
	case topdown.ConflictErr:
		out.Message = "rules give different values for the same thing"
	case topdown.BuiltinErr, topdown.TypeErr:
		name, why, _ := strings.Cut(e.Message, ": ")
		if _, known := ast.BuiltinMap[name]; known {
			out.Builtin = name
			out.Message = name + " cannot work on this value"
			if typed.MatchString(why) { // names types, not values
				out.Message = name + ": " + why
			}
		}
	}
	if e.Location == nil {
		return out
	}
	out.File, out.Line, out.Text = e.Location.File, e.Location.Row, cut(t.s.source(oneLine(e.Location.Text)), maxText)
	out.Values = t.read
	return out
}

// location is where an evaluation failed, or nil.
func location(fault error) *ast.Location {
	var e *topdown.Error
	if errors.As(fault, &e) {
		return e.Location
	}
	return nil
}
