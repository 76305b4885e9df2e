package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/pkg/admin"
	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/server"
)

func catalogCommand() *cobra.Command {
	var file, address string
	var out output
	c := &cobra.Command{
		Use:   "catalog",
		Short: "Show what a running gateway serves, and why something is not served",
		Long: `Catalog asks the gateway that runs with this configuration, at its admin address. The file need not be right, for a gateway that
refuses a changed file says here why; --admin serves where it cannot be read at all.`,
		Example: "  mcpgw catalog --config mcpgw.yaml\n  mcpgw catalog --config mcpgw.yaml --output json\n  mcpgw catalog --admin 127.0.0.1:9900",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			at, err := config.AdminAddress(file)
			if address != "" {
				at, err = config.ParseAddress(address)
			}
			if err != nil {
				return fmt.Errorf("admin.address: %w", err)
			}
			r, err := askCatalog(c, at)
			if err != nil {
				return err
			}
			return out.print(c.OutOrStdout(), r, func(w io.Writer) error { return printCatalog(w, r) })
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "mcpgw.yaml", "configuration file")
	c.Flags().StringVar(&address, "admin", "", "admin address of the gateway, instead of the one that the file names")
	out.flag(c)
	return c
}

// maxReport bounds what is read of a gateway's answer.
const maxReport = 256 << 20

func askCatalog(c *cobra.Command, a config.Address) (*server.CatalogReport, error) {
	req, err := http.NewRequestWithContext(c.Context(), http.MethodGet, "http://mcpgw/catalog", nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Timeout: 10 * time.Second, Transport: admin.Transport(a.Network, a.Address)}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("no gateway answers at %s: %w; start it with mcpgw run, or name its configuration with --config", a, err)
	}
	defer func() { _ = resp.Body.Close() }() // only read from
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReport))
	if err != nil {
		return nil, err
	}
	r := &server.CatalogReport{}
	if resp.StatusCode != http.StatusOK || json.Unmarshal(b, r) != nil {
		return nil, errors.New("what answers at " + a.String() + " is not mcpgw")
	}
	return r, nil
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
