package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/pkg/server"
)

func renderCommand() *cobra.Command {
	var src source
	var static bool
	c := &cobra.Command{
		Use:   "render",
		Short: "Print the Envoy configuration for mcpgw serve",
		Long: `Render prints the bootstrap of an Envoy that takes everything else from mcpgw serve over xDS. With --static it prints the whole
configuration, for an Envoy without xDS: then every change of servers needs a new file. Secrets stand in it as names of files and
variables that Envoy reads, never as text; the one exception is the token that keeps other processes off Envoy's egress socket, so
keep the file of --static private.`,
		Example: "  mcpgw render --config mcpgw.yaml > envoy.yaml\n  mcpgw render --config mcpgw.yaml --static > envoy.yaml",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := src.load()
			if err != nil {
				return err
			}
			if cfg.Proto.Envoy.GetRunDir() == "" {
				return errors.New("envoy.run_dir is not set: an Envoy that someone else runs must know where the sockets are; add envoy: {run_dir: /run/mcpgw}")
			}
			b, err := server.Render(cfg, static)
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(b)
			return err
		},
	}
	src.flags(c)
	c.Flags().BoolVar(&static, "static", false, "print the whole configuration instead of an xDS bootstrap")
	return c
}
