package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/pkg/approval"
	"github.com/mcpgw/mcpgw/pkg/server"
)

func approvalsCommand() *cobra.Command {
	var at adminFlags
	var out output
	c := &cobra.Command{
		Use:   "approvals",
		Short: "List the calls that wait for an operator's confirmation",
		Long: `Approvals lists the calls that an ask rule has stopped and whose client cannot ask its user: who wants to do what, with which
arguments, and why the policy asks. Values that look like credentials are masked, long arguments are cut. mcpgw approve answers.`,
		Example: "  mcpgw approvals --config mcpgw.yaml\n  mcpgw approvals --admin 127.0.0.1:9900 --output json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r := &server.Approvals{}
			if err := at.ask(c.Context(), http.MethodGet, "/approvals", nil, r); err != nil {
				return err
			}
			return out.print(c.OutOrStdout(), r, func(w io.Writer) error { return printApprovals(w, r) })
		},
	}
	at.flags(c)
	at.keyFlag(c)
	out.flag(c)
	return c
}

func printApprovals(w io.Writer, r *server.Approvals) error {
	if len(r.Approvals) == 0 {
		_, err := fmt.Fprintln(w, "No call waits for an operator.")
		return err
	}
	for n, q := range r.Approvals {
		if n > 0 {
			fmt.Fprintln(w)
		}
		printQuestion(w, &q, r.Now)
	}
	return nil
}

// printQuestion shows one question. The gateway has escaped what is of foreign origin.
func printQuestion(w io.Writer, q *approval.Question, now time.Time) {
	state := string(q.State)
	if q.By != "" {
		state += " by " + q.By
	}
	fmt.Fprintf(w, "%s  %s, asked %s ago, expires in %s\n", q.ID, state, ago(now.Sub(q.Created)), ago(q.Expires.Sub(now)))
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "  %-10s %s\n", name, value)
		}
	}
	who := q.Type + " " + q.Principal
	for _, more := range []struct{ name, value string }{{"tenant", q.Tenant}, {"client", q.Client}, {"from", q.Address}} {
		if more.value != "" {
			who += ", " + more.name + " " + more.value
		}
	}
	line("who", who)
	line("what", q.Action+" "+q.Item+" of server "+q.Server+" at endpoint "+q.Endpoint)
	line("uri", q.URI)
	line("arguments", q.Arguments)
	line("why", strings.Join(q.Reasons, "; "))
}

func ago(d time.Duration) string { return max(d, 0).Round(time.Second).String() }

func approveCommand() *cobra.Command {
	var at adminFlags
	var out output
	var deny bool
	c := &cobra.Command{
		Use:   "approve ID",
		Short: "Let a call pass that waits for an operator, or deny it",
		Long: `Approve answers a question that mcpgw approvals lists. A yes lets the next equal call of the same caller pass, once and before it
expires: the same tool with the same arguments under the same policy. With --deny such calls are refused until the answer expires. An
answer that was not used yet can be changed. The gateway's log tells who answered.`,
		Example: "  mcpgw approve XRH2ZCEMBVQUNLQ2KIXJ5ZLDLE --config mcpgw.yaml\n  mcpgw approve --deny XRH2ZCEMBVQUNLQ2KIXJ5ZLDLE",
		Args:    between(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if args[0] == "" || strings.ContainsAny(args[0], "/.") {
				return fmt.Errorf("%q is no ID; mcpgw approvals lists those that wait", args[0])
			}
			q := &approval.Question{}
			if err := at.ask(c.Context(), http.MethodPost, "/approvals/"+url.PathEscape(args[0]), server.Approve{Deny: deny}, q); err != nil {
				return err
			}
			return out.print(c.OutOrStdout(), q, func(w io.Writer) error {
				verb := "Approved: the next equal call passes, once, until "
				if deny {
					verb = "Denied: equal calls are refused until "
				}
				fmt.Fprintln(w, verb+q.Expires.Local().Format(time.DateTime)+".")
				printQuestion(w, q, time.Now())
				return nil
			})
		},
	}
	at.flags(c)
	at.keyFlag(c)
	out.flag(c)
	c.Flags().BoolVar(&deny, "deny", false, "refuse the call instead")
	return c
}
