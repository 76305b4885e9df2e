package opa

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// This file finds the values that conditions read, and writes them so that no secret is among them.

// Masked stands for a value that is, or may be, a secret.
const Masked = "masked"

// Bounds of what is looked at. A text is shown from its beginning, so a secret that begins in what is shown lies in the first window bytes
// with as much of it as is compared.
const (
	maxSecret  = 1024
	maxSecrets = 1000 // of one question; with more, no text is shown
	window     = 8 << 10
)

// maxShown is how many bytes of a value are shown.
const maxShown = 256

// secrets knows what of a question must not be shown. A value is masked
//
//   - if a name on its path, or within it, is that of a credential;
//   - if it contains what stands under such a name, wherever it came by it: an argument of a function, say;
//   - if it looks like a credential by itself;
//   - if it was computed, the question holds any credential, and it is not plainly something else of the question.
type secrets struct {
	values []string            // what stands under names of credentials: the beginnings, lower case
	clean  map[string]struct{} // scalars that stand elsewhere
	any    bool
	claims *ast.Term // all that rules read of them
}

var (
	pairText = regexp.MustCompile(`([A-Za-z0-9_.-]{2,64})["']?\s*[=:]\s*["']?[^\s"'&;,]`)
	typed    = regexp.MustCompile(`^operand \d+ must be [a-z_{}, ]+ but got [a-z_]+$`)
)

func secretsOf(q *policy.Question) *secrets {
	s := &secrets{clean: map[string]struct{}{}}
	w := new(scratch)
	for _, raw := range [][]byte{q.Arguments, q.Subject.Claims} {
		t, err := w.object(raw, members{all: true})
		if err != nil { // nobody can tell what is in it
			s.any, s.clean = true, nil
			return s
		}
		s.collect(t.Value, false)
	}
	for _, text := range slices.Concat(q.Subject.Roles, q.Subject.Scopes, q.Item.Tags, []string{q.Subject.ID, q.Subject.Tenant, q.Subject.Client, q.Item.Name, q.Item.Server, q.Action}) {
		s.clean[ast.String(text).String()] = struct{}{}
	}
	return s
}

// collect sorts the scalars below a value.
func (s *secrets) collect(v ast.Value, secret bool) {
	switch v := v.(type) {
	case ast.Object:
		named := namesCredential(v)
		v.Foreach(func(k, below *ast.Term) {
			name, _ := k.Value.(ast.String)
			s.collect(below.Value, secret || identity.NamesCredential(string(name)) || named && !isName(string(name)))
		})
	case *ast.Array:
		v.Foreach(func(t *ast.Term) { s.collect(t.Value, secret) })
	case ast.String:
		s.sort(string(v), v.String(), secret)
	case ast.Number:
		s.sort(string(v), v.String(), secret)
	case ast.Boolean, ast.Null:
		s.any = s.any || secret
	}
}

func (s *secrets) sort(plain, text string, secret bool) {
	if !secret {
		s.clean[text] = struct{}{}
		return
	}
	s.any = true
	s.values = append(s.values, strings.ToLower(plain[:min(len(plain), maxSecret)]))
}

func isName(s string) bool {
	switch strings.ToLower(s) {
	case "name", "key", "header", "field", "id":
		return true
	}
	return false
}

// namesCredential recognises {"name": "Authorization", "value": …}.
func namesCredential(o ast.Object) bool {
	found := false
	o.Foreach(func(k, v *ast.Term) {
		name, ok := k.Value.(ast.String)
		value, text := v.Value.(ast.String)
		found = found || ok && text && isName(string(name)) && identity.NamesCredential(string(value))
	})
	return found
}

// tainted reports whether a text is a secret, or holds one.
func (s *secrets) tainted(text string) bool {
	if len(s.values) > maxSecrets {
		return true
	}
	text = text[:min(len(text), window)]
	if identity.HoldsCredential(text) {
		return true
	}
	for _, m := range pairText.FindAllStringSubmatch(text, -1) {
		if identity.NamesCredential(m[1]) {
			return true
		}
	}
	lower := strings.ToLower(text)
	return slices.ContainsFunc(s.values, func(v string) bool {
		return lower == v || len(v) >= 3 && strings.Contains(lower, v) // what is shorter stands in everything
	})
}

