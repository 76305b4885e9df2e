package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mcpgw/mcpgw/pkg/decision"
	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/server"
	configv1 "github.com/mcpgw/mcpgw/proto/mcpgw/config/v1"
)

// newPolicy names a policy by flags: a directory with data files, or a bundle.
type newPolicy struct {
	directory, bundle, entry string
	data                     []string
	key                      bundleKey
}

func (p *newPolicy) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&p.bundle, "bundle", "", "the new policy as an OPA bundle: a directory or a .tar.gz file")
	f.StringVar(&p.directory, "policy", "", "the new policy as a directory of .rego files, instead of a bundle")
	f.StringArrayVar(&p.data, "data", nil, "a data file of the directory, JSON or YAML, instead of its own data.yaml or data.json; may be repeated")
	f.StringVar(&p.entry, "entry-point", "", "the rule that gives the ruling (default: mcpgw.main.ruling)")
	p.key.flags(c)
	c.MarkFlagsMutuallyExclusive("bundle", "policy")
	c.MarkFlagsMutuallyExclusive("bundle", "data")
	c.MarkFlagsMutuallyExclusive("policy", "key")
	c.MarkFlagsOneRequired("bundle", "policy")
}

func (p *newPolicy) load(c *cobra.Command) (*opa.Engine, error) {
	v, err := p.key.verification(c)
	if err != nil {
		return nil, err
	}
	conf := &configv1.Policy{Directory: p.directory, DataFiles: p.data, EntryPoint: p.entry, Timeout: durationpb.New(time.Second)}
	switch {
	case p.bundle != "":
		conf.Bundle = &configv1.Bundle{Source: &configv1.Bundle_Path{Path: p.bundle}}
		if v != nil {
			conf.Bundle.Verification = &configv1.Verification{KeyFile: v.KeyFile, KeyId: v.KeyID, Algorithm: v.Algorithm, Scope: v.Scope}
		}
	case len(p.data) == 0: // as the other commands that take a directory
		conf.DataFiles = ownData(p.directory)
	}
	e, err := server.LoadPolicy(conf)
	return e, withKey(err, v)
}

func policyReplayCommand() *cobra.Command {
	var logs []string
	var next newPolicy
	var out output
	var limit, path string
	var most int
	c := &cobra.Command{
		Use:   "replay",
		Short: "Ask a new policy the questions of a decision log, and list what changes",
		Long: `Replay reads decision logs (JSON lines or OPA's arrays, gzipped or not; a directory with all files in it; - for standard input), asks the
new policy each question again, and lists the rulings that change, by cause: another effect, other demands, or an error. It ends with status
1 if more change than --budget allows, or if nothing could be compared.

The new policy is a directory, with the data.yaml, data.yml or data.json in it if --data names no other, or a bundle, with --key if it is
signed.

Entries in which something was masked that the new policy reads are not compared but counted, and so is what cannot be read. Rules that
look at the clock by time.now_ns see today's; those that look at input.context.time see that of the call.`,
		Example: "  mcpgw policy replay --log decisions.log --policy next\n" +
			"  mcpgw policy replay --log logs/ --bundle next.tar.gz --key public.pem --budget 0.5%\n" +
			"  mcpgw policy replay --log decisions.log --policy next --data grants.json --output json",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			budget, err := parseBudget(limit)
			if err != nil {
				return err
			}
			engine, err := next.load(c)
			if err != nil {
				return fmt.Errorf("the new policy: %w", err)
			}
			r, err := replayLogs(c.Context(), c.ErrOrStderr(), c.InOrStdin(), logs, decision.ReplayOptions{Engine: engine, MayRead: engine.MayRead, Path: strings.ReplaceAll(strings.Trim(path, "/"), ".", "/")})
			if err != nil {
				return err
			}
			v := struct {
				*decision.ReplayReport
				Budget      string `json:"budget"`
				Within      bool   `json:"within_budget"`
				Evaluations uint64 `json:"evaluations"` // of Rego; equal questions are evaluated once
			}{r, limit, budget.holds(r), engine.Evaluations()}
			if err := out.print(c.OutOrStdout(), v, func(w io.Writer) error { return printReplay(w, r, engine.Evaluations(), most) }); err != nil {
				return err
			}
			switch {
			case r.Compared == 0:
				return errors.New("no ruling could be compared; name the log of policy.decision_log with --log")
			case !v.Within:
				return fmt.Errorf("%d of %d rulings change, more than the budget of %s; look at the causes above, or allow more with --budget", r.Changed, r.Compared, limit)
			}
			return nil
		},
	}
	next.flags(c)
	out.flag(c)
	c.Flags().StringArrayVar(&logs, "log", nil, "file or directory of decision logs, or -; may be repeated")
	c.Flags().StringVar(&limit, "budget", "0", "how many rulings may change: a number, or a share of those compared as in 0.5%")
	c.Flags().StringVar(&path, "path", "", "only entries of this entry point, as mcpgw/main/ruling")
	c.Flags().IntVar(&most, "places", 10, "how many places of each cause to show in text")
	_ = c.MarkFlagRequired("log") // it is there
	return c
}

