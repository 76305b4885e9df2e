package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/opa"
)

// policyDir is where the policy commands look if they are not told.
const policyDir = "policy"

// whereFrom is said of the commands that policySource serves.
const whereFrom = `The data of DIR is data.yaml, data.yml or data.json in it, if there is one and --data names no other. With --config directory, data and
entry point come from a configuration, and DIR names another directory; without either, from mcpgw.yaml if there is one, else DIR is
./policy.`

func policyCheckCommand() *cobra.Command {
	var src policySource
	var out output
	c := &cobra.Command{
		Use:   "check [DIR | FILE.rego]",
		Short: "Find mistakes in a policy before it is shipped",
		Long: `Check compiles a policy and its tests with OPA's strict checks and the schema of the question, and ends with status 1 if anything
is wrong. A field that input does not have, a conflict of types, a rule whose name is close to a known one (alow), a reference to a
rule of data.mcpgw that is not there, and an argument that a deny trusts are faults. A rule that reads the whole input, so that no
ruling is remembered, and a comparison with a value that a field never has are warnings.

` + whereFrom + ` What cannot be found is told in
policies/README.md.`,
		Example: "  mcpgw policy check\n  mcpgw policy check examples/quickstart/policy\n  mcpgw policy check --config mcpgw.yaml --output json",
		Args:    between(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			opts, trusted, err := src.options(args)
			if err != nil {
				return err
			}
			return printFindings(c.OutOrStdout(), &out, opts, opa.Check(c.Context(), opts), trusted, src.warnings)
		},
	}
	src.flags(c)
	out.flag(c)
	return c
}

// defaultConfig is what most commands read if they are not told.
const defaultConfig = "mcpgw.yaml"

// policySource is where a policy comes from: a directory, or a configuration, whose directory DIR may replace.
type policySource struct {
	config, entry string
	data          []string

	// Once options has run:
	dir      string
	warnings config.Faults // of the configuration, about its policy
}

func (s *policySource) flags(c *cobra.Command) {
	c.Flags().StringVarP(&s.config, "config", "c", "", "take directory, data files and entry point from this configuration (default: mcpgw.yaml without DIR)")
	c.Flags().StringArrayVar(&s.data, "data", nil, "a data file, JSON or YAML, beside those of --config, instead of DIR's own; may be repeated")
	c.Flags().StringVar(&s.entry, "entry-point", "", "the rule that gives the ruling, if it is not the configured or the shipped one")
}

// options reads the files. trusted says whether the configuration, if there is one, lets annotations of some server count.
func (s *policySource) options(args []string) (opts opa.Options, trusted bool, err error) {
	s.dir, trusted = policyDir, true
	data := s.data
	if s.config == "" && len(args) == 0 {
		if _, err := os.Stat(defaultConfig); err == nil {
			s.config = defaultConfig
		}
	}
	if s.config != "" {
		cfg, err := config.Load(s.config)
		if err != nil {
			return opts, false, err
		}
		p := cfg.Proto.Policy
		if p.Directory == "" && len(args) == 0 {
			return opts, false, fmt.Errorf("%s takes its policy from a bundle: name the directory that the bundle is built of", s.config)
		}
		s.dir, data, trusted = fromHere(p.Directory), slices.Concat(p.DataFiles, data), false
		opts.Entrypoint, opts.Timeout = p.EntryPoint, p.Timeout.AsDuration()
		for _, w := range cfg.Warnings {
			if strings.HasPrefix(w.Path, "policy.") && len(args) == 0 {
				s.warnings = append(s.warnings, w)
			}
		}
		for _, server := range cfg.Proto.Servers {
			trusted = trusted || server.TrustAnnotations || len(server.Annotations) > 0
		}
	}
	if len(args) > 0 {
		s.dir = args[0]
	}
	if s.entry != "" {
		opts.Entrypoint = s.entry
	}
	info, err := os.Stat(s.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return opts, false, fmt.Errorf("%s: there is no such directory; mcpgw policy init %s writes a first policy", s.dir, s.dir)
	case err != nil:
		return opts, false, err
	case info.Mode().IsRegular() && filepath.Ext(s.dir) != ".rego":
		return opts, false, fmt.Errorf("%s: is no .rego file; name the policy's directory", s.dir)
	case info.Mode().IsRegular():
		opts.Modules, err = opa.ReadFiles(s.dir)
	default:
		opts.Modules, err = opa.ReadDir(s.dir)
		if s.config == "" && len(data) == 0 {
			data = ownData(s.dir)
		}
	}
	if err != nil {
		return opts, false, fmt.Errorf("policy: %w", err)
	}
	if opts.Data, err = opa.ReadFiles(data...); err != nil {
		return opts, false, fmt.Errorf("policy data: %w", err)
	}
	return opts, trusted, nil
}

