package opa

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

var (
	argumentsUnknown = []*ast.Term{ast.MustParseTerm("input.arguments")}
	uriUnknown       = []*ast.Term{ast.MustParseTerm("input.arguments"), ast.MustParseTerm("input.resource.uri")}
)

// ListKey digests what Visible reads of everything but the item.
func (e *Engine) ListKey(q *policy.Question) (key [32]byte, ok bool) {
	if !e.reusable || q.Subject == nil {
		return key, false
	}
	w := scratches.Get().(*scratch)
	defer w.release()
	key, err := e.listKey(q, w)
	return key, err == nil
}

func (e *Engine) listKey(q *policy.Question, w *scratch) ([32]byte, error) {
	b := w.key[:0]
	b = append(b, 'L')
	b = append(b, e.revision...)
	b, err := e.selection.appendCaller(b, q, w)
	w.key = b
	return sha256.Sum256(b), err
}

// Visible says whether some call of the item may be allowed or asked about, as far as can be told without the arguments. Where anything
// fails nothing is known: false, and the error.
func (e *Engine) Visible(ctx context.Context, q *policy.Question) (visible bool, err error) {
	w := scratches.Get().(*scratch)
	defer func() {
		if p := recover(); p != nil {
			visible, err = false, fmt.Errorf("policy panicked: %v", p)
			return
		}
		w.release()
	}()
	if q.Subject == nil || q.Item == nil {
		return false, errIncomplete
	}
	var key [32]byte
	if e.reusable {
		caller, err := e.listKey(q, w)
		if err != nil {
			return false, err
		}
		b, err := e.appendItem(append(w.key[:0], caller[:]...), q.Item, w)
		if err != nil {
			return false, err
		}
		b = append(b, byte(q.Item.Kind)) // says what is unknown
		if q.Item.Kind == catalog.Resource && e.selection.read[resourceURI] {
			b = appendText(b, q.Item.Name)
		}
		w.key = b
		key = sha256.Sum256(b)
		if visible, ok := e.views.GetIfPresent(key); ok {
			return visible, nil
		}
	}
	input, err := e.selection.input(q, w, true)
	if err != nil {
		return false, err
	}
	if visible, err = e.visible(ctx, q.Item.Kind, input); err != nil {
		return false, err
	}
	if e.reusable {
		e.views.Set(key, visible)
	}
	return visible, nil
}

// visible asks first what does not depend on the unknown: that is a plain evaluation, and it usually decides.
func (e *Engine) visible(ctx context.Context, kind catalog.Kind, input *ast.Term) (bool, error) {
	what, unknowns := withArguments, argumentsUnknown
	if kind == catalog.Template {
		what, unknowns = withURI, uriUnknown
	}
	if !e.ruling.unknown[what] {
		m, err := e.rule(ctx, input)
		return err == nil && m.effect != policy.Deny, err
	}
	possible := func(q *question) (bool, error) {
		queries, err := e.partially(ctx, q, input, unknowns)
		return len(queries) > 0, err
	}
	if !e.main {
		return possible(e.ruling)
	}

	open, maybe := false, false
	for _, q := range []*question{e.allow, e.ask} {
		if q.unknown[what] {
			maybe = true
			continue
		}
		t, err := e.evaluate(ctx, q, input)
		if err != nil {
			return false, err
		}
		open = open || t != nil
	}
	if !open && !maybe {
		return false, nil
	}
	if !e.deny.unknown[what] {
		if t, err := e.evaluate(ctx, e.deny, input); err != nil || t != nil {
			return false, err
		}
	}
	for _, q := range []*question{e.allow, e.ask} {
		if open || !q.unknown[what] {
			continue
		}
		var err error
		if open, err = possible(q); err != nil {
			return false, err
		}
	}
	if !open || !e.deny.unknown[what] {
		return open, nil
	}
	queries, err := e.partially(ctx, e.deny, input, unknowns)
	if err != nil {
		return false, err
	}
	for _, body := range queries {
		if len(body) == 0 { // true whatever the arguments are
			return false, nil
		}
	}
	return true, nil
}

// partially evaluates a query as far as the unknown allows. What it returns are the conditions that are left, each of which would
// make the query true: none means never, an empty one always.
func (e *Engine) partially(ctx context.Context, q *question, input *ast.Term, unknowns []*ast.Term) ([]ast.Body, error) {
	e.evaluations.Add(1)
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	r, err := q.partial.Partial(ctx, rego.EvalParsedInput(input.Value), rego.EvalParsedUnknowns(unknowns), rego.EvalTransaction(e.txn))
	if err != nil {
		return nil, timely(ctx, err)
	}
	return r.Queries, nil
}
