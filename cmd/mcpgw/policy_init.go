package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/policies"
)

func policyInitCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init [DIR]",
		Short: "Write a first policy with tests that pass",
		Long: `Init writes a policy that refuses what it does not allow, tests for it, and the data that it reads: grants by server, item and role.
DIR is ./policy if nothing else is said, and is made where it does not exist. Nothing is ever overwritten: a directory that holds
rules already is refused, since rules added to others could allow what those do not.`,
		Example: "  mcpgw policy init\n  mcpgw policy init policy && mcpgw policy check policy",
		Args:    between(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			dir := policyDir
			if len(args) > 0 {
				dir = args[0]
			}
			written, err := writeStarter(dir)
			for _, name := range written {
				fmt.Fprintln(c.OutOrStdout(), "wrote "+name)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "next: mcpgw policy check %s, then name it in the configuration:\n"+
				"policy:\n  directory: %s\n  data_files: [%s]\n", dir, dir, filepath.Join(dir, "data.yaml"))
			return err
		},
	}
}

// writeStarter writes all files of the starter, or none.
func writeStarter(dir string) (written []string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // a gateway of another user must be able to read it
		return nil, err
	}
	files, err := fs.ReadDir(policies.Starter(), ".")
	if err != nil {
		return nil, err
	}
	have, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var taken []string
	for _, h := range have {
		mine := false
		for _, f := range files {
			mine = mine || f.Name() == h.Name()
		}
		if mine || strings.HasSuffix(h.Name(), ".rego") {
			taken = append(taken, h.Name())
		}
	}
	if len(taken) > 0 {
		return nil, fmt.Errorf("%s holds %s already; name another directory", dir, strings.Join(taken, ", "))
	}
	defer func() {
		if err != nil {
			for _, name := range written {
				err = errors.Join(err, os.Remove(name))
			}
			written = nil
		}
	}()
	for _, f := range files {
		text, err := fs.ReadFile(policies.Starter(), f.Name())
		if err != nil {
			return written, err
		}
		name := filepath.Join(dir, f.Name())
		file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // as above
		if err != nil {
			return written, err
		}
		written = append(written, name)
		_, err = file.Write(text)
		if err := errors.Join(err, file.Close()); err != nil {
			return written, err
		}
	}
	return written, nil
}
