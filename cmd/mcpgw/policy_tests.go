package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/policytest"
)

// policyTest is what the flags of mcpgw policy test say.
type policyTest struct {
	policySource
	catalog, admin, run, format string
	live, plain, verbose        bool
	threshold                   float64
	timeout                     time.Duration
}

// savedCatalog is looked for beside a policy where no flag says where items come from.
const savedCatalog = "catalog.json"

func policyTestCommand() *cobra.Command {
	var f policyTest
	c := &cobra.Command{
		Use:   "test [DIR]",
		Short: "Run a policy's tests: Rego, and tables in YAML",
		Long: `Test runs the Rego tests (*_test.rego) and the tables (*_test.yaml) of a policy. It says of each test that fails which condition failed
and what its values were, which rules no test has made true, and ends with status 1 if a test failed, if there is none, or if fewer rules
are covered than --threshold demands.

` + whereFrom + `

Tests ask about items of a catalog: that of --catalog, of the running gateway with --live or --admin, else catalog.json in the policy's
directory. Where there is none, a test must give the item's annotations; --no-catalog takes every item as one without any.

In Rego, package data.mcpgw.test builds the whole question:

  import data.mcpgw.test as mcp
  test_short_log if { policy.allow with input as mcp.call("reader", "git", "git_log", {"max_count": 5}) }

A table is a list of tests, each with who, one of calls, reads and gets, and what is expected: allow, deny, ask, hidden or shown.

  tests:
    - who: reader              # a role, or members of input.subject: {id: ann, roles: [reader], tenant: acme}
      calls: git/git_log       # SERVER/TOOL; reads: SERVER/URI, gets: SERVER/PROMPT
      with: {max_count: 51}
      expect: deny
      because: 1 to 50         # a part of a reason

Other members: name; endpoint, era, revision, client_address, round, time, labels, lost for the call; annotations, title, tags, digest,
drift, findings, claimed for the item. The time is 2026-01-01T12:00:00Z where a test does not say it. Tables ask the gateway's own engine
with the configured entry point; the gateway's check of arguments against the item's schema comes before, and is not part of it.`,
		Example: "  mcpgw policy test examples/quickstart/policy\n  mcpgw policy test --config mcpgw.yaml --live --threshold 90\n" +
			"  mcpgw policy test policy --run git --output junit > tests.xml",
		Args: between(0, 1),
		RunE: f.test,
	}
	f.flags(c)
	c.Flags().StringVar(&f.catalog, "catalog", "", "take items from this file, which mcpgw catalog --save has written")
	c.Flags().BoolVar(&f.live, "live", false, "take items from the gateway that runs with --config")
	c.Flags().StringVar(&f.admin, "admin", "", "take items from the gateway with this admin address")
	c.Flags().BoolVar(&f.plain, "no-catalog", false, "take no items from anywhere: each is one without annotations")
	c.MarkFlagsMutuallyExclusive("catalog", "live", "admin", "no-catalog")
	c.Flags().StringVar(&f.run, "run", "", "run only tests whose name matches this expression: data.PACKAGE.test_NAME, or FILE: NAME")
	c.Flags().Float64Var(&f.threshold, "threshold", 0, "fail if fewer percent of the rules are covered")
	c.Flags().DurationVar(&f.timeout, "timeout", 10*time.Second, "of one Rego test")
	c.Flags().StringVarP(&f.format, "output", "o", "text", "text, json or junit")
	c.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "name the tests that passed, too")
	return c
}

func (f *policyTest) test(c *cobra.Command, args []string) error {
	switch {
	case f.format != "text" && f.format != "json" && f.format != "junit":
		return fmt.Errorf("--output %s: want text, json or junit", f.format)
	case f.threshold < 0 || f.threshold > 100:
		return fmt.Errorf("--threshold %v: want a percentage from 0 to 100", f.threshold)
	case f.timeout <= 0:
		return fmt.Errorf("--timeout %v: want more than 0", f.timeout)
	}
	o, err := f.read(c.Context(), args)
	if err != nil {
		return err
	}
	r, err := policytest.Run(c.Context(), o)
	if err != nil {
		return err
	}
	switch f.format {
	case "text":
		err = r.WriteText(c.OutOrStdout(), f.verbose)
	case "json":
		enc := json.NewEncoder(c.OutOrStdout())
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	default:
		err = r.WriteJUnit(c.OutOrStdout())
	}
	switch {
	case err != nil:
		return err
	case len(r.Tests) == 0 && f.run != "":
		return fmt.Errorf("no test of %s matches --run %s", f.dir, f.run)
	case len(r.Tests) == 0:
		return fmt.Errorf("there are no tests in %s: write rules test_NAME in files *_test.rego, or tables in files *_test.yaml", f.dir)
	case r.Failed+r.Broken > 0:
		return fmt.Errorf("%d of %d tests did not pass", r.Failed+r.Broken, len(r.Tests))
	case !r.OK():
		return errors.New("every test is skipped")
	case r.Coverage.Percent < f.threshold:
		return fmt.Errorf("%.1f %% of the rules are covered, less than the threshold of %v %%", r.Coverage.Percent, f.threshold)
	}
	return nil
}

// read reads what is tested.
func (f *policyTest) read(ctx context.Context, args []string) (o policytest.Options, err error) {
	opts, _, err := f.options(args)
	if err != nil {
		return o, err
	}
	if info, err := os.Stat(f.dir); err == nil && !info.IsDir() {
		return o, fmt.Errorf("%s is a file: name the directory of the policy, and its tests with --run", f.dir)
	}
	o.Modules, o.Data, o.Entrypoint, o.Timeout, o.TestTimeout = opts.Modules, opts.Data, opts.Entrypoint, opts.Timeout, f.timeout
	if o.Tables, err = policytest.ReadTables(f.dir); err != nil {
		return o, err
	}
	if f.run != "" {
		if o.Run, err = regexp.Compile(f.run); err != nil {
			return o, fmt.Errorf("--run: %w", err)
		}
	}
	o.Questions, err = f.questions(ctx)
	return o, err
}

// questions finds the catalog.
func (f *policyTest) questions(ctx context.Context) (q policytest.Questions, err error) {
	switch {
	case f.plain:
		q.Plain = true
		return q, nil
	case f.live || f.admin != "":
		at := adminFlags{file: cmp.Or(f.config, defaultConfig), address: f.admin}
		saved := &catalog.Saved{}
		if err = at.ask(ctx, http.MethodGet, "/catalog/items", nil, saved); err != nil {
			return q, err
		}
		q.Catalog, err = saved.Directory()
		return q, err
	}
	name := f.catalog
	if name == "" {
		name = filepath.Join(f.dir, savedCatalog)
		if _, err := os.Stat(name); errors.Is(err, os.ErrNotExist) {
			return q, nil
		}
	}
	q.Catalog, err = readCatalog(name)
	return q, err
}

// fromHere is a path as seen from here, if it is below.
func fromHere(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	if r, err := filepath.Rel(wd, path); err == nil && r != ".." && !strings.HasPrefix(r, ".."+string(filepath.Separator)) {
		return r
	}
	return path
}
