package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
				if err != nil {
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
					err = writeDiff(c.OutOrStdout(), f.Name, string(f.Text), string(text))
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

// replaceFile writes a file anew, whole or not at all: the text comes under another name first. A link stays one.
func replaceFile(name string, text []byte) (err error) {
	if name, err = filepath.EvalSymlinks(name); err != nil {
		return err
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".mcpgw-fmt-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the error is told already
		}
	}()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Chmod(info.Mode().Perm()), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// around is how many equal lines a difference shows around what changed.
const around = 3

// maxDiff bounds the work of finding a short difference, in pairs of lines; beyond it everything counts as changed.
const maxDiff = 4_000_000

// writeDiff writes the difference of two texts in the unified format.
func writeDiff(w io.Writer, name, before, after string) error {
	a, b := strings.SplitAfter(before, "\n"), strings.SplitAfter(after, "\n")
	a, b = withoutLast(a), withoutLast(b)
	edits := edit(a, b)
	if _, err := fmt.Fprintf(w, "--- %s\n+++ %s (formatted)\n", printable(name), printable(name)); err != nil {
		return err
	}
	for i := 0; i < len(edits); {
		if edits[i].kind == ' ' {
			i++
			continue
		}
		// A hunk goes on until there are more equal lines than two contexts hold.
		first, last := max(0, i-around), i
		for j := i; j < len(edits) && j-last <= 2*around; j++ {
			if edits[j].kind != ' ' {
				last = j
			}
		}
		end := min(len(edits), last+around+1)
		hunk := edits[first:end]
		var removed, added int
		for _, e := range hunk {
			if e.kind != '+' {
				removed++
			}
			if e.kind != '-' {
				added++
			}
		}
		if _, err := fmt.Fprintf(w, "@@ -%d,%d +%d,%d @@\n", hunk[0].a+1, removed, hunk[0].b+1, added); err != nil {
			return err
		}
		for _, e := range hunk {
			if _, err := fmt.Fprintf(w, "%c%s\n", e.kind, printable(strings.TrimSuffix(e.line, "\n"))); err != nil {
				return err
			}
		}
		i = end
	}
	return nil
}

// withoutLast drops the empty line behind a last line break.
func withoutLast(lines []string) []string {
	if n := len(lines); n > 0 && lines[n-1] == "" {
		return lines[:n-1]
	}
	return lines
}

// edited is one line of a difference: kept (space), removed (-) or added (+), and where it stands in both texts.
type edited struct {
	kind byte
	line string
	a, b int
}

// edit turns a into b by a longest common subsequence of lines.
func edit(a, b []string) []edited {
	var out []edited
	i, j := 0, 0
	keep := func() { out = append(out, edited{' ', a[i], i, j}); i++; j++ }
	drop := func() { out = append(out, edited{'-', a[i], i, j}); i++ }
	add := func() { out = append(out, edited{'+', b[j], i, j}); j++ }
	for i < len(a) && j < len(b) && a[i] == b[j] {
		keep()
	}
	if (len(a)-i)*(len(b)-j) <= maxDiff {
		// length[x][y] is how many lines a[x:] and b[y:] have in common, counted from where the two begin to differ.
		x0, y0 := i, j
		length := make([][]int32, len(a)-x0+1)
		for x := range length {
			length[x] = make([]int32, len(b)-y0+1)
		}
		for x := len(a) - 1; x >= x0; x-- {
			for y := len(b) - 1; y >= y0; y-- {
				if a[x] == b[y] {
					length[x-x0][y-y0] = length[x-x0+1][y-y0+1] + 1
				} else {
					length[x-x0][y-y0] = max(length[x-x0+1][y-y0], length[x-x0][y-y0+1])
				}
			}
		}
		for i < len(a) && j < len(b) {
			switch {
			case a[i] == b[j]:
				keep()
			case length[i-x0+1][j-y0] >= length[i-x0][j-y0+1]:
				drop()
			default:
				add()
			}
		}
	}
	for i < len(a) {
		drop()
	}
	for j < len(b) {
		add()
	}
	return out
}
