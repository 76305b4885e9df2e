// Package readme runs what the documents say: commands against a real quick start, configurations through the loader, policies
// through the engine, and it looks up every link, target, flag, metric and log field that they name.
package readme

import (
	"regexp"
	"strings"
)

// Block is one fenced block of a document.
type Block struct {
	Line int      // of its first fence, from 1
	Info []string // the words behind the fence: language first
	Text string
}

// Is tells whether the block's info is these words.
func (b Block) Is(info ...string) bool { return strings.Join(b.Info, " ") == strings.Join(info, " ") }

// Blocks finds the fenced blocks of a Markdown text, in order.
func Blocks(text string) []Block {
	var found []Block
	var open *Block
	for i, line := range strings.Split(text, "\n") {
		info, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && open == nil:
			open = &Block{Line: i + 1, Info: strings.Fields(info)}
		case fence:
			found, open = append(found, *open), nil
		case open != nil:
			open.Text += line + "\n"
		}
	}
	return found
}

// Prose is a Markdown text without its fenced blocks.
func Prose(text string) string {
	var out strings.Builder
	inside := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "```") {
			inside = !inside
		} else if !inside {
			out.WriteString(line)
		}
	}
	return out.String()
}

var code = regexp.MustCompile("`([^`]+)`")

// Code returns what stands between single backquotes in a prose.
func Code(prose string) []string {
	var found []string
	for _, m := range code.FindAllStringSubmatch(prose, -1) {
		found = append(found, m[1])
	}
	return found
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// Links returns the targets of a prose's links.
func Links(prose string) []string {
	var found []string
	for _, m := range link.FindAllStringSubmatch(prose, -1) {
		found = append(found, m[1])
	}
	return found
}

var notInAnchor = regexp.MustCompile(`[^a-z0-9 _-]`)

// Anchors returns the anchors that a document's headings have on GitHub.
func Anchors(text string) map[string]bool {
	found := map[string]bool{}
	for line := range strings.Lines(Prose(text)) {
		if heading := strings.TrimLeft(line, "#"); heading != line && strings.HasPrefix(heading, " ") {
			found[strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), ""), " ", "-")] = true
		}
	}
	return found
}

// Changing words of an output: ids, hashes, dates, times.
var changing = []struct {
	words *regexp.Regexp
	mark  string
}{
	{regexp.MustCompile(`\b[0-9a-f]{32,64}\b`), "HASH"},
	{regexp.MustCompile(`\b[A-Z2-7]{26}\b`), "ID"},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[+Z0-9:.-]*`), "DATE"},
	{regexp.MustCompile(`\b\d+(\.\d+)? ?(µs|ms|s)\b`), "TIME"},
}

// Differs compares an output with what a document shows of it: "" where they agree, else the first line of the document that the
// output does not have. A line that is "…" stands for any number of lines, none among them.
func Differs(shown, output string) string {
	want, have := lines(shown), lines(output)
	anything := false
	for _, w := range want {
		if w == "…" {
			anything = true
			continue
		}
		i := 0
		for i < len(have) && anything && have[i] != w {
			i++
		}
		if i >= len(have) || have[i] != w {
			return w
		}
		have, anything = have[i+1:], false
	}
	if len(have) > 0 && !anything {
		return "nothing after it, but there is: " + have[0]
	}
	return ""
}

func lines(text string) []string {
	for _, c := range changing {
		text = c.words.ReplaceAllString(text, c.mark)
	}
	out := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := range out {
		out[i] = strings.TrimRight(out[i], " ")
	}
	return out
}
