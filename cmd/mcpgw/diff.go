package main

import (
	"fmt"
	"strings"
)

// diffAround is how many equal lines a difference of files shows around what changed.
const diffAround = 3

// diffCells bounds the work of finding a short difference, in pairs of lines; beyond it everything counts as changed.
const diffCells = 4_000_000

// unified is the difference of two texts in the unified format, without the two lines that name them; empty where they are the same.
func unified(before, after string) string {
	a, b := strings.SplitAfter(before, "\n"), strings.SplitAfter(after, "\n")
	edits := edit(withoutLast(a), withoutLast(b))
	var out strings.Builder
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
		fmt.Fprintf(&out, "@@ -%d,%d +%d,%d @@\n", hunk[0].a+1, removed, hunk[0].b+1, added)
		for _, e := range hunk {
			fmt.Fprintf(&out, "%c%s\n", e.kind, printable(strings.TrimSuffix(e.line, "\n")))
		}
		i = end
	}
	return out.String()
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
	endA, endB := len(a), len(b) // behind them both are the same
	for endA > i && endB > j && a[endA-1] == b[endB-1] {
		endA--
		endB--
	}
	if (endA-i)*(endB-j) <= diffCells {
		// length[x][y] is how many lines a[x:endA] and b[y:endB] have in common, counted from where the two begin to differ.
		x0, y0 := i, j
		length := make([][]int32, endA-x0+1)
		for x := range length {
			length[x] = make([]int32, endB-y0+1)
		}
		for x := endA - 1; x >= x0; x-- {
			for y := endB - 1; y >= y0; y-- {
				if a[x] == b[y] {
					length[x-x0][y-y0] = length[x-x0+1][y-y0+1] + 1
				} else {
					length[x-x0][y-y0] = max(length[x-x0+1][y-y0], length[x-x0][y-y0+1])
				}
			}
		}
		for i < endA && j < endB {
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
	for i < endA {
		drop()
	}
	for j < endB {
		add()
	}
	for i < len(a) {
		keep()
	}
	return out
}
