package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/pkg/server"
)

func checkCommand() *cobra.Command {
	var src source
	var out output
	c := &cobra.Command{
		Use:   "check",
		Short: "Validate configuration, policies and the Envoy configuration made of them",
		Long: `Check reports every fault at once, each with file, line and what would be right, and ends with status 1 if there is any. Where an
Envoy binary is found, it validates the rendered configuration too.`,
		Example: "  mcpgw check --config mcpgw.yaml\n  mcpgw check --config mcpgw.yaml --output json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r := server.Check(c.Context(), src.load)
			err := out.print(c.OutOrStdout(), r, func(w io.Writer) error {
				for _, f := range r.Faults {
					fmt.Fprintln(w, "fault: "+f)
				}
				for _, f := range r.Warnings {
					fmt.Fprintln(w, "warning: "+f)
				}
				if len(r.Faults) == 0 {
					fmt.Fprintln(w, "ok: "+r.Envoy)
				}
				return nil
			})
			if err == nil && len(r.Faults) > 0 {
				err = errors.New("the configuration has faults")
			}
			return err
		},
	}
	src.flags(c)
	out.flag(c)
	return c
}
