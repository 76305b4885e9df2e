package opa

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// Engine is one compiled policy with its data: a policy.Engine. It never changes, and any number of goroutines may ask it.
// It holds no goroutine and nothing to close.
type Engine struct {
	compiler *ast.Compiler
	store    storage.Store
	txn      storage.Transaction
	timeout  time.Duration
	revision string
	warnings []Warning
	labels   []string // that label rules can give
	main     bool     // the entry point is the shipped one

	ruling           *question
	allow, deny, ask *question // only if main

	logRules     []File     // of package system.log
	paths        [][]string // of the question, that a ruling can depend on
	selection    selection
	unremembered []string // why rulings depend on more than what keys hold
	reusable     bool     // they do not
	identity     *byte    // tells engines apart without keeping them: see itemKey

	// Rulings and answers about lists, by key. The library (W-TinyLFU) admits an entry into a full cache only if it has been asked
	// for more often than the one it would replace; so one caller's ever new arguments pass through a small window and do not push
	// out what others ask again and again. Lists have a cache of their own.
	rulings *otter.Cache[[32]byte, *policyRuling]
	views   *otter.Cache[[32]byte, bool]

	evaluations atomic.Uint64
	coverage    *Coverage // nil outside of tests
}

// policyRuling is what is remembered of a ruling.
type policyRuling struct {
	effect      policy.Effect
	reasons     []policy.Reason
	obligations *policy.Obligations
}

// Rulings with more text than this are not remembered, so that the bound in entries is one in memory too.
const (
	maxRemembered = 1024 // bytes of rule names and messages
	maxReasons    = 16
)

// question is one query, and what it takes to ask it with parts of the question unknown.
type question struct {
	body    ast.Body
	unknown [2]bool // depends on what is unknown: by withArguments, withURI
	partial *rego.PreparedPartialQuery
}

// What is unknown in a list: the arguments, and for templates the URI as well.
const (
	withArguments = iota
	withURI
)

var _ policy.Engine = (*Engine)(nil)

// Revision identifies policy, data, entry point and the shipped modules: equal text, equal revision.
func (e *Engine) Revision() string { return e.revision }

// Warnings are what is legal in the policy and probably not meant, by place.
func (e *Engine) Warnings() []Warning { return e.warnings }

// Unremembered says why no ruling of this policy is remembered: what its rules read that changes by itself. Empty means that rulings
// are.
func (e *Engine) Unremembered() []string { return e.unremembered }

// Evaluations counts how often Rego has been evaluated, partial evaluations included.
func (e *Engine) Evaluations() uint64 { return e.evaluations.Load() }

// Reads names the top-level arguments that a reachable rule reads: the same for every item. The names belong to the engine.
func (e *Engine) Reads(*catalog.Item) (names []string, all bool) {
	m := e.selection.of[arguments]
	return m.names, m.all
}

var (
	errIncomplete = errors.New("a question needs subject and item")
	errUndefined  = errors.New("the policy gives no ruling")
)

// Decide rules on one call.
func (e *Engine) Decide(ctx context.Context, q *policy.Question) policy.Ruling {
	start := time.Now()
	r := e.decide(ctx, q)
	r.Revision = e.revision
	r.Duration = time.Since(start)
	return r
}

func (e *Engine) decide(ctx context.Context, q *policy.Question) (r policy.Ruling) {
	w := scratches.Get().(*scratch)
	defer func() {
		if p := recover(); p != nil { // w is left to the collector: nobody knows its state
			r = refuse(fmt.Errorf("panic: %v", p))
			return
		}
		w.release()
	}()
	if q.Subject == nil || q.Item == nil {
		return refuse(errIncomplete)
	}
	var key [32]byte
	if e.reusable {
		var err error
		if key, err = e.callKey(q, w); err != nil {
			return refuse(err)
		}
		if m, ok := e.rulings.GetIfPresent(key); ok {
			return policy.Ruling{Effect: m.effect, Reasons: m.reasons, Obligations: m.obligations, Cached: true}
		}
	}
	input, err := e.selection.input(q, w, false)
	if err != nil {
		return refuse(err)
	}
	m, err := e.rule(ctx, input)
	if err != nil {
		return refuse(err)
	}
	if e.reusable && m.small() {
		e.rulings.Set(key, m)
	}
	return policy.Ruling{Effect: m.effect, Reasons: m.reasons, Obligations: m.obligations}
}

func refuse(err error) policy.Ruling { return policy.Ruling{Effect: policy.Deny, Err: err} }

func (m *policyRuling) small() bool {
	size := 0
	for _, r := range m.reasons {
		size += len(r.Rule) + len(r.Message)
	}
	if o := m.obligations; o != nil {
		for _, c := range slices.Concat(o.Rewrite, o.Redact) {
			size += 64 + len(c.Path) + len(c.Pattern) + len(c.Value) + len(c.With)
		}
		for _, l := range o.Label {
			size += 16 + len(l)
		}
	}
	return size <= maxRemembered && len(m.reasons) <= maxReasons
}

// rule evaluates the entry point.
func (e *Engine) rule(ctx context.Context, input *ast.Term) (*policyRuling, error) {
	t, err := e.evaluate(ctx, e.ruling, input)
	switch {
	case err != nil:
		return nil, err
	case t == nil:
		return nil, errUndefined
	}
	return readRuling(t)
}

// limit is how long an evaluation may take from now on.
func (e *Engine) limit(ctx context.Context) (time.Duration, error) {
	limit := e.timeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline))
	}
	if err := ctx.Err(); err != nil || limit <= 0 {
		return 0, errors.Join(policy.ErrTimeout, err)
	}
	return limit, nil
}

