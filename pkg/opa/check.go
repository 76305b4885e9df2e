package opa

import (
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// obligations are the sets of package mcpgw.policy that the main module reads beside allow.
var obligations = []string{"deny", "ask", "rewrite", "redact", "label", "limit", "require_scope"}

var policyPackage = ast.MustParseRef("data.mcpgw.policy")

// checkParsed finds in a policy's own modules what stays legal Rego and cannot be meant.
func checkParsed(modules []*ast.Module) (faults Faults) {
	for _, m := range modules {
		path := m.Package.Path
		if len(path) > 1 && path[1].Value.Compare(ast.String("mcpgw")) == 0 && !path.HasPrefix(policyPackage) {
			f := at(m.Package.Location, "package %s is the gateway's own", strings.TrimPrefix(path.String(), "data."))
			f.Remedy = "rules stand in package mcpgw.policy, helpers there or in a package of any other name"
			faults = append(faults, f)
		}
		if !path.Equal(policyPackage) {
			continue
		}
		for _, r := range m.Rules {
			name := string(r.Head.Ref()[0].Value.(ast.Var))
			switch {
			case slices.Contains(obligations, name) && (r.Head.RuleKind() != ast.MultiValue || len(r.Head.Ref()) != 1):
				f := at(r.Location, "%s is a set of messages", name)
				f.Remedy = fmt.Sprintf(`write: %s contains "message" if …`, name)
				faults = append(faults, f)
			case name == "allow" && (r.Head.RuleKind() != ast.SingleValue || len(r.Head.Ref()) != 1 || len(r.Head.Args) > 0):
				f := at(r.Location, "allow is true or false")
				f.Remedy = "write: allow if …"
				faults = append(faults, f)
			}
		}
	}
	return faults
}

// checkCompiled finds, in the compiled form of a policy's own modules, references to rules that do not exist and rules that look
// like a known one and that nothing reads. It does not see through references that are made at run time.
func checkCompiled(c *ast.Compiler, own map[string]bool) (faults Faults) {
	read := map[string]bool{}
	for _, m := range c.Modules {
		ast.WalkRefs(m, func(ref ast.Ref) bool {
			if ref.HasPrefix(policyPackage) && len(ref) > len(policyPackage) {
				if s, ok := ref[len(policyPackage)].Value.(ast.String); ok {
					read[string(s)] = true
				} else {
					read[""] = true // something of the package, by a name made at run time
				}
			}
			return false
		})
	}
	for file, m := range c.Modules {
		if !own[file] {
			continue
		}
		for _, r := range m.Rules {
			ast.WalkRefs(r, func(ref ast.Ref) bool {
				if f, ok := undefined(c, ref, r); ok {
					faults = append(faults, f)
				}
				return false
			})
		}
		if !m.Package.Path.Equal(policyPackage) || read[""] {
			continue
		}
		for _, r := range m.Rules {
			name, ok := r.Head.Ref()[0].Value.(ast.Var)
			if !ok || read[string(name)] {
				continue
			}
			if known := nearest(string(name)); known != "" {
				f := at(r.Location, "nothing reads the rule %s", name)
				f.Remedy = "is " + known + " meant?"
				faults = append(faults, f)
			}
		}
	}
	return faults
}

// undefined reports a reference below data.mcpgw that no rule can answer.
func undefined(c *ast.Compiler, ref ast.Ref, r *ast.Rule) (Fault, bool) {
	if len(ref) < 2 || !ref[0].Equal(ast.DefaultRootDocument) || ref[1].Value.Compare(ast.String("mcpgw")) != 0 {
		return Fault{}, false
	}
	node := c.RuleTree.Child(ref[0].Value)
	for i, t := range ref[1:] {
		if node == nil || len(node.Values) > 0 {
			return Fault{}, false
		}
		if _, constant := t.Value.(ast.String); !constant {
			return Fault{}, false
		}
		child := node.Child(t.Value)
		if child == nil {
			loc := t.Location
			if loc == nil || loc.File == "" {
				loc = r.Location
			}
			f := at(loc, "there is no rule %s", ref[:i+2])
			var names []string
			for _, k := range node.Sorted {
				if s, ok := k.(ast.String); ok && !strings.HasPrefix(string(s), "test_") {
					names = append(names, string(s))
				}
			}
			if len(names) > 0 {
				f.Remedy = "there are: " + strings.Join(names, ", ")
			}
			return f, true
		}
		node = child
	}
	return Fault{}, false
}

// nearest is the known rule name that a name was probably meant to be, or empty.
func nearest(name string) string {
	for _, known := range append([]string{"allow"}, obligations...) {
		most := 2
		if len(known) < 5 {
			most = 1
		}
		if d := distance(strings.ToLower(name), known); name != known && d <= most {
			return known
		}
	}
	return ""
}

// distance counts the letters to insert, drop, replace or swap with their neighbour.
func distance(a, b string) int {
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	for j := range rows[1] {
		rows[1][j] = j
	}
	for i := 1; i <= len(a); i++ {
		two, one, now := rows[0], rows[1], rows[2]
		now[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			now[j] = min(now[j-1]+1, one[j]+1, one[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				now[j] = min(now[j], two[j-2]+1)
			}
		}
		rows = [3][]int{one, now, two}
	}
	return rows[1][len(b)]
}

// WarningKind sorts warnings, so that a caller can add what only it knows.
type WarningKind uint8

// The kinds of warning.
const (
	WholeInput  WarningKind = iota + 1 // a rule reads the question as a whole: no ruling is ever remembered
	Annotations                        // a rule reads input.resource.annotations: pointless if no server's may count
	Unguarded                          // a deny compares or hands on an argument that may be absent or of another type
	NoAllow                            // there is no allow rule: everything is refused
)

// Warning is something legal that is probably not meant.
type Warning struct {
	Kind WarningKind
	Fault
}

// warnings looks at the compiled rules that the entry reaches.
func warnings(c *ast.Compiler, entry reads, own map[string]bool, main bool) []Warning {
	var out []Warning
	for _, r := range entry.whole {
		f := at(r.Location, "rule %s reads the question as a whole, so that no ruling can be remembered", r.Head.Ref())
		f.Remedy = "name the fields"
		out = append(out, Warning{WholeInput, f})
	}
	for _, r := range entry.rules {
		if r.Location == nil {
			continue
		}
		w := walker{}
		w.rule(r)
		if slices.ContainsFunc(w.paths, func(p []string) bool { return hasPrefix(p, fieldPaths[resourceAnnotations]) }) {
			out = append(out, Warning{Annotations, at(r.Location, "rule %s reads input.resource.annotations", r.Head.Ref())})
		}
	}
	if !main {
		return out
	}
	var denials []*ast.Rule
	allow := false
	for file, m := range c.Modules {
		if !own[file] || !m.Package.Path.Equal(policyPackage) {
			continue
		}
		for _, r := range m.Rules {
			switch r.Head.Ref()[0].Value.String() {
			case "deny":
				denials = append(denials, r)
			case "allow":
				allow = true
			}
		}
	}
	if !allow {
		out = append(out, Warning{NoAllow, Fault{Message: "package mcpgw.policy has no allow rule: every call is refused"}})
	}
	proofs := proofsOf(denials)
	for _, r := range denials {
		for _, e := range r.Body {
			for _, ref := range relied(r.Body, e) {
				name := ref.String()
				f := at(e.Location, "this deny lets a call pass that has no %s", name)
				switch {
				case !proofs.there[name]:
				case negated(e) == nil && !proofs.typed[name]:
					f.Message = fmt.Sprintf("this deny lets a call pass whose %s is of a type it does not expect", name)
				default:
					continue
				}
				f.Remedy = "refuse unless a rule of its own proves the argument harmless, as data.mcpgw.lib.arguments tells"
				out = append(out, Warning{Unguarded, f})
			}
		}
	}
	return out
}

// proofs are what denials demand of arguments, by reference.
type proofs struct{ there, typed map[string]bool }

// proofsOf collects "not input.arguments.a" and "not is_number(input.arguments.a)": with a deny of each kind, others need no guard.
// Whether all these denials are about the same items is not looked at.
func proofsOf(denials []*ast.Rule) proofs {
	p := proofs{map[string]bool{}, map[string]bool{}}
	for _, r := range denials {
		for _, e := range r.Body {
			switch t := negated(e).(type) {
			case *ast.Term:
				if ref, ok := t.Value.(ast.Ref); ok && isArgument(ref) {
					p.there[ref.String()] = true
				}
			case []*ast.Term:
				if strings.HasPrefix(t[0].Value.String(), "is_") {
					for _, ref := range argumentsOf(r.Body, t[1:]) {
						p.typed[ref.String()] = true
					}
				}
			}
		}
	}
	return p
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

// relied finds the arguments without which an expression of a deny cannot hold: those that it compares by order or inequality,
// hands to a built-in function, or denies a call with. Equality needs no proof: what is not there is not equal. Tests of type are
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
	_, builtin := ast.BuiltinMap[operator]
	if !builtin || strings.HasPrefix(operator, "is_") || operator == ast.Equal.Name || strings.HasPrefix(operator, "internal.") {
		return nil
	}
	return argumentsOf(body, terms[1:])
}
