package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/identity"
)

func keyCommand() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Make API keys", Args: cobra.NoArgs, RunE: help}
	var out output
	n := &cobra.Command{
		Use:   "new",
		Short: "Make an API key and the digest that the configuration holds",
		Long: `New prints a fresh API key and its digest. Give the key to its user; it is stored nowhere. Put the digest under
authentication.api_keys.`,
		Example: "  mcpgw key new\n  mcpgw key new --output json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			key, _ := identity.NewKey()
			v := struct {
				Key    string `json:"key"`
				Digest string `json:"digest"`
			}{key, config.KeyDigest(key)} // in the form that the configuration takes
			return out.print(c.OutOrStdout(), v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "key:    %s\ndigest: %s\n", v.Key, v.Digest)
				return err
			})
		},
	}
	out.flag(n)
	c.AddCommand(n)
	return c
}
