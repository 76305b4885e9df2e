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

// flag adds the flag. It is read before the command does anything: nothing is approved, promoted or written and then called a mistake.
func (o *output) flag(c *cobra.Command) { o.named(c, "o") }

// named is flag with another short form than -o, or with none.
func (o *output) named(c *cobra.Command, short string) {
	c.Flags().StringVarP(&o.format, "output", short, "text", "text or json")
	c.PreRunE = func(*cobra.Command, []string) error {
		if o.format != "text" && o.format != "json" {
			return fmt.Errorf("--output %s: want text or json", o.format)
		}
		return nil
	}
}

// print writes v as JSON, or as text does.
func (o *output) print(w io.Writer, v any, text func(io.Writer) error) error {
	if o.format != "json" {
		return text(w)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func envoyVersion() string { return envoy.Version() }
