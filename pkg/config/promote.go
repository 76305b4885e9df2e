package config

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ErrNoShadow says that a configuration names no policy.shadow.
var ErrNoShadow = errors.New("the configuration has no policy.shadow; add `shadow: {directory: NEXT}` below `policy:` and watch it with mcpgw policy shadow first")

// sources are the members by which a policy, or a shadow, says where it comes from.
var sources = []string{"directory", "data_files", "bundle"}

// Promote rewrites the text of a configuration so that what was its shadow is its policy: directory, data_files and bundle of
// policy.shadow take the place of policy's own, and shadow goes. All other text stays as it is, comments and layout included; a policy
// that is written between braces is written on lines of its own. Whoever uses the text checks what it says.
func Promote(text []byte) ([]byte, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	if len(document.Content) == 0 || document.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("the configuration holds no fields")
	}
	root := document.Content[0]
	at, policy := find(root, "policy")
	if policy == nil || policy.Kind != yaml.MappingNode {
		return nil, errors.New("the configuration has no policy")
	}
	_, shadow := find(policy, "shadow")
	if shadow == nil || shadow.Kind != yaml.MappingNode {
		return nil, ErrNoShadow
	}
	if root.Style&yaml.FlowStyle != 0 {
		return nil, errors.New("the whole configuration stands between braces; move the shadow's lines to the policy by hand")
	}
	e := editor{lines: bytes.SplitAfter(text, []byte("\n"))}
	if policy.Style&yaml.FlowStyle != 0 {
		return e.rewrite(root, at, policy, shadow)
	}
	return e.splice(policy, shadow)
}

func find(m *yaml.Node, name string) (int, *yaml.Node) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == name {
			return i, m.Content[i+1]
		}
	}
	return 0, nil
}

type editor struct{ lines [][]byte }

// splice moves lines.
func (e *editor) splice(policy, shadow *yaml.Node) ([]byte, error) {
	indent := policy.Content[0].Column - 1
	var moved []byte
	for i := 0; i+1 < len(shadow.Content); i += 2 {
		key, value := shadow.Content[i], shadow.Content[i+1]
		if !slices.Contains(sources, key.Value) {
			continue
		}
		if shadow.Style&yaml.FlowStyle != 0 {
			b, err := marshal(key, value)
			if err != nil {
				return nil, err
			}
			moved = append(moved, e.indented(b, indent)...)
			continue
		}
		from, to := e.entry(key)
		for _, line := range e.lines[e.comments(from, key.Column-1):to] {
			if blank := len(bytes.TrimSpace(line)) == 0; !blank {
				line = append(bytes.Repeat([]byte{' '}, indent), line[min(key.Column-1, spaces(line)):]...)
			}
			moved = append(moved, e.ended(line)...)
		}
	}
	gone := map[int]bool{}
	first := -1
	for i := 0; i+1 < len(policy.Content); i += 2 {
		key := policy.Content[i]
		from, to := e.entry(key)
		switch {
		case slices.Contains(sources, key.Value):
			if first < 0 {
				first = from
			}
		case key.Value == "shadow":
			from = e.comments(from, indent) // they are about what goes
		default:
			continue
		}
		for n := from; n < to; n++ {
			gone[n] = true
		}
	}
	if first < 0 {
		return nil, errors.New("the policy names neither directory nor bundle")
	}
	var out []byte
	for n, line := range e.lines {
		if n == first {
			out = append(out, moved...)
		}
		if !gone[n] {
			out = append(out, line...)
		}
	}
	return out, nil
}

// rewrite writes the policy anew in place of one that stands between braces.
func (e *editor) rewrite(root *yaml.Node, at int, policy, shadow *yaml.Node) ([]byte, error) {
	next := &yaml.Node{Kind: yaml.MappingNode, Tag: policy.Tag}
	placed := false
	for i := 0; i+1 < len(policy.Content); i += 2 {
		key, value := policy.Content[i], policy.Content[i+1]
		switch {
		case slices.Contains(sources, key.Value) && !placed:
			placed = true
			for j := 0; j+1 < len(shadow.Content); j += 2 {
				if slices.Contains(sources, shadow.Content[j].Value) {
					next.Content = append(next.Content, shadow.Content[j], shadow.Content[j+1])
				}
			}
		case slices.Contains(sources, key.Value), key.Value == "shadow":
		default:
			next.Content = append(next.Content, key, value)
		}
	}
	key := *root.Content[at]
	key.HeadComment, key.LineComment = "", policy.LineComment // the one above stays where it is
	b, err := marshal(&key, next)
	if err != nil {
		return nil, err
	}
	from, to := root.Content[at].Line-1, len(e.lines)
	if at+2 < len(root.Content) {
		to = root.Content[at+2].Line - 1
	}
	for to > from+1 && (len(bytes.TrimSpace(e.lines[to-1])) == 0 || isComment(e.lines[to-1])) {
		to--
	}
	out := bytes.Join(e.lines[:from], nil)
	out = append(out, e.indented(b, root.Content[at].Column-1)...)
	return append(out, bytes.Join(e.lines[to:], nil)...), nil
}

func marshal(key, value *yaml.Node) ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	err := errors.Join(enc.Encode(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{key, value}}), enc.Close())
	return b.Bytes(), err
}

// entry is the lines of one name and its value in a mapping that is written on lines of its own: all that follow and are further in.
func (e *editor) entry(key *yaml.Node) (from, to int) {
	from, to = key.Line-1, key.Line
	indent := key.Column - 1
	for n := to; n < len(e.lines); n++ {
		line := e.lines[n]
		switch in := spaces(line); {
		case len(bytes.TrimSpace(line)) == 0:
			continue
		case in > indent, in == indent && bytes.HasPrefix(line[in:], []byte("-")) && !bytes.HasPrefix(line[in:], []byte("---")):
			to = n + 1
		case isComment(line):
			continue
		default:
			return from, to
		}
	}
	return from, to
}

// comments is where the comment begins that stands right above a line.
func (e *editor) comments(line, indent int) int {
	for line > 0 && isComment(e.lines[line-1]) && spaces(e.lines[line-1]) == indent {
		line--
	}
	return line
}

func isComment(line []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(line), []byte("#")) }

func spaces(line []byte) int { return len(line) - len(bytes.TrimLeft(line, " ")) }

// ended gives a line an end as the file's others have it.
func (e *editor) ended(line []byte) []byte {
	end := "\n"
	if bytes.HasSuffix(e.lines[0], []byte("\r\n")) {
		end = "\r\n"
	}
	return append(bytes.TrimRight(slices.Clone(line), "\r\n"), end...)
}

func (e *editor) indented(b []byte, n int) []byte {
	var out []byte
	for line := range bytes.Lines(b) {
		out = append(out, e.ended(append([]byte(strings.Repeat(" ", n)), line...))...)
	}
	return out
}