// literal is a text as Rego writes it, and element one that is a name on a path.
var (
	literal = regexp.MustCompile("\"(?:[^\"\\\\]|\\\\.)*\"|`[^`]*`")
	element = regexp.MustCompile(`\[\s*"([^"]*)"\s*\]`)
	word    = regexp.MustCompile(`[A-Za-z0-9_]+`)
)

// source is a piece of a policy's text. Where it is about a credential, what it is compared with may be one.
func (s *secrets) source(text string) string {
	about := slices.ContainsFunc(word.FindAllString(literal.ReplaceAllString(text, ""), -1), identity.NamesCredential)
	for _, m := range element.FindAllStringSubmatch(text, -1) {
		about = about || identity.NamesCredential(m[1])
	}
	return literal.ReplaceAllStringFunc(text, func(l string) string {
		plain := l[1 : len(l)-1]
		if about && !identity.NamesCredential(plain) || s.tainted(plain) {
			return `"…"`
		}
		return l
	})
}

// cleanText is a text that may be shown: of an error, say.
func (s *secrets) cleanText(text string) string {
	if s.tainted(text) {
		return Masked
	}
	return cut(text, maxShown)
}

// show writes a value that stands under a path.
func (s *secrets) show(path []string, v ast.Value) string {
	for i, name := range path {
		if identity.NamesCredential(name) && (i < len(path)-1 || !counts(name, v)) {
			return Masked
		}
	}
	w := &shower{s: s, left: maxShown}
	w.value(v)
	return w.b.String()
}

// counts lets max_tokens be seen.
func counts(name string, v ast.Value) bool {
	_, number := v.(ast.Number)
	return number && strings.HasSuffix(strings.ToLower(name), "tokens")
}

// computed writes a value of unknown origin.
func (s *secrets) computed(name string, v ast.Value) string {
	switch v.(type) {
	case ast.Boolean, ast.Null:
		return v.String()
	case ast.String, ast.Number:
		if _, clean := s.clean[v.String()]; s.any && !clean {
			return Masked
		}
	default:
		if s.any {
			return Masked
		}
	}
	return s.show([]string{name}, v)
}

// shower writes a value in a bounded number of bytes.
type shower struct {
	s    *secrets
	b    strings.Builder
	left int
	done bool
}

func (w *shower) text(t string) {
	if w.done {
		return
	}
	if len(t) > w.left {
		t, w.done = strings.ToValidUTF8(t[:w.left], "")+"…", true
	}
	w.left -= len(t)
	w.b.WriteString(t)
}

func (w *shower) value(v ast.Value) {
	switch v := v.(type) {
	case ast.String:
		if w.s.tainted(string(v)) {
			w.text(Masked)
			return
		}
		if len(v) > maxShown {
			w.text(strconv.Quote(strings.ToValidUTF8(string(v[:maxShown]), "")))
			return
		}
		w.text(v.String())
	case ast.Number:
		if slices.Contains(w.s.values, string(v)) {
			w.text(Masked)
			return
		}
		w.text(string(v))
	case ast.Boolean, ast.Null:
		w.text(v.String())
	case *ast.Array:
		w.list("[", "]", v.Until)
	case ast.Set:
		w.list("{", "}", v.Until)
	case ast.Object:
		w.object(v)
	default:
		w.text("…")
	}
}

func (w *shower) list(open, closing string, until func(func(*ast.Term) bool) bool) {
	w.text(open)
	first := true
	until(func(t *ast.Term) bool {
		if !first {
			w.text(", ")
		}
		first = false
		w.value(t.Value)
		return w.done
	})
	w.text(closing)
}

