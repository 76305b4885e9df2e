package opa

import (
	"cmp"
	"slices"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Coverage notes which rules held in at least one evaluation. One value may serve an engine and a run of Rego tests together, and any
// number of goroutines; the zero value is ready. What lists ask with arguments unknown does not count: there a rule neither holds nor
// fails.
type Coverage struct {
	mu   sync.Mutex
	held map[place]bool
}

// CoveredRule is one rule of a policy, an else of its own and each of several rules of one name too.
type CoveredRule struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Rule    string `json:"rule"` // its name, with the package: data.mcpgw.policy.allow
	Covered bool   `json:"covered"`
}

// place tells rules apart, whichever compiler made them.
type place struct {
	file      string
	line, col int
}

func placeOf(l *ast.Location) place { return place{l.File, l.Row, l.Col} }

// Enabled is part of OPA's tracer interface, as TraceEvent and Config are.
func (*Coverage) Enabled() bool { return true }

// Config asks for events without the values of variables.
func (*Coverage) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent notes a rule that holds.
func (c *Coverage) TraceEvent(e topdown.Event) {
	if e.Op != topdown.ExitOp {
		return
	}
	r, ok := e.Node.(*ast.Rule)
	if !ok || r.Location == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = map[place]bool{}
	}
	c.held[placeOf(r.Location)] = true
}

// Rules lists every rule of the modules, tests excepted, by place. Modules that cannot be parsed have none.
func (c *Coverage) Rules(modules []File) []CoveredRule {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := []CoveredRule{}
	for _, f := range modules {
		if isTest(f.Name) {
			continue
		}
		m, err := ast.ParseModuleWithOpts(f.Name, string(f.Text), ast.ParserOptions{RegoVersion: ast.RegoV1, ProcessAnnotation: true})
		if err != nil || m == nil {
			continue
		}
		for _, rule := range m.Rules {
			for r := rule; r != nil; r = r.Else {
				name := m.Package.Path.String() + "." + r.Head.Ref().GroundPrefix().String()
				out = append(out, CoveredRule{f.Name, r.Location.Row, name, c.held[placeOf(r.Location)]})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b CoveredRule) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line)) })
	return out
}
