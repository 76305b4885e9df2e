package opa

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Fault is one mistake in a policy or in its data. Line and column count from 1; 0 means that the fault has no place.
type Fault struct {
	File      string
	Line, Col int
	Message   string
	Remedy    string // what would be right; empty where the message says it all
}

// String is file:line:col: message (remedy).
func (f Fault) String() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", f.Line, f.Col)
		}
		b.WriteString(": ")
	}
	b.WriteString(f.Message)
	if f.Remedy != "" {
		b.WriteString(" (" + f.Remedy + ")")
	}
	return b.String()
}

// Faults is the error of [Load]: all that is wrong, by place.
type Faults []Fault

// Error has one line a fault.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.String()
	}
	return strings.Join(lines, "\n")
}

func (f Faults) sort() {
	slices.SortStableFunc(f, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col), cmp.Compare(a.Message, b.Message))
	})
}

// at makes a fault at a place in a module.
func at(l *ast.Location, format string, args ...any) Fault {
	f := Fault{Message: fmt.Sprintf(format, args...)}
	if l != nil {
		f.File, f.Line, f.Col = l.File, l.Row, l.Col
	}
	return f
}

// emptyModule is what OPA's parser says of a file without a statement.
const emptyModule = "empty module"

// faultsOf takes apart an error of OPA's parser or compiler. file is where it happened if the error itself does not say.
func faultsOf(err error, file string) Faults {
	if faults := Faults(nil); errors.As(err, &faults) {
		return slices.Clone(faults)
	}
	var many ast.Errors
	if one := (*ast.Error)(nil); errors.As(err, &one) {
		many = ast.Errors{one}
	} else if !errors.As(err, &many) {
		return Faults{{File: file, Message: err.Error()}}
	}
	var out Faults
	for _, e := range many {
		f := at(e.Location, "%s", e.Message)
		if f.File == "" {
			f.File = file
		}
		if f.Message == emptyModule {
			f.Remedy = "a file of rules begins with a package, such as package mcpgw.policy"
		}
		if strings.HasPrefix(f.File, shippedPrefix) { // a policy's rules do not have the types that the main module reads
			f.Remedy = "in package mcpgw.policy allow is true or false, and deny, ask and the others are sets of messages"
		}
		if d, ok := e.Details.(*ast.RefErrInvalidDetail); ok && len(d.OneOf) > 0 {
			names := make([]string, len(d.OneOf))
			for i, v := range d.OneOf {
				names[i] = strings.Trim(v.String(), `"`)
			}
			slices.Sort(names)
			f.Remedy = "there are: " + strings.Join(names, ", ")
		}
		out = append(out, f)
	}
	return out
}
