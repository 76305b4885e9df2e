package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// maxFaults bounds a report; a file that is wrong everywhere is wrong in one way.
const maxFaults = 100

// Fault is one thing that is wrong with a configuration.
type Fault struct {
	File    string // as it was given
	Line    int    // from 1; 0 where the fault is the file's own
	Column  int    // from 1, in characters
	Path    string // such as servers[2].http.url; empty for the whole file
	Message string // what is wrong
	Remedy  string // what would be right
}

// Error is `file:line:column: path: what is wrong; what would be right`.
func (f Fault) Error() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
	}
	b.WriteString(": ")
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	b.WriteString(f.Message)
	if f.Remedy != "" {
		b.WriteString("; " + f.Remedy)
	}
	return b.String()
}

// Faults is every fault of one configuration, in the order of the file.
type Faults []Fault

// Error is one line a fault.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives each fault to errors.As.
func (f Faults) Unwrap() []error {
	errs := make([]error, len(f))
	for i, fault := range f {
		errs[i] = fault
	}
	return errs
}

// tidy sorts, removes repetition and bounds.
func (f Faults) tidy() Faults {
	slices.SortStableFunc(f, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), strings.Compare(a.Path, b.Path), strings.Compare(a.Message, b.Message))
	})
	f = slices.Compact(f)
	if n := len(f); n > maxFaults {
		f = append(f[:maxFaults:maxFaults], Fault{
			File: f[maxFaults].File, Line: f[maxFaults].Line, Column: f[maxFaults].Column,
			Message: fmt.Sprintf("%d more faults from here on", n-maxFaults), Remedy: "mend those above first",
		})
	}
	return f
}
