package opa

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// reads is what a set of rules can see of the question.
type reads struct {
	rules    []*ast.Rule   // every rule that the entry can reach, else branches included
	paths    [][]string    // paths below input, without "input"; nothing in it has a prefix in it
	whole    []*ast.Rule   // rules that use input as a whole: then paths is one empty path
	unstable []ast.Builtin // reachable built-ins whose value may change though the question does not
}

// unmarked are built-ins that read the clock and that OPA's list of non-deterministic ones lacks.
var unmarked = []string{"crypto.x509.parse_and_verify_certificates", "crypto.x509.parse_and_verify_certificates_with_options"}

// walk collects what the rules that entry can reach read of input. It never leaves out anything that can change a value; where it
// cannot tell exactly it takes the shorter path. OPA's own package dependencies is not exact in that sense: it drops the presence
// of what a local variable was taken from.
func walk(c *ast.Compiler, entry ast.Ref) reads {
	var r reads
	seen := map[*ast.Rule]bool{}
	var reach func(rule *ast.Rule)
	reach = func(rule *ast.Rule) {
		if rule == nil || seen[rule] {
			return
		}
		seen[rule] = true
		r.rules = append(r.rules, rule)
		reach(rule.Else)
		for d := range c.Graph.Dependencies(rule) {
			reach(d.(*ast.Rule))
		}
	}
	for _, rule := range c.GetRulesDynamicWithOpts(entry, ast.RulesOptions{IncludeHiddenModules: true}) {
		reach(rule)
	}

	names := map[string]bool{}
	for _, rule := range r.rules {
		w := walker{}
		w.rule(rule)
		r.paths = append(r.paths, w.paths...)
		if slices.ContainsFunc(w.paths, func(p []string) bool { return len(p) == 0 }) {
			r.whole = append(r.whole, rule)
		}
		for _, name := range w.calls {
			if b, ok := ast.BuiltinMap[name]; ok && !names[name] && (b.Nondeterministic || slices.Contains(unmarked, name)) {
				names[name] = true
				r.unstable = append(r.unstable, *b)
			}
		}
	}
	r.paths = minimal(r.paths)
	return r
}

// minimal sorts paths and drops those that have a shorter one as prefix.
func minimal(paths [][]string) [][]string {
	slices.SortFunc(paths, slices.Compare)
	var out [][]string
	for _, p := range paths {
		if n := len(out); n > 0 && hasPrefix(p, out[n-1]) {
			continue
		}
		out = append(out, p)
	}
	return out
}

func hasPrefix(path, prefix []string) bool {
	return len(path) >= len(prefix) && slices.Equal(path[:len(prefix)], prefix)
}

// overlaps says whether the value at one of the paths can depend on the value at p.
func (r *reads) overlaps(p ...string) bool {
	return slices.ContainsFunc(r.paths, func(q []string) bool { return hasPrefix(p, q) || hasPrefix(q, p) })
}

// walker collects the paths of one rule; its else branch is a rule of its own.
type walker struct {
	paths   [][]string
	calls   []string
	aliases map[ast.Var][]string // locals that stand for a path of input, see findAliases
}

// add takes the path of a reference into input: what follows "input", up to the first element that is not constant text.
func (w *walker) add(path []string) { w.paths = append(w.paths, slices.Clone(path)) }

func constants(ref ast.Ref) []string {
	path := []string{}
	for _, t := range ref {
		s, ok := t.Value.(ast.String)
		if !ok {
			break
		}
		path = append(path, string(s))
	}
	return path
}

func (w *walker) rule(r *ast.Rule) {
	w.findAliases(r)
	v := ast.NewGenericVisitor(w.visit)
	v.Walk(r.Head)
	if len(r.Head.Reference) > 1 { // the visitor of heads leaves the dynamic elements of a reference out
		for _, t := range r.Head.Reference[1:] {
			v.Walk(t)
		}
	}
	v.Walk(r.Body)
}

// visit looks at one node and says whether its children have been dealt with.
func (w *walker) visit(x any) bool {
	v := ast.NewGenericVisitor(w.visit)
	switch x := x.(type) {
	case *ast.With:
		// A mocked value hides nothing: what the callee reads is collected anyway. But "with input.a.b as v" keeps the rest of
		// input.a, so it depends on what that is.
		if t, ok := x.Target.Value.(ast.Ref); ok && isInput(t) && len(t) >= 3 {
			w.add(constants(t[1 : len(t)-1]))
		}
		v.Walk(x.Value)
		return true
	case *ast.Expr:
		terms, ok := x.Terms.([]*ast.Term)
		if !ok || len(terms) == 0 {
			return false
		}
		if name, _ := aliasOf(x); name != "" && w.isAlias(name) {
			return true // the binding itself reads nothing; findAliases has noted the presence of its source
		}
		w.call(terms[0])
		if !w.objectGet(terms) {
			return false
		}
		for _, t := range terms[3:] {
			v.Walk(t)
		}
		for _, with := range x.With {
			v.Walk(with)
		}
		return true
	case ast.Call:
		w.call(x[0])
		if !w.objectGet(x) {
			return false
		}
		for _, t := range x[3:] {
			v.Walk(t)
		}
		return true
	case ast.Ref:
		head, isVar := x[0].Value.(ast.Var)
		if !isVar {
			return false
		}
		if isInput(x) {
			w.add(constants(x[1:]))
		} else if path, ok := w.aliases[head]; ok {
			w.add(append(slices.Clone(path), constants(x[1:])...))
		}
		for _, t := range x[1:] { // input.a[input.b]
			v.Walk(t)
		}
		return true
	case ast.Var:
		if x.Equal(ast.InputRootDocument.Value) {
			w.add(nil)
		}
	}
	return false
}

