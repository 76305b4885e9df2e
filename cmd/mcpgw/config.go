package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/pkg/config"
)

func configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Work on configuration files", Args: cobra.NoArgs, RunE: help}
	c.AddCommand(&cobra.Command{
		Use:   "import FILE",
		Short: "Print the servers of a desktop client's mcpServers file as mcpgw configuration",
		Long: `Import reads the JSON form in which desktop clients name their MCP servers and prints a configuration for this machine alone: those
servers, one loopback listener without credentials, policies in ./policies. What has no place there is said on standard error.`,
		Example: "  mcpgw config import claude_desktop_config.json > mcpgw.yaml",
		Args:    between(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			data, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			cfg, warnings, err := config.ImportMCPServers(data)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			for _, w := range warnings {
				fmt.Fprintln(c.ErrOrStderr(), "warning: "+w)
			}
			b, err := config.Marshal(cfg)
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(b)
			return err
		},
	})
	return c
}
