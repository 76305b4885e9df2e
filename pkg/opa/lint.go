package opa

import (
	"context"
	"slices"
)

// Findings are what [Check] says of a policy. It may be shipped if there are no faults.
type Findings struct {
	Faults   Faults
	Warnings []Warning
	Engine   *Engine // nil if the policy could not be loaded; it may be there beside faults that [Load] takes for warnings
}

// maxFindings bounds what is told at once.
const maxFindings = 1000

// Check looks at a policy as its author does before it is shipped: all that [Load] looks at, the tests among the modules, and what a
// running gateway only warns of. An argument that a denial trusts is a fault here, since the call that it ought to refuse passes; a
// gateway loads such a policy all the same, because to refuse it would take the rest of the policy away as well.
func Check(ctx context.Context, opts Options) Findings {
	var out Findings
	e, err := Load(opts)
	if err != nil {
		out.Faults = faultsOf(err, "")
	} else {
		out.Engine = e
		for _, w := range e.Warnings() {
			if w.Kind == Unguarded {
				out.Faults = append(out.Faults, w.Fault)
			} else {
				out.Warnings = append(out.Warnings, w)
			}
		}
	}
	out.Faults = append(out.Faults, checkTests(ctx, opts)...)
	out.Faults.sort()
	out.Faults = slices.CompactFunc(out.Faults, func(a, b Fault) bool { return a == b })
	if more := len(out.Faults) - maxFindings; more > 0 {
		out.Faults = append(out.Faults[:maxFindings:maxFindings], Fault{Message: "there are more faults; mend these first"})
	}
	if len(out.Warnings) > maxFindings {
		out.Warnings = out.Warnings[:maxFindings]
	}
	return out
}

// checkTests compiles the tests, if there are any, as strictly as what they test, and says what is wrong with them alone.
func checkTests(ctx context.Context, opts Options) Faults {
	if !slices.ContainsFunc(opts.Modules, func(f File) bool { return isTest(f.Name) }) {
		return nil
	}
	faults, err := (&testRun{o: TestOptions{Modules: opts.Modules, Data: opts.Data}}).compile(ctx)
	if err != nil {
		return Faults{{Message: err.Error()}}
	}
	return slices.DeleteFunc(faults, func(f Fault) bool { return !isTest(f.File) })
}
