package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/server"
)

// source is where the configuration comes from.
type source struct{ file, mcp string }

func (s *source) flags(c *cobra.Command) {
	c.Flags().StringVarP(&s.file, "config", "c", "mcpgw.yaml", "configuration file")
	c.Flags().StringVar(&s.mcp, "mcp-config", "", "take the servers from a file in the mcpServers form of desktop clients, beside those of --config")
}

func (s *source) load() (*config.Config, error) {
	if s.mcp == "" {
		return config.Load(s.file)
	}
	return config.LoadWith(s.file, s.mcp)
}

func runCommand() *cobra.Command {
	var src source
	c := &cobra.Command{
		Use:   "run",
		Short: "Start the gateway and an Envoy of its own",
		Long: `Run starts everything on this machine: Envoy as a child, the local MCP servers, the gateway. When all of it serves, one line on
standard output begins "ready" and holds the URLs. The log goes to standard error. SIGTERM or Ctrl-C drains and ends all of it;
SIGHUP, or a changed file, reloads the configuration. A faulty configuration changes nothing and is shown by mcpgw catalog.

Envoy is $ENVOY, else the one below .tools/, else the one in PATH.`,
		Example: "  mcpgw run\n  mcpgw run --config examples/quickstart/mcpgw.yaml\n  mcpgw run --config base.yaml --mcp-config claude_desktop_config.json",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return serve(c, &src, true) },
	}
	src.flags(c)
	return c
}

func serveCommand() *cobra.Command {
	var src source
	c := &cobra.Command{
		Use:   "serve",
		Short: "Start the gateway beside an Envoy that someone else runs",
		Long: `Serve is run without Envoy: it opens the sockets in envoy.run_dir and waits for an Envoy that was started with what mcpgw render
prints. That Envoy may start before or after, and outlives a restart of mcpgw.`,
		Example: "  mcpgw render --config mcpgw.yaml > envoy.yaml\n  mcpgw serve --config mcpgw.yaml &\n  envoy -c envoy.yaml",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return serve(c, &src, false) },
	}
	src.flags(c)
	return c
}

func serve(c *cobra.Command, src *source, envoy bool) error {
	first, err := src.load()
	if err != nil {
		return err
	}
	l := first.Proto.Telemetry.Log
	log, closeLog := newLog(os.Stderr, l.Level, l.Format)
	defer closeLog()
	return server.Run(c.Context(), server.Options{
		Load: src.load, Version: version(), Log: log, Out: c.OutOrStdout(), Envoy: envoy,
	})
}

func versionCommand() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use: "version", Short: "Print the version of mcpgw and of the Envoy it is made for", Example: "  mcpgw version --output json", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v := struct {
				Version string `json:"version"`
				Envoy   string `json:"envoy"`
			}{version(), envoyVersion()}
			return out.print(c.OutOrStdout(), v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "mcpgw %s (Envoy %s)\n", v.Version, v.Envoy)
				return err
			})
		},
	}
	out.flag(c)
	return c
}
