package opa

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// RuntimeLabels warns of a label that is made when a call is ruled on: where labels are lost, it cannot be put back.
const RuntimeLabels WarningKind = 100

var labelRule = policyPackage.Append(ast.StringTerm("label"))

// Labels names every label that the policy can give, in order: the constants of its label rules. One that is made while a call is ruled
// on is not among them; a warning names its rule. The names belong to the engine.
func (e *Engine) Labels() []string { return e.labels }

// labelsOf collects the labels that rules can give. Where a rule's label is a variable, every text of its body may be one.
func labelsOf(c *ast.Compiler, r reads, main bool) (labels []string, warnings []Warning) {
	unknown := func(rule *ast.Rule) {
		f := at(rule.Location, "a label is made while a call is ruled on: of a caller whose labels are lost, nobody knows whether it had it")
		f.Remedy = "name labels as text, or have the rules that read them refuse where input.context.session.lost is true"
		warnings = append(warnings, Warning{RuntimeLabels, f})
	}
	rules := c.GetRulesExact(labelRule)
	for _, rule := range r.rules {
		switch {
		case slices.Contains(rules, rule):
			if rule.Head.Key == nil {
				continue
			}
			if s, ok := rule.Head.Key.Value.(ast.String); ok {
				labels = append(labels, string(s))
				continue
			}
			labels = append(labels, textsOf(rule.Body)...)
			unknown(rule)
		case !main && namesLabel(rule): // a ruling of the policy's own make
			unknown(rule)
		}
	}
	if !slices.ContainsFunc(r.rules, readsLabels) {
		warnings = nil
	}
	slices.Sort(labels)
	labels = slices.Compact(labels)
	return slices.DeleteFunc(labels, func(s string) bool { return s == "" || len(s) > maxLabel }), warnings
}

var flowPackage = ast.MustParseRef("data.mcpgw.lib.flow")

// readsLabels reports whether a rule reads the labels of a session, those of the library excepted: they know what lost means.
func readsLabels(rule *ast.Rule) bool {
	if rule.Module != nil && rule.Module.Package.Path.Equal(flowPackage) {
		return false
	}
	w := walker{}
	w.rule(rule)
	return slices.ContainsFunc(w.paths, func(p []string) bool {
		return hasPrefix(p, fieldPaths[contextLabels]) || hasPrefix(fieldPaths[contextLabels], p)
	})
}

// textsOf is every constant text of a body that is no part of a path.
func textsOf(body ast.Body) (out []string) {
	ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case ast.Ref:
			return true
		case ast.String:
			out = append(out, string(x))
		}
		return false
	}).Walk(body)
	return out
}

// namesLabel reports whether a rule makes an object with a member label.
func namesLabel(rule *ast.Rule) (found bool) {
	ast.NewGenericVisitor(func(x any) bool {
		if o, ok := x.(ast.Object); ok && o.Get(ast.StringTerm("label")) != nil {
			found = true
		}
		return false
	}).Walk(rule)
	return found
}
