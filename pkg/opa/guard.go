package opa

import (
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// A rule is looked at by what it costs if it does not hold. Of a deny, an ask or an obligation the call goes on without it: that is
// a closing rule, and it must hold for arguments that are absent or of a type nobody expects. Of an allow the call is refused: that
// is an opening rule, which must hold for nothing but what it means. Under "not" a helper is the other way round.
type posture uint8

const (
	closing posture = 1 << iota
	opening
)

// guards walks from the rules that the main module reads to the helpers that they make use of.
type guards struct {
	compiler *ast.Compiler
	own      map[string]bool
	proofs   proofs
	seen     map[*ast.Rule]posture
	out      []Warning
}

// unguarded finds where a policy's own rules trust an argument. Comprehensions and the bodies of every are not looked into.
func unguarded(c *ast.Compiler, own map[string]bool) []Warning {
	g := guards{compiler: c, own: own, seen: map[*ast.Rule]posture{}}
	var entries [2][]*ast.Rule // closing, opening
	for _, file := range sortedFiles(c) {
		if m := c.Modules[file]; own[file] && m.Package.Path.Equal(policyPackage) {
			for _, r := range m.Rules {
				switch name := r.Head.Ref()[0].Value.String(); {
				case slices.Contains(obligations, name):
					entries[0] = append(entries[0], r)
				case name == "allow":
					entries[1] = append(entries[1], r)
				}
			}
		}
	}
	g.proofs = g.proofsOf(entries[0])
	for _, r := range entries[0] { // first, so that what a deny makes use of is its fault and not an allow's
		g.rule(r, closing, r.Head.Ref()[0].Value.String())
	}
	for _, r := range entries[1] {
		g.rule(r, opening, "allow")
	}
	return g.out
}

func sortedFiles(c *ast.Compiler) []string {
	files := make([]string, 0, len(c.Modules))
	for file := range c.Modules {
		files = append(files, file)
	}
	slices.Sort(files)
	return files
}

// rule looks at one rule, its else branches, and the helpers of its body; entry is the rule that it serves.
func (g *guards) rule(r *ast.Rule, p posture, entry string) {
	for ; r != nil && g.seen[r]&p == 0; r = r.Else {
		g.seen[r] |= p
		for _, e := range r.Body {
			if r.Location != nil && e.Location != nil {
				if p == closing {
					g.closing(r, e, entry)
				} else {
					g.opening(r, e, entry)
				}
			}
			q := p
			if negated(e) != nil {
				q ^= closing | opening
			}
			for _, helper := range g.helpers(e) {
				g.rule(helper, q, entry)
			}
		}
	}
}

// helpers are the policy's own rules that an expression refers to.
func (g *guards) helpers(e *ast.Expr) (out []*ast.Rule) {
	for _, t := range termsOf(e) {
		ref, ok := t.Value.(ast.Ref)
		if !ok || !ref[0].Equal(ast.DefaultRootDocument) {
			continue
		}
		for _, r := range g.compiler.GetRulesDynamicWithOpts(ref, ast.RulesOptions{}) {
			if r.Location != nil && g.own[r.Location.File] {
				out = append(out, r)
			}
		}
	}
	return out
}

// termsOf are operator and operands of an expression, whether it is denied or not.
func termsOf(e *ast.Expr) []*ast.Term {
	terms := e.Terms
	if n := negated(e); n != nil {
		terms = n
	}
	switch t := terms.(type) {
	case *ast.Term:
		return []*ast.Term{t}
	case []*ast.Term:
		return t
	case ast.Body:
		var out []*ast.Term
		for _, e := range t {
			out = append(out, termsOf(e)...)
		}
		return out
	}
	return nil
}

// role says in a message which rule it is about.
func role(r *ast.Rule, entry string) string {
	if name := r.Head.Ref().String(); r.Head.Ref()[0].Value.String() != entry {
		return fmt.Sprintf("%s, which %s makes use of,", name, entry)
	}
	return "this " + entry
}

const proveIt = "refuse unless the argument is proved harmless, as data.mcpgw.lib.arguments tells"

// closing finds the arguments without which an expression cannot hold.
func (g *guards) closing(r *ast.Rule, e *ast.Expr, entry string) {
	for _, ref := range relied(r.Body, e) {
		name := ref.String()
		f := at(e.Location, "%s lets a call pass that has no %s", role(r, entry), name)
		switch {
		case !g.proofs.there[name]:
		case negated(e) == nil && !g.proofs.typed[name] && isBuiltin(e):
			f.Message = fmt.Sprintf("%s lets a call pass whose %s is of a type it does not expect", role(r, entry), name)
		default:
			continue
		}
		f.Remedy = proveIt
		g.out = append(g.out, Warning{Unguarded, f})
	}
	if ref := quoted(r, e); ref != nil && !g.proofs.there[ref.String()] && entry != "rewrite" { // nothing there is nothing to rewrite
		name := ref.String()
		f := at(e.Location, "%s lets a call pass that has no %s, because what it says quotes it", role(r, entry), name)
		f.Remedy = fmt.Sprintf("quote it as $\"… {%s}\", which holds without it", name)
		g.out = append(g.out, Warning{Unguarded, f})
	}
}

// quoted is the argument that an expression fetches for a part of a message, or nil: the compiler takes it out of the head, or out of
// a list of operands, and without it neither the message is there nor the rule.
func quoted(r *ast.Rule, e *ast.Expr) ast.Ref {
	name, path := aliasOf(e)
	if name == "" || len(path) < 2 || path[0] != "arguments" {
		return nil
	}
	holds := func(x any) (found bool) {
		ast.WalkVars(x, func(v ast.Var) bool {
			found = found || v == name
			return found
		})
		return found
	}
	used := r.Head.Key != nil && holds(r.Head.Key) || r.Head.Value != nil && holds(r.Head.Value)
	for _, other := range r.Body {
		if other == e {
			continue
		}
		for _, t := range termsOf(other) {
			switch t.Value.(type) {
			case *ast.Array, ast.Object, ast.Set:
				used = used || holds(t)
			}
		}
	}
	if !used {
		return nil
	}
	return argumentsOf(ast.Body{e}, []*ast.Term{ast.NewTerm(name)})[0]
}

// order says on which side of its operands each comparison by order bounds: -1 the first from above, 1 from below.
var order = map[string]int{ast.LessThan.Name: -1, ast.LessThanEq.Name: -1, ast.GreaterThan.Name: 1, ast.GreaterThanEq.Name: 1}

// opening finds comparisons by order that hold for values of other types. Between two bounds only numbers fit, as only text does
// between two texts, so an argument with both needs no more.
func (g *guards) opening(r *ast.Rule, e *ast.Expr, entry string) {
	terms := termsOf(e)
	if len(terms) != 3 || order[terms[0].Value.String()] == 0 {
		return
	}
	denied := negated(e) != nil
	for _, ref := range argumentsOf(r.Body, terms[1:]) {
		name := ref.String()
		if g.proofs.typed[name] || !denied && (typedIn(r.Body)[name] || betweenBounds(r.Body, name)) {
			continue
		}
		kind := Untyped
		if entry != "allow" {
			kind = Unguarded
		}
		f := at(e.Location, "%s takes %s of any type: null and false lie below every number, text above", role(r, entry), name)
		f.Remedy = "say is_number, or is_string, before it"
		g.out = append(g.out, Warning{kind, f})
	}
}

// betweenBounds reports whether a body bounds an argument from below and from above.
func betweenBounds(body ast.Body, name string) bool {
	var below, above bool
	for _, e := range body {
		terms, ok := e.Terms.([]*ast.Term)
		if !ok || e.Negated || len(terms) != 3 {
			continue
		}
		side := order[terms[0].Value.String()]
		for i, t := range terms[1:] {
			for _, ref := range argumentsOf(body, []*ast.Term{t}) {
				if other, ok := terms[2-i].Value.(ast.Number); !ok || other == "" || ref.String() != name {
					continue
				}
				below = below || side == 1 && i == 0 || side == -1 && i == 1
				above = above || side == -1 && i == 0 || side == 1 && i == 1
			}
		}
	}
	return below && above
}

// proofs are what denials demand of arguments, by reference.
type proofs struct{ there, typed map[string]bool }

var argumentsPackage = ast.MustParseRef("data.mcpgw.lib.arguments")

// proofsOf collects "not input.arguments.a", "not is_number(input.arguments.a)", and "not h" where h demands such a thing: with a
// denial of each kind, others need no guard. Whether all these denials are about the same items is not looked at.
func (g *guards) proofsOf(denials []*ast.Rule) proofs {
	p := proofs{map[string]bool{}, map[string]bool{}}
	for _, r := range denials {
		if r.Head.Ref()[0].Value.String() != "deny" {
			continue
		}
		one := proofs{map[string]bool{}, map[string]bool{}}
		for _, e := range r.Body {
			switch t := negated(e).(type) {
			case *ast.Term:
				ref, ok := t.Value.(ast.Ref)
				switch {
				case !ok:
				case isArgument(ref):
					one.there[ref.String()] = true
				default:
					g.demanded(ref, one)
				}
			case []*ast.Term:
				if strings.HasPrefix(t[0].Value.String(), "is_") {
					for _, ref := range argumentsOf(r.Body, t[1:]) {
						one.typed[ref.String()] = true
					}
				}
				if name := named(t); name != "" {
					one.there[name], one.typed[name] = true, true
				}
			}
		}
		for _, e := range r.Body { // what a denial itself needs it does not prove
			if ref := quoted(r, e); ref != nil {
				delete(one.there, ref.String())
			}
			for _, ref := range relied(r.Body, e) {
				delete(one.there, ref.String())
			}
		}
		for name, yes := range one.there {
			p.there[name] = p.there[name] || yes
		}
		for name, yes := range one.typed {
			p.typed[name] = p.typed[name] || yes
		}
	}
	return p
}

// demanded adds what every definition of a helper without parameters demands.
func (g *guards) demanded(helper ast.Ref, p proofs) {
	count := 0
	there, typed := map[string]int{}, map[string]int{}
	for _, r := range g.compiler.GetRulesExact(helper) {
		for ; r != nil; r = r.Else {
			count++
			for name := range thereIn(r.Body) {
				there[name]++
			}
			for name := range typedIn(r.Body) {
				typed[name]++
			}
		}
	}
	for name, n := range there {
		p.there[name] = p.there[name] || n == count
	}
	for name, n := range typed {
		p.typed[name] = p.typed[name] || n == count
	}
}

// thereIn are the arguments without which a body does not hold.
func thereIn(body ast.Body) map[string]bool {
	out := map[string]bool{}
	for _, e := range body {
		if negated(e) == nil {
			for _, ref := range argumentsOf(body, termsOf(e)) {
				out[ref.String()] = true
			}
		}
	}
	for name := range typedIn(body) {
		out[name] = true
	}
	return out
}

// typedIn are the arguments of which a body holds for values of one type only, as far as can be seen: it asks for the type, or one of
// the library's proofs.
func typedIn(body ast.Body) map[string]bool {
	out := map[string]bool{}
	for _, e := range body {
		terms, ok := e.Terms.([]*ast.Term)
		if !ok || len(terms) < 2 || negated(e) != nil {
			continue
		}
		operator, _ := terms[0].Value.(ast.Ref)
		if strings.HasPrefix(terms[0].Value.String(), "is_") || operator.HasPrefix(argumentsPackage) {
			for _, ref := range argumentsOf(body, terms[1:]) {
				out[ref.String()] = true
			}
		}
		if name := named(terms); name != "" {
			out[name] = true
		}
	}
	return out
}

// named is the argument that a call of one of the library's proofs names, as in arguments.number("n", 1, 5), or empty.
func named(terms []*ast.Term) string {
	operator, ok := terms[0].Value.(ast.Ref)
	if !ok || len(terms) < 2 || !operator.HasPrefix(argumentsPackage) {
		return ""
	}
	s, ok := terms[1].Value.(ast.String)
	if !ok {
		return ""
	}
	return ast.Ref{ast.InputRootDocument, ast.StringTerm("arguments"), ast.NewTerm(s)}.String()
}

func isArgument(ref ast.Ref) bool {
	return isInput(ref) && len(ref) > 2 && ref[1].Value.Compare(ast.String("arguments")) == 0
}

// negated is what an expression denies, or nil.
func negated(e *ast.Expr) any {
	if n, ok := e.Terms.(*ast.Not); ok {
		if len(n.Body) == 1 {
			return n.Body[0].Terms
		}
		return n.Body
	}
	if e.Negated {
		return e.Terms
	}
	return nil
}

// argumentsOf finds the arguments among terms, seeing through locals that the body binds to them.
func argumentsOf(body ast.Body, terms []*ast.Term) (out []ast.Ref) {
	for _, t := range terms {
		switch v := t.Value.(type) {
		case ast.Ref:
			if isArgument(v) {
				out = append(out, v)
			}
		case ast.Var:
			for _, e := range body {
				if name, path := aliasOf(e); name == v && len(path) > 1 && path[0] == "arguments" {
					ref := ast.Ref{ast.InputRootDocument}
					for _, s := range path {
						ref = append(ref, ast.StringTerm(s))
					}
					out = append(out, ref)
				}
			}
		}
	}
	return out
}

// relied finds the arguments without which an expression of a closing rule cannot hold: those that it compares by order or
// inequality, hands to a function, or denies a call with. Equality needs no proof: what is not there is not equal. Tests of type are
// proofs themselves, unless they are denied.
func relied(body ast.Body, e *ast.Expr) []ast.Ref {
	if terms, ok := negated(e).([]*ast.Term); ok {
		return argumentsOf(body, terms[1:])
	}
	terms, ok := e.Terms.([]*ast.Term)
	if !ok || e.Negated || e.IsEquality() || e.IsAssignment() {
		return nil
	}
	operator := terms[0].Value.String()
	if strings.HasPrefix(operator, "is_") || operator == ast.Equal.Name || strings.HasPrefix(operator, "internal.") || spelling(body, e, terms) {
		return nil
	}
	return argumentsOf(body, terms[1:])
}

func isBuiltin(e *ast.Expr) bool {
	terms, ok := e.Terms.([]*ast.Term)
	return ok && ast.BuiltinMap[terms[0].Value.String()] != nil
}

// respellings give a text in another spelling.
var respellings = []string{ast.Lower.Name, ast.Upper.Name, ast.TrimSpace.Name, ast.Trim.Name, ast.TrimLeft.Name, ast.TrimRight.Name, ast.TrimPrefix.Name, ast.TrimSuffix.Name}

// spelling reports whether a call gives an argument in another spelling that is then compared by equality alone: that needs no more
// proof than the equality itself.
func spelling(body ast.Body, call *ast.Expr, terms []*ast.Term) bool {
	result, ok := terms[len(terms)-1].Value.(ast.Var)
	if !ok || !slices.Contains(respellings, terms[0].Value.String()) {
		return false
	}
	for _, e := range body {
		if e == call {
			continue
		}
		used := false
		ast.WalkVars(e, func(v ast.Var) bool {
			used = used || v == result
			return false
		})
		equality := e.IsEquality() || slices.Contains([]string{ast.Equal.Name, ast.Member.Name}, operatorOf(e))
		if used && (negated(e) != nil || !equality) {
			return false
		}
	}
	return true
}

func operatorOf(e *ast.Expr) string {
	if terms, ok := e.Terms.([]*ast.Term); ok {
		return terms[0].Value.String()
	}
	return ""
}