// replayLogs reads every log, and says on standard error how far it is when that takes long.
func replayLogs(ctx context.Context, tell io.Writer, stdin io.Reader, logs []string, o decision.ReplayOptions) (*decision.ReplayReport, error) {
	var files []string
	for _, log := range logs {
		if log == "-" {
			files = append(files, log)
			continue
		}
		found, err := decision.LogFiles(log)
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	r := decision.NewReplay(ctx, o)
	done := make(chan struct{})
	told := make(chan struct{})
	go func() {
		defer close(told)
		begin := time.Now()
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				n := r.Progress()
				fmt.Fprintf(tell, "%d lines of %d files, %.0f a second\n", n, len(files), float64(n)/time.Since(begin).Seconds())
			case <-done:
				return
			}
		}
	}()
	var err error
	for _, file := range files {
		if file == "-" {
			err = r.Read(ctx, "standard input", stdin)
		} else {
			err = r.ReadFile(ctx, file)
		}
		if err != nil {
			break
		}
	}
	report := r.Report()
	close(done)
	<-told
	return report, err
}

// budget is how many changes are fine: a number, or a share.
type budget struct {
	most  uint64
	share float64 // used if it is not negative
}

func parseBudget(s string) (budget, error) {
	if text, ok := strings.CutSuffix(s, "%"); ok {
		share, err := strconv.ParseFloat(text, 64)
		if err != nil || !(share >= 0 && share <= 100) {
			return budget{}, fmt.Errorf("--budget %s: want a share from 0%% to 100%%", s)
		}
		return budget{share: share / 100}, nil
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return budget{}, fmt.Errorf("--budget %s: want a number such as 10, or a share such as 0.5%%", s)
	}
	return budget{most: n, share: -1}, nil
}

func (b budget) holds(r *decision.ReplayReport) bool {
	if b.share < 0 {
		return r.Changed <= b.most
	}
	return float64(r.Changed) <= b.share*float64(r.Compared)
}

func printReplay(w io.Writer, r *decision.ReplayReport, evaluations uint64, most int) error {
	fmt.Fprintf(w, "policy %s: %d of %d rulings change (%d entries, %d evaluations, %s)\n", r.Revision, r.Changed, r.Compared, r.Entries, evaluations, r.Took.Round(time.Millisecond))
	if !r.From.IsZero() {
		fmt.Fprintf(w, "rulings from %s to %s, under %d revisions\n", r.From.UTC().Format(time.RFC3339), r.To.UTC().Format(time.RFC3339), len(r.Revisions))
	}
	for _, line := range []struct {
		n    uint64
		what string
	}{
		{r.Reworded, "stay as they are, for other reasons"},
		{r.Failed, "cannot be given by the new policy: it fails"},
		{r.Masked, "were not compared: a part that the new policy reads, or the ruling, was masked"},
		{r.OtherPath, "were not compared: of another entry point"},
		{r.Unusable, "entries cannot be read"},
		{r.Foreign, "lines are no decisions"},
		{r.Truncated, "files end within an entry"},
	} {
		if line.n > 0 {
			fmt.Fprintf(w, "%d %s\n", line.n, line.what)
		}
	}
	for _, f := range r.Faults {
		fmt.Fprintf(w, "%s:%d: %s\n", f.File, f.Line, f.Message)
	}
	for _, c := range r.Causes {
		fmt.Fprintf(w, "\n%d times: %s -> %s\n", c.Count, rulingText(c.Before), rulingText(c.After))
		t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		fmt.Fprintln(t, "  TIMES\tACTION\tSERVER\tITEM\tROLES\tDECISIONS")
		for i, p := range c.Where {
			if i == max(most, 1) {
				fmt.Fprintf(t, "  and %d more places\n", len(c.Where)-i)
				break
			}
			fmt.Fprintf(t, "  %d\t%s\t%s\t%s\t%s\t%s\n", p.Count, p.Action, p.Server, p.Item, p.Roles, strings.Join(p.Examples, " "))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func rulingText(r decision.ReplayRuling) string {
	if r.Why == "" {
		return r.Ruling
	}
	return r.Ruling + " (" + r.Why + ")"
}