func (w *shower) object(o ast.Object) {
	if c := w.s.claims; c != nil && o.Len() > 0 && o.Compare(c.Value) == 0 {
		w.text("the claims")
		return
	}
	named := namesCredential(o)
	w.text("{")
	first := true
	o.Until(func(k, v *ast.Term) bool {
		if !first {
			w.text(", ")
		}
		first = false
		w.value(k.Value)
		w.text(": ")
		name, _ := k.Value.(ast.String)
		if identity.NamesCredential(string(name)) && !counts(string(name), v.Value) || named && !isName(string(name)) {
			w.text(Masked)
		} else {
			w.value(v.Value)
		}
		return w.done
	})
	w.text("}")
}

// values are what expressions of a body read, at an event of it.
func (t *tracer) values(body ast.Body, v *topdown.Event, exprs ...*ast.Expr) []ReadValue {
	c := &collector{t: t, body: body, event: v, out: []ReadValue{}, seen: map[ast.Var]bool{}}
	for _, x := range exprs {
		c.expr(x)
	}
	return c.out
}

// collector finds the references in expressions and looks up what they stand for.
type collector struct {
	t     *tracer
	body  ast.Body
	event *topdown.Event
	out   []ReadValue
	seen  map[ast.Var]bool
}

func (c *collector) add(name, value string) {
	if len(c.out) < maxReads && !slices.ContainsFunc(c.out, func(v ReadValue) bool { return v.Name == name }) {
		c.out = append(c.out, ReadValue{cut(name, maxText), value})
	}
}

func (c *collector) expr(x *ast.Expr) {
	var visit *ast.GenericVisitor
	visit = ast.NewGenericVisitor(func(n any) bool {
		switch n := n.(type) {
		case *ast.Expr:
			if terms, ok := n.Terms.([]*ast.Term); ok && len(terms) > 0 { // the operator is no value
				for _, term := range terms[1:] {
					visit.Walk(term)
				}
				for _, w := range n.With {
					visit.Walk(w.Value)
				}
				return true
			}
		case *ast.With:
			visit.Walk(n.Value)
			return true
		case ast.Call:
			for _, term := range n[1:] {
				visit.Walk(term)
			}
			return true
		case ast.Ref:
			c.ref(n)
			for _, term := range n[1:] {
				if _, nested := term.Value.(ast.Ref); nested {
					visit.Walk(term)
				}
			}
			return true
		case ast.Var:
			c.local(n)
			return true
		}
		return false
	})
	visit.Walk(x)
}

// ref shows what a reference stands for. Rules are told by themselves.
func (c *collector) ref(ref ast.Ref) {
	head, ok := ref[0].Value.(ast.Var)
	switch {
	case !ok:
	case isInput(ref):
		c.input(ref)
	case ref[0].Equal(ast.DefaultRootDocument):
		c.data(ref)
	default:
		if from := c.origin(head); from != nil {
			c.ref(append(slices.Clone(from), ref[1:]...))
			return
		}
		c.local(head)
	}
}

// ground plugs a reference as far as its elements are known; name is how it is written. What is plugged in may have come from an argument.
func (c *collector) ground(ref ast.Ref) (out ast.Ref, name string) {
	out = ast.Ref{ref[0]}
	written := ast.Ref{ref[0]}
	for _, term := range ref[1:] {
		p := c.event.Plug(term)
		if v, ok := p.Value.(ast.Var); ok {
			if from := c.origin(v); from != nil && isInput(from) && c.event.Input() != nil { // a local that is bound later in the body
				if value, err := c.event.Input().Value.Find(from[1:]); err == nil && from.IsGround() {
					p = ast.NewTerm(value)
				}
			}
		}
		if !p.IsGround() {
			break
		}
		out = append(out, p)
		_, number := p.Value.(ast.Number)
		index := number && len(p.Value.String()) < 3
		if !index && !term.IsGround() && c.t.s.computed("", p.Value) == Masked || c.t.s.tainted(p.Value.String()) {
			p = ast.StringTerm(Masked)
		}
		written = append(written, p)
	}
	return out, written.String()
}

// path is the names in a reference after its head.
func path(ref ast.Ref) (names []string) {
	for _, term := range ref[1:] {
		if s, ok := term.Value.(ast.String); ok {
			names = append(names, string(s))
		}
	}
	return names
}

