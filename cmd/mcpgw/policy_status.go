package main

import (
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/pkg/server"
)

func policyStatusCommand() *cobra.Command {
	var at adminFlags
	var out output
	c := &cobra.Command{
		Use:   "status",
		Short: "Show which policy a running gateway decides by, and how it stands with its bundle",
		Long: `Status asks the gateway that runs with this configuration: the revision that stands in every span and log line, where the policy comes
from, the bundle's own revision and ETag, when it came into force, when it was last found to be the newest, and what went wrong since. Over
TCP it needs the key of an operator who may "policy".`,
		Example: "  mcpgw policy status --config mcpgw.yaml\n  mcpgw policy status --config mcpgw.yaml --output json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r := &server.PolicyStatus{}
			if err := at.ask(c.Context(), http.MethodGet, "/policy/status", nil, r); err != nil {
				return err
			}
			return out.print(c.OutOrStdout(), r, func(w io.Writer) error { return printStatus(w, r) })
		},
	}
	at.flags(c)
	at.keyFlag(c)
	out.flag(c)
	return c
}

func printStatus(w io.Writer, r *server.PolicyStatus) error {
	if r.Fault != "" {
		fmt.Fprintf(w, "The last change of the configuration was refused; version %s stays in force:\n%s\n\n", r.Configuration, r.Fault)
	}
	if r.Live == nil {
		_, err := fmt.Fprintln(w, "The gateway is starting.")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, p := range []struct {
		name  string
		state *server.PolicyState
	}{{"live", r.Live}, {"shadow", r.Shadow}} {
		if p.state == nil {
			continue
		}
		line := func(name, value string) {
			if value != "" {
				fmt.Fprintf(t, "%s %s\t%s\n", p.name, name, value)
			}
		}
		s := p.state.Source
		policy := p.state.Policy
		if policy == "" {
			policy = "none yet"
		}
		line("policy", policy)
		line("source", s.Source)
		if p.state.Bundle {
			line("revision", s.Revision)
			line("etag", s.ETag)
			signed := "no"
			if s.Signed {
				signed = "yes, verified"
			}
			line("signed", signed)
		}
		line("in force since", moment(s.Activated))
		line("confirmed", moment(s.Confirmed))
		if s.Error != "" {
			line("error", s.Error)
			line("error since", moment(s.ErrorTime))
		}
		if s.Failures > 0 {
			line("failures", fmt.Sprint(s.Failures))
		}
	}
	return t.Flush()
}

// moment words a time, nothing for one that has not come.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339)
}
