package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/server"
)

// pinFlags say which lock is meant, and which of its items.
type pinFlags struct {
	at      adminFlags
	file    string
	servers []string
	items   []string
}

func (f *pinFlags) flags(c *cobra.Command) {
	f.at.flags(c)
	f.at.keyFlag(c)
	c.Flags().StringVar(&f.file, "file", "", "lock file (default: pins.file of the gateway's configuration)")
	c.Flags().StringSliceVar(&f.servers, "server", nil, "only items of this server; more than once for several")
	c.Flags().StringSliceVar(&f.items, "item", nil, "only this item, as SERVER/NAME; more than once for several")
}

// pins is a lock beside what servers offer now.
type pins struct {
	file        string
	there       bool // the file is
	lock        *catalog.Lock
	findings    []catalog.Offer // chosen items with findings
	differences []catalog.Difference
	unanswered  []string // chosen servers of which nothing is known
}

// PinsDiff is what `mcpgw catalog diff --output json` prints, and `pin` with what it has done about it.
type PinsDiff struct {
	File        string               `json:"file"`
	Items       int                  `json:"items"` // in the lock
	Differences []catalog.Difference `json:"differences"`
	Unanswered  []string             `json:"unanswered,omitempty"` // servers that have never answered: nothing is known of them
	Findings    []catalog.Offer      `json:"findings,omitempty"`   // offered items whose own words look wrong
}

func (f *pinFlags) load(ctx context.Context) (*pins, error) {
	var r server.PinsReport
	if err := f.at.ask(ctx, http.MethodGet, "/catalog/pins", nil, &r); err != nil {
		return nil, err
	}
	p := &pins{file: f.file, there: true}
	if p.file == "" {
		p.file = r.File
	}
	if p.file == "" {
		return nil, errors.New("no lock file is configured; name one with --file, or write `pins: { file: mcpgw.lock }` into the configuration")
	}
	var err error
	p.lock, err = server.ReadLock(p.file)
	if errors.Is(err, os.ErrNotExist) {
		p.lock, p.there, err = catalog.NewLock(), false, nil
	}
	if err != nil {
		return nil, err
	}
	silent := map[string]bool{}
	var known []string
	for _, s := range r.Servers {
		known = append(known, s.Server)
		silent[s.Server] = !s.Answered
	}
	for _, s := range f.servers {
		if !slices.Contains(known, s) && !slices.Contains(p.lock.Servers(), s) {
			return nil, fmt.Errorf("there is no server %q; there are: %s", s, strings.Join(known, ", "))
		}
	}
	all := p.lock.Compare(r.Items, func(s string) bool { return !silent[s] })
	for _, d := range all {
		if f.chosen(d.Server, d.Name) {
			p.differences = append(p.differences, d)
		}
	}
	for _, id := range f.items {
		is := func(server, name string) bool { return server+"/"+name == id }
		if !slices.ContainsFunc(r.Items, func(o catalog.Offer) bool { return is(o.Server, o.Name) }) &&
			!slices.ContainsFunc(all, func(d catalog.Difference) bool { return is(d.Server, d.Name) }) {
			return nil, fmt.Errorf("there is no item %q; write SERVER/NAME, with the server's own name of the item", id)
		}
	}
	for _, o := range r.Items {
		if len(o.Findings) > 0 && f.chosen(o.Server, o.Name) {
			p.findings = append(p.findings, o)
		}
	}
	for _, s := range known {
		if silent[s] && (len(f.servers)+len(f.items) == 0 || slices.Contains(f.servers, s)) {
			p.unanswered = append(p.unanswered, s)
		}
	}
	return p, nil
}

func (f *pinFlags) chosen(server, name string) bool {
	return len(f.servers)+len(f.items) == 0 || slices.Contains(f.servers, server) || slices.Contains(f.items, server+"/"+name)
}

