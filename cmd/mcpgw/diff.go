package main

import (
	"fmt"
	"io"
	"strings"
)

// diffAround is how many equal lines a difference shows around what changed.
const diffAround = 3

// diffCells bounds the work of finding a short difference, in pairs of lines; beyond it everything counts as changed.
const diffCells = 4_000_000

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
		first, last := max(0, i-diffAround), i
		for j := i; j < len(edits) && j-last <= 2*diffAround; j++ {
			if edits[j].kind != ' ' {
				last = j
			}
		}
		end := min(len(edits), last+diffAround+1)
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
	if (len(a)-i)*(len(b)-j) <= diffCells {
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
