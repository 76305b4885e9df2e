package policytest

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"strings"

	"github.com/mcpgw/mcpgw/pkg/opa"
)

// OK reports whether every test that was run passed. Where none was run it is false.
func (r *Report) OK() bool { return r.Failed+r.Broken == 0 && r.Passed > 0 }

// WriteText writes what failed and why, the rules that no test covers, and the sums; with verbose the tests that passed, too.
func (r *Report) WriteText(w io.Writer, verbose bool) error {
	var b bytes.Buffer
	for i := range r.Tests {
		t := &r.Tests[i]
		switch t.Result {
		case Passed:
			if verbose {
				fmt.Fprintf(&b, "ok    %s:%d %s\n", t.File, t.Line, t.Name)
			}
		case Skipped:
			fmt.Fprintf(&b, "skip  %s:%d %s\n", t.File, t.Line, t.Name)
		default:
			fmt.Fprintf(&b, "%s %s:%d %s\n", map[string]string{Failed: "FAIL ", Broken: "ERROR"}[t.Result], t.File, t.Line, t.Name)
			t.explain(&b)
		}
	}
	if c := r.Coverage; len(c.Rules) > 0 {
		fmt.Fprintf(&b, "coverage: %.1f %% (%d of %d rules)\n", c.Percent, c.Covered, len(c.Rules))
		for _, rule := range c.Rules {
			if !rule.Covered {
				fmt.Fprintf(&b, "  not covered: %s:%d %s\n", rule.File, rule.Line, rule.Rule)
			}
		}
	}
	fmt.Fprintf(&b, "%s in %.2f s\n", r.sums(), r.Seconds)
	_, err := w.Write(b.Bytes())
	return err
}

// sums is "3 passed, 1 failed", parts that are 0 left out.
func (r *Report) sums() string {
	out := []string{fmt.Sprintf("%d passed", r.Passed)}
	for _, part := range []struct {
		n    int
		word string
	}{{r.Failed, "failed"}, {r.Broken, "could not be run"}, {r.Skipped, "skipped"}} {
		if part.n > 0 {
			out = append(out, fmt.Sprintf("%d %s", part.n, part.word))
		}
	}
	return strings.Join(out, ", ")
}

// explain writes why a test did not pass, indented.
func (t *Result) explain(b *bytes.Buffer) {
	if t.Message != "" && (t.Result == Broken || t.Ruling != nil || len(t.Near) == 0 && len(t.Cases) == 0) {
		fmt.Fprintf(b, "  %s\n", strings.ReplaceAll(t.Message, "\n", "\n  "))
	}
	nears(b, t.Near, "  ")
	for _, c := range t.Cases {
		fmt.Fprintf(b, "  case %q", c.Note)
		if c.Message != "" {
			fmt.Fprintf(b, ": %s", c.Message)
		}
		b.WriteByte('\n')
		nears(b, c.Near, "    ")
	}
	if t.Output != "" {
		fmt.Fprintf(b, "  it printed:\n    %s\n", strings.ReplaceAll(strings.TrimRight(t.Output, "\n"), "\n", "\n    "))
	}
}

func nears(b *bytes.Buffer, list []opa.Near, indent string) {
	for _, n := range list {
		if n.Held {
			fmt.Fprintf(b, "%sheld:   %s:%d %s\n", indent, n.File, n.Line, n.Rule)
			continue
		}
		fmt.Fprintf(b, "%sfailed: %s:%d %s: %s\n", indent, n.File, n.At, n.Rule, n.Text)
		for _, v := range n.Values {
			fmt.Fprintf(b, "%s          %s = %s\n", indent, v.Name, v.Value)
		}
	}
}

// The JUnit XML that continuous integration reads: one suite a file.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Time     string       `xml:"time,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Time     string      `xml:"time,attr"`
		Cases    []junitCase `xml:"testcase"`

		seconds float64
	}
	junitCase struct {
		Name    string      `xml:"name,attr"`
		Class   string      `xml:"classname,attr"`
		File    string      `xml:"file,attr"`
		Line    int         `xml:"line,attr"`
		Time    string      `xml:"time,attr"`
		Failure *junitFault `xml:"failure"`
		Error   *junitFault `xml:"error"`
		Skipped *struct{}   `xml:"skipped"`
		Output  string      `xml:"system-out,omitempty"`
	}
	junitFault struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes the report as JUnit XML, which has no place for coverage.
func (r *Report) WriteJUnit(w io.Writer) error {
	seconds := func(s float64) string { return fmt.Sprintf("%.3f", s) }
	all := junitSuites{
		Name: "mcpgw policy test", Tests: len(r.Tests), Failures: r.Failed, Errors: r.Broken, Skipped: r.Skipped, Time: seconds(r.Seconds),
	}
	at := map[string]int{}
	for i := range r.Tests {
		t := &r.Tests[i]
		n, ok := at[t.File]
		if !ok {
			n = len(all.Suites)
			at[t.File] = n
			all.Suites = append(all.Suites, junitSuite{Name: t.File})
		}
		s := &all.Suites[n]
		s.Tests++
		s.seconds += t.Seconds
		c := junitCase{Name: t.Name, Class: t.File, File: t.File, Line: t.Line, Time: seconds(t.Seconds), Output: t.Output}
		fault := func() *junitFault {
			var b bytes.Buffer
			said := *t
			said.Output = "" // it has a place of its own
			said.explain(&b)
			return &junitFault{t.Message, b.String()}
		}
		switch t.Result {
		case Failed:
			s.Failures++
			c.Failure = fault()
		case Broken:
			s.Errors++
			c.Error = fault()
		case Skipped:
			s.Skipped++
			c.Skipped = &struct{}{}
		}
		s.Cases = append(s.Cases, c)
	}
	for i := range all.Suites {
		all.Suites[i].Time = seconds(all.Suites[i].seconds)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}
