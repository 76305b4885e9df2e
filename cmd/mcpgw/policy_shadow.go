package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/pkg/decision"
	"github.com/mcpgw/mcpgw/pkg/server"
)

func policyShadowCommand() *cobra.Command {
	var at adminFlags
	var out output
	var reset bool
	var examples int
	c := &cobra.Command{
		Use:   "shadow",
		Short: "Show what the shadow policy would change, for whom and how often",
		Long: `Shadow asks the running gateway where the policy below policy.shadow and the one in force have ruled differently on the calls of its
clients, since the two were loaded. A ruling differs in its effect (allow, deny, ask), in what it demands besides (rewrite, redact, label),
or by being an error; the words of a refusal do not count. Examples hold their questions, in which what looks like a credential is hidden.

It needs an operator with the permission policy, or a gateway whose admin address is a unix socket.`,
		Example: "  mcpgw policy shadow --config mcpgw.yaml\n  mcpgw policy shadow --examples 3\n  mcpgw policy shadow --output json\n  mcpgw policy shadow --reset",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r := &server.ShadowReport{}
			method, path := http.MethodGet, "/policy/shadow"
			if reset {
				method, path = http.MethodPost, "/policy/shadow/reset"
			}
			if err := at.ask(c.Context(), method, path, nil, r); err != nil {
				return err
			}
			return out.print(c.OutOrStdout(), r, func(w io.Writer) error { return printShadow(w, r, examples) })
		},
	}
	at.flags(c)
	at.keyFlag(c)
	out.flag(c)
	c.Flags().BoolVar(&reset, "reset", false, "forget what was counted, and begin anew")
	c.Flags().IntVar(&examples, "examples", 1, "how many examples of each difference to show in text")
	return c
}

func printShadow(w io.Writer, r *server.ShadowReport, examples int) error {
	if r.ShadowReport == nil {
		return fmt.Errorf("the gateway told nothing; is it of another version?")
	}
	if r.Fault != "" {
		fmt.Fprintf(w, "The shadow policy that is configured could not be loaded:\n%s\n\n", r.Fault)
	}
	if r.Shadow == "" {
		if r.Fault == "" {
			fmt.Fprintln(w, "No shadow policy is configured: name one below policy.shadow.")
		}
		return nil
	}
	fmt.Fprintf(w, "policy %s, shadow %s\n%d rulings compared in %s: %d would change, %d could not be given, %d skipped\n",
		r.Policy, r.Shadow, r.Compared, r.Now.Sub(r.Since).Round(time.Second), r.Disagreed, r.Failed, r.Skipped)
	if len(r.Rows) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nTIMES\tACTION\tSERVER\tITEM\tNOW\tWOULD BE\tROLES\tCALLERS")
	for _, row := range r.Rows {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", row.Count, row.Action, row.Server, row.Item, row.Live, row.Shadow, callers(row.Roles), callers(row.Callers))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, row := range r.Rows {
		for _, s := range row.Samples[:min(max(examples, 0), len(row.Samples))] {
			fmt.Fprintf(w, "\n%s %s/%s at %s, decision %s\n  now       %s\n  would be  %s\n  question  %s\n",
				row.Action, row.Server, row.Item, s.Time.UTC().Format(time.RFC3339), s.DecisionID, s.Live, s.Shadow, s.Question)
		}
	}
	return nil
}

// callers words who asked, the most frequent first.
func callers(list []decision.Caller) string {
	const most = 4
	var out []string
	for i, c := range list {
		if i == most {
			out = append(out, fmt.Sprintf("and %d more", len(list)-most))
			break
		}
		out = append(out, fmt.Sprintf("%s %d", c.Name, c.Count))
	}
	return strings.Join(out, ", ")
}
