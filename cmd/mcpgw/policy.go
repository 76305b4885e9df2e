package main

import "github.com/spf13/cobra"

func policyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "policy",
		Short: "Write, test, compare and ship policies",
		Args:  cobra.NoArgs,
		RunE:  help,
	}
	c.AddCommand(policyInitCommand(), policyCheckCommand(), policyFmtCommand(), policyTestCommand(), policyBundleCommand(), policyStatusCommand(),
		policyShadowCommand(), policyPromoteCommand(), policyReplayCommand())
	return c
}
