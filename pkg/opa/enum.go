package opa

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/mcpgw/mcpgw/policies"
)

// ofList marks the path of a list's members.
const ofList = "[]"

// enums are the fields of the question that have few values, by path, as the schema lists them.
func enums() map[string][]string {
	type node struct { // of a field, or of the members of one that is a list
		Properties map[string]node `json:"properties"`
		Enum       []string        `json:"enum"`
		Items      *node           `json:"items"`
	}
	var root node
	if json.Unmarshal(policies.InputSchema, &root) != nil { // newCompiler has told what is wrong with it
		return nil
	}
	out := map[string][]string{}
	var visit func(n node, path string)
	visit = func(n node, path string) {
		if len(n.Enum) > 0 {
			out[path] = n.Enum
		}
		if n.Items != nil {
			visit(*n.Items, path+ofList)
		}
		for name, child := range n.Properties {
			visit(child, path+"."+name)
		}
	}
	visit(root, "input")
	return out
}

// outsideEnums finds comparisons of such a field with a value that it never has: by equality or inequality, or as a member of a
// collection that stands in the rule. What is compared through a function or with data is not seen.
func outsideEnums(c *ast.Compiler, own map[string]bool) (out []Warning) {
	fields := enums()
	for _, file := range sortedFiles(c) {
		if !own[file] {
			continue
		}
		ast.WalkRules(c.Modules[file], func(r *ast.Rule) bool {
			aliases := map[ast.Var][]string{}
			ast.WalkExprs(r, func(e *ast.Expr) bool {
				if name, path := aliasOf(e); name != "" {
					aliases[name] = path
				}
				return false
			})
			ast.WalkExprs(r, func(e *ast.Expr) bool {
				terms, ok := e.Terms.([]*ast.Term)
				if !ok || len(terms) < 3 {
					return false
				}
				switch terms[0].Value.String() {
				case ast.Equality.Name, ast.Equal.Name, ast.NotEqual.Name, ast.Assign.Name, ast.Member.Name:
				default:
					return false
				}
				for i, t := range terms[1:3] {
					field, never := fieldOf(t, aliases), "is never"
					known, ok := fields[field]
					if !ok && i == 1 && terms[0].Value.String() == ast.Member.Name {
						known, ok = fields[field+ofList]
						never = "never holds"
					}
					if !ok {
						continue
					}
					for _, text := range constantTexts(terms[2-i]) {
						if !slices.Contains(known, text) {
							f := at(e.Location, "%s %s %q", field, never, text)
							f.Remedy = "known: " + orList(known)
							out = append(out, Warning{OutsideEnum, f})
						}
					}
				}
				return false
			})
			return true // else branches have been seen with the rule
		})
	}
	return out
}

// fieldOf is the path of input that a term stands for, as text, or empty.
func fieldOf(t *ast.Term, aliases map[ast.Var][]string) string {
	switch v := t.Value.(type) {
	case ast.Var:
		if path, ok := aliases[v]; ok {
			return "input." + strings.Join(path, ".")
		}
	case ast.Ref:
		path := constants(v[1:])
		if len(path) != len(v)-1 {
			return ""
		}
		if isInput(v) {
			return "input." + strings.Join(path, ".")
		}
		if head, ok := v[0].Value.(ast.Var); ok && aliases[head] != nil {
			return "input." + strings.Join(slices.Concat(aliases[head], path), ".")
		}
	}
	return ""
}

// constantTexts are the texts of a constant: itself, or its members.
func constantTexts(t *ast.Term) (out []string) {
	add := func(t *ast.Term) {
		if s, ok := t.Value.(ast.String); ok {
			out = append(out, string(s))
		}
	}
	switch v := t.Value.(type) {
	case ast.String:
		add(t)
	case *ast.Array:
		v.Foreach(add)
	case ast.Set:
		v.Foreach(add)
	}
	return out
}

func orList(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = strconv.Quote(v)
	}
	return strings.Join(quoted[:len(quoted)-1], ", ") + " or " + quoted[len(quoted)-1]
}
