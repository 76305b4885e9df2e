package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mcpgw/mcpgw/pkg/opa"
)

func policyFmtCommand() *cobra.Command {
	var list, diff, check bool
	c := &cobra.Command{
		Use:   "fmt [FILE | DIR]...",
		Short: "Lay Rego files out as OPA does",
		Long: `Fmt formats Rego v1 files in place: those that are named, and those below directories that are named; ./policy if nothing is. A file
that cannot be read as Rego is told and left as it is, and the command ends with status 1.

With --list the files that would change are named, with --diff the changes are shown, and nothing is written. With --check, and with
--diff, the command ends with status 1 if anything would change.`,
		Example: "  mcpgw policy fmt\n  mcpgw policy fmt --check policy\n  mcpgw policy fmt --diff policy/git.rego",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{policyDir}
			}
			var files []opa.File
			for _, arg := range args {
				info, err := os.Stat(arg)
				switch {
				case errors.Is(err, fs.ErrNotExist):
					return fmt.Errorf("%s: there is no such file or directory; name those of the policy", arg)
				case err != nil:
					return err
				}
				read := opa.ReadDir
				if !info.IsDir() {
					read = func(name string) ([]opa.File, error) { return opa.ReadFiles(name) }
				}
				some, err := read(arg)
				if err != nil {
					return err
				}
				files = append(files, some...)
			}
			changed, faulty := 0, false
			for _, f := range files {
				text, err := opa.Format(f)
				if err != nil {
					for line := range strings.SplitSeq(err.Error(), "\n") {
						fmt.Fprintln(c.ErrOrStderr(), "fault: "+printable(line))
					}
					faulty = true
					continue
				}
				if bytes.Equal(text, f.Text) {
					continue
				}
				changed++
				switch {
				case diff:
					name := printable(f.Name)
					_, err = fmt.Fprintf(c.OutOrStdout(), "--- %s\n+++ %s (formatted)\n%s", name, name, unified(string(f.Text), string(text)))
				case list, check:
					_, err = fmt.Fprintln(c.OutOrStdout(), printable(f.Name))
				default:
					err = replaceFile(f.Name, text)
				}
				if err != nil {
					return err
				}
			}
			switch {
			case faulty:
				return errors.New("some files cannot be formatted")
			case changed > 0 && (check || diff):
				return fmt.Errorf("%d of %d files are not formatted; mcpgw policy fmt does it", changed, len(files))
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&list, "list", "l", false, "name the files that would change instead of writing them")
	c.Flags().BoolVarP(&diff, "diff", "d", false, "show what would change instead of writing it")
	c.Flags().BoolVar(&check, "check", false, "write nothing, and end with status 1 if a file would change")
	return c
}
