package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/server"
)

func catalogCommand() *cobra.Command {
	var at adminFlags
	var out output
	var save string
	c := &cobra.Command{
		Use:   "catalog",
		Short: "Show what a running gateway serves, and why something is not served",
		Long: `Catalog asks the gateway that runs with this configuration, at its admin address. The file need not be right, for a gateway that
refuses a changed file says here why; --admin serves where it cannot be read at all.

With --save it writes every item, as policies see it, to a file that mcpgw policy test takes as --catalog.`,
		Example: "  mcpgw catalog --config mcpgw.yaml\n  mcpgw catalog --config mcpgw.yaml --output json\n  mcpgw catalog --admin 127.0.0.1:9900\n  mcpgw catalog --save policy/catalog.json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if save != "" {
				return saveCatalog(c, &at, save)
			}
			r := &server.CatalogReport{}
			if err := at.ask(c.Context(), http.MethodGet, "/catalog", nil, r); err != nil {
				return err
			}
			return out.print(c.OutOrStdout(), r, func(w io.Writer) error { return printCatalog(w, r) })
		},
	}
	at.flags(c)
	out.flag(c)
	c.Flags().StringVar(&save, "save", "", "write all items, as policies see them, to this file")
	c.AddCommand(catalogDiffCommand(), catalogPinCommand())
	return c
}

// saveCatalog writes what the gateway offers to a file.
func saveCatalog(c *cobra.Command, at *adminFlags, file string) error {
	saved := &catalog.Saved{}
	if err := at.ask(c.Context(), http.MethodGet, "/catalog/items", nil, saved); err != nil {
		return err
	}
	text, err := json.MarshalIndent(saved, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil { //nolint:gosec // names and descriptions, no secrets: it goes beside the policy
		return err
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %d items\n", file, len(saved.Items))
	return err
}

// maxCatalog bounds a saved catalog.
const maxCatalog = 256 << 20

// readCatalog reads what saveCatalog wrote.
func readCatalog(file string) (*catalog.Directory, error) {
	in, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }() // only read from
	text, err := io.ReadAll(io.LimitReader(in, maxCatalog+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxCatalog {
		return nil, fmt.Errorf("%s: more than %d MiB", file, maxCatalog>>20)
	}
	saved, err := catalog.ReadSaved(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; write one with mcpgw catalog --save", file, err)
	}
	return saved, nil
}

func printCatalog(w io.Writer, r *server.CatalogReport) error {
	if r.Fault != "" {
		fmt.Fprintf(w, "The last change of the configuration was refused; version %s stays in force:\n%s\n\n", r.Configuration, r.Fault)
	}
	if r.Report == nil {
		_, err := fmt.Fprintln(w, "The gateway is starting.")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "SERVER\tERAS\tOFFERS\tHEALTH")
	for _, s := range r.Servers {
		health := s.Health
		if s.Degraded != "" {
			health += ": " + s.Degraded
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", s.Server, strings.Join(s.Eras, " "), counts(s.Items), health)
	}
	fmt.Fprintln(t, "\nENDPOINT\tSERVER\tMODERN CLIENTS SEE\tLEGACY CLIENTS SEE")
	for _, e := range r.Endpoints {
		for _, s := range e.Served {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", e.Path, s.Server, counts(s.Modern), counts(s.Legacy))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, s := range r.Servers {
		if n := s.Drift[catalog.New] + s.Drift[catalog.Changed]; n > 0 {
			fmt.Fprintf(w, "\ndrift: %d new and %d changed items of %s: mcpgw catalog diff shows them", s.Drift[catalog.New], s.Drift[catalog.Changed], s.Server)
		}
		for _, f := range s.Findings {
			fmt.Fprintf(w, "\nfinding: %s %s of %s: %s", f.Kind, visible(f.Name), s.Server, strings.Join(f.Findings, ", "))
		}
		for _, q := range s.Quarantined {
			fmt.Fprintf(w, "\nnot served: %s %s of %s: %s", q.Kind, q.Name, q.Server, q.Reason)
		}
	}
	for _, e := range r.Endpoints {
		for _, q := range e.Quarantined {
			fmt.Fprintf(w, "\nnot served at %s: %s %s of %s: %s", e.Path, q.Kind, q.Name, q.Server, q.Reason)
		}
		for _, l := range e.LeftOut {
			fmt.Fprintf(w, "\nnot shown to modern clients at %s: %d %ss of %s: %s", e.Path, l.Items, l.Kind, l.Server, l.Reason)
		}
	}
	_, err := fmt.Fprintln(w)
	return err
}

// counts words how many items of each kind there are.
func counts(items map[catalog.Kind]int) string {
	var out []string
	for _, k := range catalog.Kinds {
		if n := items[k]; n == 1 {
			out = append(out, "1 "+k.String())
		} else if n > 1 {
			out = append(out, fmt.Sprintf("%d %ss", n, k))
		}
	}
	if len(out) == 0 {
		return "nothing"
	}
	return strings.Join(out, ", ")
}