// evaluate runs a query and returns the value of its x: nil if it is undefined, true if the query has no x.
func (e *Engine) evaluate(ctx context.Context, q *question, input *ast.Term) (value *ast.Term, err error) {
	limit, err := e.limit(ctx)
	if err != nil {
		return nil, err
	}
	e.evaluations.Add(1)
	cancel := topdown.NewCancel()
	defer time.AfterFunc(limit, cancel.Cancel).Stop()
	ask := topdown.NewQuery(q.body)
	if e.coverage != nil { // without early exit: a rule that holds beside another one counts as well, and the answer is the same
		ask = ask.WithQueryTracer(e.coverage).WithEarlyExit(false)
	}
	err = ask.
		WithCompiler(e.compiler).
		WithStore(e.store).
		WithTransaction(e.txn).
		WithInput(input).
		WithCancel(cancel).
		WithMetrics(metrics.NoOp()).
		WithStrictBuiltinErrors(true). // else a deny that trips over a bad value vanishes
		Iter(ctx, func(r topdown.QueryResult) error {
			if value = r["x"]; value == nil {
				value = ast.InternedTerm(true)
			}
			return nil
		})
	if err != nil {
		return nil, timely(ctx, err)
	}
	return value, nil
}

// timely marks the error of an evaluation that was ended for its time.
func timely(ctx context.Context, err error) error {
	if topdown.IsCancel(err) || ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		return errors.Join(policy.ErrTimeout, err)
	}
	return err
}

// readRuling takes apart the object that an entry point gives. What it does not know it refuses: an obligation is a condition.
func readRuling(t *ast.Term) (*policyRuling, error) {
	object, ok := t.Value.(ast.Object)
	if !ok {
		return nil, fmt.Errorf("the ruling is no object: %v", ast.ValueName(t.Value))
	}
	m := &policyRuling{}
	err := object.Iter(func(k, v *ast.Term) error {
		name, _ := k.Value.(ast.String)
		switch name {
		case "effect":
			s, _ := v.Value.(ast.String)
			m.effect = policy.Effect(s)
		case "reasons":
			return each(v, func(t *ast.Term) error {
				r, err := readReason(t)
				m.reasons = append(m.reasons, r)
				return err
			})
		case "rewrite", "redact", "label":
			return m.oblige(string(name), v)
		default:
			return fmt.Errorf("the ruling holds %v, which this version does not know", k)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	switch m.effect {
	case policy.Deny:
		m.obligations = nil
		return m, nil
	case policy.Allow, policy.Ask:
		return m, m.consistent()
	}
	return nil, fmt.Errorf("the ruling's effect is %q", m.effect)
}

func each(t *ast.Term, f func(*ast.Term) error) error {
	switch v := t.Value.(type) {
	case *ast.Array:
		return v.Iter(f)
	case ast.Set:
		return v.Iter(f) // in order
	}
	return errors.New("a part of the ruling is neither array nor set")
}

func readReason(t *ast.Term) (policy.Reason, error) {
	object, ok := t.Value.(ast.Object)
	if !ok {
		return policy.Reason{}, errors.New("a reason of the ruling is no object")
	}
	var r policy.Reason
	err := object.Iter(func(k, v *ast.Term) error {
		name, _ := k.Value.(ast.String)
		s, ok := v.Value.(ast.String)
		switch {
		case ok && name == "rule":
			r.Rule = string(s)
		case ok && name == "message":
			r.Message = string(s)
		default:
			return fmt.Errorf("a reason of the ruling holds %v, want the texts rule and message", k)
		}
		return nil
	})
	return r, err
}

// callKey is the key of a ruling.
func (e *Engine) callKey(q *policy.Question, w *scratch) ([32]byte, error) {
	b := w.key[:0]
	b = append(b, 'C')
	b = append(b, e.revision...)
	b, err := e.selection.appendCaller(b, q, w)
	if err == nil {
		b, err = e.appendItem(b, q.Item, w)
	}
	if err == nil && e.selection.read[resourceURI] {
		if u, ok := q.ConcreteURI(); ok {
			b = appendText(append(b, 1), u)
		} else {
			b = append(b, 0)
		}
	}
	if err == nil && e.selection.read[arguments] {
		b, err = w.appendMembers(b, q.Arguments, e.selection.of[arguments])
	}
	w.key = b
	return sha256.Sum256(b), err
}

// itemKey is what keys hold of an item, as the two engines see it that asked last: a policy and its shadow. After a reload others
// replace them.
type itemKey struct {
	last, other atomic.Pointer[engineItem]
}

// of finds what an engine made, nil if it did not or was replaced.
func (k *itemKey) of(engine *byte) *engineItem {
	for _, p := range [...]*atomic.Pointer[engineItem]{&k.last, &k.other} {
		if i := p.Load(); i != nil && i.engine == engine {
			return i
		}
	}
	return nil
}

type engineItem struct {
	engine *byte
	key    []byte
	err    error
}

func (e *Engine) appendItem(b []byte, i *catalog.Item, w *scratch) ([]byte, error) {
	p := preparedOf(i)
	k := p.key.of(e.identity)
	if k == nil {
		k = &engineItem{engine: e.identity}
		k.key, k.err = e.selection.appendItem(nil, i, w)
		p.key.other.Store(p.key.last.Swap(k))
	}
	return append(b, k.key...), k.err
}

// Forget gives up what the engine remembers, for one that is kept only to explain what it ruled. It rules as before, and may remember
// again.
func (e *Engine) Forget() {
	e.rulings.InvalidateAll()
	e.views.InvalidateAll()
}
