// Command mcpgw is the MCP gateway beside Envoy. Each subcommand has a file of its own.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "mcpgw: "+err.Error())
		stop()
		os.Exit(1) //nolint:gocritic // stop has run
	}
}

// root is the command with all its subcommands.
func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "mcpgw",
		Short: "The MCP gateway for people who already trust Envoy",
		Long: `mcpgw puts many MCP servers behind one endpoint. Envoy terminates HTTP, balances, retries and traces; mcpgw reads each
message, asks Rego whether this caller may do this with these arguments, and tells Envoy where it goes.`,
		SilenceUsage: true, SilenceErrors: true,
		Args: cobra.NoArgs,
		RunE: help,
	}
	c.AddCommand(runCommand(), serveCommand(), renderCommand(), checkCommand(), catalogCommand(), policyCommand(), explainCommand(), approvalsCommand(), approveCommand(), keyCommand(), configCommand(), versionCommand())
	c.CompletionOptions.HiddenDefaultCmd = true
	return c
}

// help is what a command does that only holds others. A command that is run refuses words it does not know; one that is not says
// nothing and ends well.
func help(c *cobra.Command, _ []string) error { return c.Help() }

// between is cobra.RangeArgs in words that name the arguments: those of Use.
func between(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if n := len(args); n < least || n > most {
			want := fmt.Sprint(least)
			switch {
			case least == 0:
				want = fmt.Sprintf("at most %d", most)
			case least < most:
				want = fmt.Sprintf("%d to %d", least, most)
			}
			usage := strings.TrimSuffix(c.UseLine(), " [flags]")
			return fmt.Errorf("%d arguments, want %s: %s; --help has examples", n, want, usage)
		}
		return nil
	}
}

// version is the module's, as the Go toolchain recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "dev"
	}
	return info.Main.Version
}