// ownData finds the data that lies in a policy's directory, under the names that OPA's bundles give it.
func ownData(dir string) (found []string) {
	for _, name := range []string{"data.json", "data.yaml", "data.yml"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			found = append(found, filepath.Join(dir, name))
		}
	}
	return found
}

// finding is one line of the report.
type finding struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Kind    string `json:"kind,omitempty"` // of a warning
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
}

func newFinding(f opa.Fault, kind string) finding {
	return finding{File: f.File, Line: f.Line, Column: f.Col, Kind: kind, Message: f.Message, Remedy: f.Remedy}
}

type policyReport struct {
	Faults   []finding `json:"faults"`
	Warnings []finding `json:"warnings"`
	Modules  int       `json:"modules"`
	Revision string    `json:"revision,omitempty"`

	// Unremembered are the things that change by themselves and that rules read, so that no ruling is remembered.
	Unremembered []string `json:"unremembered"`
}

func printFindings(w io.Writer, out *output, opts opa.Options, found opa.Findings, trusted bool, configured config.Faults) error {
	r := policyReport{Faults: []finding{}, Warnings: []finding{}, Unremembered: []string{}, Modules: len(opts.Modules)}
	for _, w := range configured {
		message := w.Path + ": " + w.Message
		r.Warnings = append(r.Warnings, finding{File: w.File, Line: w.Line, Column: w.Column, Kind: "configuration", Message: message, Remedy: w.Remedy})
	}
	for _, f := range found.Faults {
		r.Faults = append(r.Faults, newFinding(f, ""))
	}
	for _, f := range found.Warnings {
		if f.Kind != opa.Annotations || !trusted {
			r.Warnings = append(r.Warnings, newFinding(f.Fault, f.Kind.String()))
		}
	}
	if e := found.Engine; e != nil {
		r.Revision = e.Revision()
		r.Unremembered = append(r.Unremembered, e.Unremembered()...)
	}
	err := out.print(w, r, func(w io.Writer) error {
		for _, f := range r.Faults {
			fmt.Fprintln(w, "fault: "+f.text())
		}
		for _, f := range r.Warnings {
			fmt.Fprintln(w, "warning: "+f.text())
		}
		if len(r.Faults) > 0 {
			return nil
		}
		memory := "rulings are remembered"
		if len(r.Unremembered) > 0 {
			memory = "no ruling is remembered, because rules read " + strings.Join(r.Unremembered, ", ")
		}
		_, err := fmt.Fprintf(w, "ok: %d files; %s\n", r.Modules, memory)
		return err
	})
	if err == nil && len(r.Faults) > 0 {
		err = errors.New("the policy has faults")
	}
	return err
}

func (f finding) text() string {
	return printable(opa.Fault{File: f.File, Line: f.Line, Col: f.Column, Message: f.Message, Remedy: f.Remedy}.String())
}

// printable is a line without what could write on a terminal by itself: names and text of files may come from anybody.
func printable(line string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) && r != '\t' {
			return '\uFFFD'
		}
		return r
	}, line)
}
