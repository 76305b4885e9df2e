package opa

import (
	"fmt"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Rules of package system.log take parts (mask) or whole entries (drop) out of the decision log, as in OPA. They stand beside a policy's
// modules and are no part of its world: their input is an entry of the log, not a question, so they are compiled apart and without its
// schema, and what they see of data is their own package. That is held here, since a reference to anything else would be undefined, and
// a mask that is undefined masks nothing.

var (
	systemPackage = ast.MustParseRef("data.system")
	logPackage    = ast.MustParseRef("data.system.log")
)

// aside reports whether a module is not a part of the policy's own world.
func aside(m *ast.Module) bool { return m.Package.Path.HasPrefix(systemPackage) }

// LogRules are the modules of package system.log that came with the policy, checked, without tests: what masks its decision log.
func (e *Engine) LogRules() []File { return e.logRules }

// logRules finds the modules of package system.log and checks them. Files that cannot be parsed are left to parse.
func logRules(files []File) (found []File, faults Faults) {
	modules := map[string]*ast.Module{}
	for _, f := range files {
		m, err := ast.ParseModuleWithOpts(f.Name, string(f.Text), ast.ParserOptions{RegoVersion: ast.RegoV1})
		if err != nil || m == nil || isTest(f.Name) || !aside(m) {
			continue
		}
		if !m.Package.Path.HasPrefix(logPackage) {
			fault := at(m.Package.Location, "package %s is not read", m.Package.Path)
			fault.Remedy = "rules stand in package mcpgw.policy, those of the decision log in package system.log"
			faults = append(faults, fault)
			continue
		}
		modules[f.Name] = m
		found = append(found, f)
	}
	if len(modules) == 0 || len(faults) > 0 {
		return nil, faults
	}
	c := ast.NewCompiler().WithStrict(true).SetErrorLimit(0)
	if c.Compile(modules); c.Failed() {
		return nil, faultsOf(c.Errors, "")
	}
	reads := map[string]bool{}
	known := false
	for _, m := range c.Modules {
		ast.WalkRefs(m, func(ref ast.Ref) bool {
			switch {
			case !ref.HasPrefix(ast.DefaultRootRef):
			case !ref.HasPrefix(logPackage) || len(ref) > len(logPackage) && len(c.GetRules(ref[:len(logPackage)+1])) == 0:
				fault := at(ref[0].Location, "%s is undefined for the decision log, so that what depends on it would not be masked", ref)
				fault.Remedy = "its rules see only package system.log and the entry"
				faults = append(faults, fault)
			case len(ref) > len(logPackage):
				reads[ref[len(logPackage)].String()] = true
			}
			return false
		})
	}
	names := []string{"mask", "drop"}
	for _, m := range c.Modules {
		for _, r := range m.Rules {
			name := r.Head.Ref()[0].String()
			if m.Package.Path.Equal(logPackage) && slices.Contains(names, name) {
				known = true
				continue
			}
			for _, n := range names {
				if !reads[fmt.Sprintf("%q", name)] && distance(name, n) == 1 {
					fault := at(r.Location, "nothing reads the rule %s", name)
					fault.Remedy = "is " + n + " meant?"
					faults = append(faults, fault)
				}
			}
		}
	}
	if !known && len(faults) == 0 {
		faults = append(faults, Fault{File: found[0].Name, Message: "package system.log has neither a rule mask nor a rule drop", Remedy: "write: mask contains \"/input/arguments/password\""})
	}
	return found, faults
}

// MayRead reports whether the ruling can depend on what stands at a path of the question, as ["arguments", "password"]: on it, on a
// part of it, or on something that it is a part of.
func (e *Engine) MayRead(path []string) bool {
	return slices.ContainsFunc(e.paths, func(p []string) bool { return hasPrefix(p, path) || hasPrefix(path, p) })
}