func (p *pins) result() PinsDiff {
	d := PinsDiff{File: p.file, Items: p.lock.Len(), Differences: p.differences, Unanswered: p.unanswered, Findings: p.findings}
	if d.Differences == nil {
		d.Differences = []catalog.Difference{}
	}
	return d
}

func (p *pins) print(w io.Writer) error {
	for _, d := range p.differences {
		if err := printDifference(w, d); err != nil {
			return err
		}
	}
	for _, o := range p.findings {
		fmt.Fprintf(w, "finding: %s %s/%s: %s\n", o.Kind, visible(o.Server), visible(o.Name), strings.Join(o.Findings, ", "))
	}
	for _, s := range p.unanswered {
		fmt.Fprintf(w, "not known: server %s has not answered yet\n", s)
	}
	return nil
}

// count words how many differences there are.
func (p *pins) count() string {
	n := map[string]int{}
	for _, d := range p.differences {
		n[d.Drift]++
	}
	var out []string
	for _, drift := range []string{catalog.New, catalog.Changed, catalog.Removed} {
		if n[drift] > 0 {
			out = append(out, fmt.Sprintf("%d %s", n[drift], drift))
		}
	}
	return strings.Join(out, ", ")
}

func catalogDiffCommand() *cobra.Command {
	var f pinFlags
	var out output
	c := &cobra.Command{
		Use:   "diff",
		Short: "Show how the servers' items differ from the lock file",
		Long: `Diff holds what the running gateway's servers offer against the lock file that mcpgw catalog pin wrote, and ends with status 1 if
anything is new, changed or removed, or if a server has not answered yet. Names, titles, descriptions, schemas, annotations and all other
members count; _meta, icons, a resource's size and when it was modified do not. Characters that cannot be seen are spelled out.`,
		Example: "  mcpgw catalog diff --config mcpgw.yaml\n  mcpgw catalog diff --server git --output json\n  mcpgw catalog diff --file reviewed.lock",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := f.load(c.Context())
			if err != nil {
				return err
			}
			if err := out.print(c.OutOrStdout(), p.result(), p.print); err != nil {
				return err
			}
			switch {
			case len(p.differences) > 0:
				return fmt.Errorf("the catalog differs from %s: %s; mcpgw catalog pin agrees to it", p.file, p.count())
			case len(p.unanswered) > 0:
				return errors.New("some servers have not answered, so nothing is known of their items; ask again when they do")
			}
			return nil
		},
	}
	f.flags(c)
	out.flag(c)
	return c
}

func catalogPinCommand() *cobra.Command {
	var f pinFlags
	var out output
	c := &cobra.Command{
		Use:   "pin",
		Short: "Write what the servers offer now into the lock file",
		Long: `Pin asks the running gateway what its servers offer, shows how that differs from the lock file, and writes it there: you agree to it.
A gateway with that file in pins.file reads it at once. With --server or --item the rest of the file stays as it is. What is pinned of a
server that has not answered stays, too. Look at the differences first with mcpgw catalog diff, and keep the file under version control.`,
		Example: "  mcpgw catalog pin --config mcpgw.yaml\n  mcpgw catalog pin --server git\n  mcpgw catalog pin --item git/git_log --file reviewed.lock",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := f.load(c.Context())
			if err != nil {
				return err
			}
			for _, d := range p.differences {
				if d.Drift == catalog.Removed {
					p.lock.Drop(d.Server, d.Kind, d.Name)
				} else if err := p.lock.Pin(d.Server, d.Kind, d.Offered); err != nil {
					return fmt.Errorf("%s %s of %s: %w", d.Kind, d.Name, d.Server, err)
				}
			}
			if len(p.differences) > 0 || !p.there {
				if err := writeLock(p.file, p.lock); err != nil {
					return err
				}
			}
			return out.print(c.OutOrStdout(), p.result(), func(w io.Writer) error {
				if err := p.print(w); err != nil {
					return err
				}
				what := p.count()
				if what == "" {
					what = "nothing has changed"
				}
				_, err := fmt.Fprintf(w, "%s: %d items; %s\n", p.file, p.lock.Len(), what)
				return err
			})
		},
	}
	f.flags(c)
	out.flag(c)
	return c
}