func (c *collector) input(ref ast.Ref) {
	ref, name := c.ground(ref)
	if len(ref) == 1 || ref[1].Value.Compare(ast.String("subject")) == 0 && (len(ref) == 2 || len(ref) == 3 && ref[2].Value.Compare(ast.String("claims")) == 0) {
		c.add(name, "the whole of it, not shown")
		return
	}
	if c.event.Input() == nil {
		c.add(name, "absent")
		return
	}
	v, err := c.event.Input().Value.Find(ref[1:])
	if err != nil {
		c.add(name, "absent")
		return
	}
	c.add(name, c.t.s.show(path(ref), v))
}

func (c *collector) data(ref ast.Ref) {
	ref, name := c.ground(ref)
	e := c.t.e
	if len(ref) == 1 || len(e.compiler.GetRules(ref)) > 0 {
		return
	}
	if prefix := ref.ConstantPrefix(); len(e.compiler.GetRulesForVirtualDocument(prefix)) > 0 {
		return
	}
	at, err := storage.NewPathForRef(ref)
	if err != nil {
		return
	}
	v, err := e.store.Read(c.t.ctx, e.txn, at)
	if err != nil {
		c.add(name, "undefined")
		return
	}
	if value, ok := v.(ast.Value); ok {
		c.add(name, c.t.s.show(path(ref), value))
	}
}

// origin is the reference into input or data that a local was taken from, or nil.
func (c *collector) origin(v ast.Var) ast.Ref {
	var rest ast.Ref
	for range 8 { // a local of a local: x := input.a; x.b is x, and another for its member
		ref := c.source(v)
		if ref == nil {
			return nil
		}
		rest = append(slices.Clone(ref[1:]), rest...)
		if isInput(ref) || ref[0].Equal(ast.DefaultRootDocument) {
			return append(ast.Ref{ref[0]}, rest...)
		}
		v, _ = ref[0].Value.(ast.Var)
	}
	return nil
}

// source is the reference that a local is bound to, or nil.
func (c *collector) source(v ast.Var) ast.Ref {
	for _, x := range c.body {
		if !x.IsEquality() && !x.IsAssignment() || x.Negated || len(x.With) > 0 {
			continue
		}
		for _, pair := range [][2]*ast.Term{{x.Operand(0), x.Operand(1)}, {x.Operand(1), x.Operand(0)}} {
			if ref, ok := pair[1].Value.(ast.Ref); ok && pair[0].Value.Compare(v) == 0 {
				return ref
			}
		}
	}
	return nil
}

// local shows what a local was made of, and what its author calls by a name of its own.
func (c *collector) local(v ast.Var) {
	if c.seen[v] || ast.RootDocumentNames.Contains(ast.NewTerm(v)) {
		return
	}
	c.seen[v] = true
	from := c.origin(v)
	if from != nil {
		c.ref(from)
	}
	for _, x := range c.body { // the output of a call stands last
		terms, ok := x.Terms.([]*ast.Term)
		if !ok || x.IsEquality() || len(terms) < 3 || terms[len(terms)-1].Value.Compare(v) != 0 {
			continue
		}
		if b, known := ast.BuiltinMap[terms[0].Value.String()]; known && len(b.Decl.FuncArgs().Args) == len(terms)-2 {
			c.expr(&ast.Expr{Terms: terms[:len(terms)-1]})
		}
	}
	name := c.t.called(v)
	if name == "" || from != nil && isInput(from) && from.IsGround() {
		return
	}
	if value := c.event.Plug(ast.NewTerm(v)); value.IsGround() {
		c.add(name, c.t.s.computed(name, value.Value))
	}
}

// called is what the author calls a local, empty for what the compiler made.
func (t *tracer) called(v ast.Var) string {
	for range 8 {
		from, ok := t.e.compiler.RewrittenVars[v]
		if !ok {
			break
		}
		v = from
	}
	if s := string(v); !strings.HasPrefix(s, "__") && !strings.HasPrefix(s, "_") && !strings.HasPrefix(s, "$") {
		return s
	}
	return ""
}
