package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/envoy"
)

// output is the --output flag of commands that print data.
type output struct{ format string }

func (o *output) flag(c *cobra.Command) {
	c.Flags().StringVarP(&o.format, "output", "o", "text", "text or json")
}

// print writes v as JSON, or as text does.
func (o *output) print(w io.Writer, v any, text func(io.Writer) error) error {
	switch o.format {
	case "text":
		return text(w)
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	return fmt.Errorf("--output %s: want text or json", o.format)
}

func envoyVersion() string { return envoy.Version() }
