package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/server"
)

// promotion is what `mcpgw policy promote` did, and how the gateway took it.
type promotion struct {
	File     string   `json:"file"`
	Written  bool     `json:"written"`            // else it was only shown
	Policy   string   `json:"policy"`             // revision of the promoted policy
	Version  string   `json:"configuration"`      // version of the configuration that it is in
	Before   string   `json:"before,omitempty"`   // revision that was in force
	InForce  bool     `json:"in_force"`           // a gateway said so
	Diff     string   `json:"diff"`               // of the file
	Warnings []string `json:"warnings,omitempty"` // what the checks say besides
}

func policyPromoteCommand() *cobra.Command {
	var src source
	var at adminFlags
	var out output
	var dry, bare bool
	var patience time.Duration
	c := &cobra.Command{
		Use:   "promote",
		Short: "Make the shadow policy the policy in force, in one step",
		Long: `Promote edits the configuration file: directory, data_files and bundle of policy.shadow take the place of policy's own, and shadow goes.
All else in the file stays as it is. The new file is checked as mcpgw check does before it takes the old one's place, by one rename. If a
gateway answers at the admin address, promote waits until it says that the new policy is in force, or why it was refused; calls in
flight keep the policy that they began with, and none fails.`,
		Example: "  mcpgw policy promote --config mcpgw.yaml --dry-run\n  mcpgw policy promote --config mcpgw.yaml",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			at.file = src.file
			p, err := promote(c.Context(), &src, &at, dry, bare, patience)
			if p == nil {
				return err
			}
			if e := out.print(c.OutOrStdout(), p, func(w io.Writer) error { return printPromotion(w, p, err == nil) }); e != nil {
				return e
			}
			return err
		},
	}
	src.flags(c)
	out.flag(c)
	c.Flags().StringVar(&at.address, "admin", "", "admin address of the gateway, instead of the one that the file names")
	c.Flags().BoolVar(&dry, "dry-run", false, "print what would change in the file, and change nothing")
	c.Flags().BoolVar(&bare, "without-log-rules", false, "promote a shadow without package system.log though the policy in force masks its decision log by one")
	c.Flags().DurationVar(&patience, "wait", time.Minute, "how long to wait for a running gateway")
	return c
}

// promote does the work. A promotion that is returned with an error was written all the same.
func promote(ctx context.Context, src *source, at *adminFlags, dry, bare bool, patience time.Duration) (*promotion, error) {
	old, err := src.load()
	if err != nil {
		return nil, err
	}
	if old.Proto.Policy.Shadow == nil {
		return nil, fmt.Errorf("%s: %w", src.file, config.ErrNoShadow)
	}
	file, err := filepath.EvalSymlinks(src.file)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	next, err := config.Promote(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", src.file, err)
	}
	parse := func() (*config.Config, error) {
		if src.mcp != "" {
			return config.ParseWith(src.file, next, src.mcp)
		}
		return config.Parse(src.file, next)
	}
	c, err := parse()
	if err != nil {
		return nil, fmt.Errorf("the promoted configuration is not right, %s stays as it is: %w", src.file, err)
	}
	want := proto.CloneOf(old.Proto)
	s := want.Policy.Shadow
	want.Policy.Directory, want.Policy.DataFiles, want.Policy.Bundle, want.Policy.Shadow = s.Directory, s.DataFiles, s.Bundle, nil
	if !proto.Equal(c.Proto, want) {
		return nil, fmt.Errorf("%s is written in a way that this command cannot edit; move directory, data_files and bundle of policy.shadow to policy by hand", src.file)
	}
	checked := server.Check(ctx, parse)
	if len(checked.Faults) > 0 {
		return nil, fmt.Errorf("the promoted configuration has faults, %s stays as it is:\n%s", src.file, strings.Join(checked.Faults, "\n"))
	}
	engine, err := server.LoadPolicy(c.Proto.Policy)
	if err != nil {
		return nil, err
	}
	if c.Proto.Policy.DecisionLog != nil && len(engine.LogRules()) == 0 && !bare {
		if now, err := server.LoadPolicy(old.Proto.Policy); err == nil && len(now.LogRules()) > 0 {
			return nil, fmt.Errorf("the policy in force masks its decision log by %s, and the shadow has no package system.log; copy that file to the shadow, or add --without-log-rules", now.LogRules()[0].Name)
		}
	}
	p := &promotion{File: src.file, Policy: engine.Revision(), Version: c.Version, Diff: unified(string(text), string(next)), Warnings: checked.Warnings}
	if dry {
		return p, nil
	}
	before := &server.CatalogReport{}
	running := at.ask(ctx, http.MethodGet, "/catalog", nil, before) == nil
	p.Before = before.Policy
	written, err := writeBeside(file, next) // a rename is one step within one file system
	if err != nil {
		return nil, fmt.Errorf("%w; where the file comes from somewhere else, see --dry-run and change it there", err)
	}
	defer func() { _ = os.Remove(written) }() // it is gone after the rename
	if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, text) {
		return nil, errors.Join(err, fmt.Errorf("%s was changed meanwhile; try again", src.file))
	}
	if err := os.Rename(written, file); err != nil {
		return nil, err
	}
	p.Written = true
	if !running {
		return p, nil
	}
	return p, p.await(ctx, at, before.Fault, patience)
}

// await asks the gateway until the promoted configuration is in force.
func (p *promotion) await(ctx context.Context, at *adminFlags, fault string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	last := ""
	for {
		r := &server.CatalogReport{}
		err := at.ask(ctx, http.MethodGet, "/catalog", nil, r)
		switch {
		case err != nil:
			last = err.Error()
		case r.Configuration == p.Version && r.Policy == p.Policy:
			p.InForce = true
			return nil
		case r.Fault != "" && r.Fault != fault:
			return fmt.Errorf("%s is written, and the gateway refuses it; the policy before stays in force:\n%s", p.File, r.Fault)
		case r.Fault != "":
			last = r.Fault
		default:
			last = "its configuration is still " + r.Configuration + "; does it run with " + p.File + "?"
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s is written, and the gateway has not taken it within %s: %s", p.File, patience, last)
		}
	}
}

func printPromotion(w io.Writer, p *promotion, well bool) error {
	for _, warning := range p.Warnings {
		fmt.Fprintln(w, "warning: "+warning)
	}
	if !p.Written {
		fmt.Fprintf(w, "--- %s\n+++ %s\n%s", p.File, p.File, p.Diff)
		return nil
	}
	switch {
	case p.InForce:
		fmt.Fprintf(w, "promoted: policy %s is in force (before: %s)\n", p.Policy, p.Before)
	case well:
		fmt.Fprintf(w, "promoted: policy %s counts from the next start; no gateway answers at the admin address\n", p.Policy)
	}
	return nil
}
