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
	Unguarded                          // a deny, or what it makes use of, trusts an argument to be there or of a type
	NoAllow                            // there is no allow rule: everything is refused
	Untyped                            // an allow compares an argument by order, whatever its type
	OutsideEnum                        // a field is compared with a value that it never has
)

var kindNames = [...]string{
	WholeInput: "whole-input", Annotations: "annotations", Unguarded: "unguarded-argument", NoAllow: "no-allow", Untyped: "untyped-argument",
	OutsideEnum: "outside-enum", RuntimeLabels: "runtime-label",
}

// String is the kind as the JSON output names it.
func (k WarningKind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return "other"
}

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
			f := at(r.Location, "rule %s reads input.resource.annotations", r.Head.Ref())
			f.Remedy = "they are empty until a server has `trust_annotations: true` or `annotations` of the configuration"
			out = append(out, Warning{Annotations, f})
		}
	}
	if !main {
		return out
	}
	allow, rules := false, false
	var packages []string
	for file, m := range c.Modules {
		switch {
		case !own[file]:
		case m.Package.Path.Equal(policyPackage):
			rules = true
			allow = allow || slices.ContainsFunc(m.Rules, func(r *ast.Rule) bool { return r.Head.Ref()[0].Value.String() == "allow" })
		default:
			packages = append(packages, strings.TrimPrefix(m.Package.Path.String(), "data."))
		}
	}
	switch {
	case !rules && len(packages) > 0:
		slices.Sort(packages)
		f := Fault{Message: "there is no package mcpgw.policy: every call is refused"}
		f.Remedy = "rules that the gateway asks stand in it; there are: " + strings.Join(slices.Compact(packages), ", ")
		out = append(out, Warning{NoAllow, f})
	case !allow:
		out = append(out, Warning{NoAllow, Fault{Message: "package mcpgw.policy has no allow rule: every call is refused"}})
	}
	out = append(out, unguarded(c, own)...)
	return append(out, outsideEnums(c, own)...)
}