func (w *walker) isAlias(name ast.Var) bool {
	_, ok := w.aliases[name]
	return ok
}

func (w *walker) call(operator *ast.Term) {
	if ref, ok := operator.Value.(ast.Ref); ok {
		w.calls = append(w.calls, ref.String())
	}
}

// objectGet folds object.get(object, ["b", "c"], default), which reads of an object that is input.a, or a local that stands for it,
// no more than input.a.b.c and whether input.a is there. It says whether it did.
func (w *walker) objectGet(terms []*ast.Term) bool {
	keys := getKeys(terms)
	if keys == nil {
		return false
	}
	var path []string
	switch object := terms[1].Value.(type) {
	case ast.Ref:
		if !isInput(object) || len(constants(object[1:])) != len(object)-1 {
			return false
		}
		path = constants(object[1:])
		w.presence(path)
	case ast.Var:
		alias, ok := w.aliases[object]
		if !ok {
			return false
		}
		path = alias
	default:
		return false
	}
	w.add(append(slices.Clone(path), keys...))
	return true
}

// getKeys are the keys of a call of object.get, if they are constant text, else nil.
func getKeys(terms []*ast.Term) (keys []string) {
	if len(terms) < 4 {
		return nil
	}
	if operator, ok := terms[0].Value.(ast.Ref); !ok || !operator.Equal(ast.ObjectGet.Ref()) {
		return nil
	}
	switch k := terms[2].Value.(type) {
	case ast.String:
		keys = []string{string(k)}
	case *ast.Array:
		for i := range k.Len() {
			s, ok := k.Elem(i).Value.(ast.String)
			if !ok {
				return nil
			}
			keys = append(keys, string(s))
		}
	}
	return keys
}

// presence notes that a rule can tell whether there is anything at a path. Most of what the engine builds is always there.
func (w *walker) presence(path []string) {
	if !alwaysThere(path) {
		w.add(path)
	}
}

func isInput(ref ast.Ref) bool { return len(ref) > 0 && ref[0].Equal(ast.InputRootDocument) }

// aliasOf recognises "local = input.a.b", as the compiler writes "x := input.a.b" and many an operand of a call.
func aliasOf(e *ast.Expr) (ast.Var, []string) {
	if !e.IsEquality() && !e.IsAssignment() || e.Negated || len(e.With) > 0 {
		return "", nil
	}
	for _, pair := range [][2]*ast.Term{{e.Operand(0), e.Operand(1)}, {e.Operand(1), e.Operand(0)}} {
		name, isVar := pair[0].Value.(ast.Var)
		ref, isRef := pair[1].Value.(ast.Ref)
		if isVar && isRef && isInput(ref) {
			if path := constants(ref[1:]); len(path) == len(ref)-1 {
				return name, path
			}
		}
	}
	return "", nil
}

// findAliases finds the locals that are bound exactly once, to a constant path of input, and that are used only as the head of
// longer references. Such a local reads what the longer references name, and whether its source is there at all: "not x.b" is true
// without a b, but undefined without an x.
func (w *walker) findAliases(r *ast.Rule) {
	bound := map[ast.Var][]string{}
	uses := map[ast.Var]int{}               // of any kind, bindings included, but not as head of a longer reference
	local := func(terms []*ast.Term) bool { // object.get of a local is a longer reference, see objectGet
		if getKeys(terms) == nil {
			return false
		}
		_, isVar := terms[1].Value.(ast.Var)
		return isVar
	}
	count := ast.NewGenericVisitor(nil)
	count = ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Expr:
			if name, path := aliasOf(x); name != "" {
				bound[name] = path
			}
			if terms, ok := x.Terms.([]*ast.Term); ok && local(terms) {
				for i, t := range terms {
					if i != 1 {
						count.Walk(t)
					}
				}
				for _, with := range x.With {
					count.Walk(with)
				}
				return true
			}
		case ast.Call:
			if local(x) {
				for i, t := range x {
					if i != 1 {
						count.Walk(t)
					}
				}
				return true
			}
		case ast.Ref:
			if len(x) > 1 {
				if _, isVar := x[0].Value.(ast.Var); isVar {
					for _, t := range x[1:] {
						count.Walk(t)
					}
					return true
				}
			}
		case ast.Var:
			uses[x]++
		}
		return false
	})
	count.Walk(r.Head)
	if len(r.Head.Reference) > 1 {
		for _, t := range r.Head.Reference[1:] {
			count.Walk(t)
		}
	}
	count.Walk(r.Body)
	w.aliases = map[ast.Var][]string{}
	for name, path := range bound {
		if uses[name] == 1 { // the binding alone
			w.aliases[name] = path
			w.presence(path)
		}
	}
}