// writeLock replaces a lock file in one step. It holds no secret, and others review it.
func writeLock(file string, lock *catalog.Lock) error {
	text, err := lock.Text()
	if err != nil {
		return err
	}
	if len(text) > catalog.MaxLock {
		return fmt.Errorf("the lock would have %d bytes, more than %d", len(text), catalog.MaxLock)
	}
	if err := replaceFile(file, text); err != nil {
		return fmt.Errorf("the lock cannot be written: %w", err)
	}
	return nil
}

// printDifference writes one difference in the manner of diff: member by member, texts by their lines.
func printDifference(w io.Writer, d catalog.Difference) error {
	head := fmt.Sprintf("%s: %s %s/%s", d.Drift, d.Kind, visible(d.Server), visible(d.Name))
	if len(d.Findings) > 0 {
		head += " (" + strings.Join(d.Findings, ", ") + ")"
	}
	if _, err := fmt.Fprintln(w, head); err != nil {
		return err
	}
	if d.Drift == catalog.Removed {
		return nil
	}
	old, err := memberLines(d.Pinned)
	if err != nil {
		return err
	}
	now, err := memberLines(d.Offered)
	if err != nil {
		return err
	}
	names := []string{}
	for n := range old {
		names = append(names, n)
	}
	for n := range now {
		if _, both := old[n]; !both {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	for _, n := range names {
		if slices.Equal(old[n], now[n]) {
			continue
		}
		fmt.Fprintf(w, "  %s\n", visible(n))
		for _, line := range diffLines(old[n], now[n]) {
			fmt.Fprintf(w, "  %s\n", visible(line))
		}
	}
	_, err = fmt.Fprintln(w)
	return err
}

// memberLines takes a definition apart: a text into its lines, anything else into those of indented JSON.
func memberLines(definition []byte) (map[string][]string, error) {
	out := map[string][]string{}
	if definition == nil {
		return out, nil
	}
	var o map[string]json.RawMessage
	if err := json.Unmarshal(definition, &o); err != nil {
		return nil, err
	}
	for name, raw := range o {
		var text string
		if json.Unmarshal(raw, &text) == nil && raw[0] == '"' {
			out[name] = strings.Split(text, "\n")
			continue
		}
		var b bytes.Buffer
		if err := json.Indent(&b, raw, "", "  "); err != nil {
			return nil, err
		}
		out[name] = strings.Split(b.String(), "\n")
	}
	return out, nil
}

// pinAround is how many lines that stay are shown before and after one that does not.
const pinAround = 2

// diffLines is the least that has to go ("- ") and come ("+ "), with a little of what stays ("  ") around it.
func diffLines(a, b []string) []string {
	all := edit(a, b)
	near := make([]bool, len(all))
	for i, l := range all {
		if l.kind == ' ' {
			continue
		}
		for k := max(0, i-pinAround); k <= min(len(all)-1, i+pinAround); k++ {
			near[k] = true
		}
	}
	var out []string
	for i, l := range all {
		switch {
		case near[i]:
			out = append(out, string(l.kind)+" "+l.line)
		case i == 0 || near[i-1]:
			out = append(out, "  …")
		}
	}
	return out
}

// visible spells out what cannot be seen, and what a terminal would obey: the words are a server's.
func visible(s string) string {
	unseen := func(c rune) bool { return c == '\r' || catalog.Unseen(c) }
	if !strings.ContainsFunc(s, unseen) {
		return s
	}
	var b strings.Builder
	for _, c := range s {
		if unseen(c) {
			fmt.Fprintf(&b, "<U+%04X>", c)
		} else {
			b.WriteRune(c)
		}
	}
	return b.String()
}
