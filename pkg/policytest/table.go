package policytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v3"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// Bounds of one table file.
const (
	maxTable = 8 << 20   // bytes
	maxNodes = 1_000_000 // of YAML, with all that aliases unfold to
)

// ReadTables reads the table files (*_test.yaml, *_test.yml) that [opa.FilesBelow] finds; there may be none.
func ReadTables(dir string) ([]opa.File, error) {
	names, err := opa.FilesBelow(dir, "_test.yaml", "_test.yml")
	if err != nil {
		return nil, err
	}
	return opa.ReadFiles(names...)
}

// tableTest is one entry of a table.
type tableTest struct {
	file    string
	line    int
	name    string
	lines   map[string]int // of its members
	text    []byte         // the description
	expect  expectation
	because string
}

// expectation is what a table test expects of its ruling.
type expectation struct {
	effect string // allow, deny, ask; hidden, shown

	// What has to be done besides, each by its canonical text, in order; nil where the test does not say.
	rewrite, redact, label []string
}

// lists reports whether the test is about a list.
func (e *expectation) lists() bool { return e.effect == "hidden" || e.effect == "shown" }

// parseTable reads one table file, all faults at once.
func parseTable(f opa.File) (tests []tableTest, faults opa.Faults) {
	p := &tableParser{file: f.Name}
	if len(f.Text) > maxTable {
		return nil, opa.Faults{{File: f.Name, Message: fmt.Sprintf("is larger than %d bytes", maxTable)}}
	}
	var node, second yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(f.Text))
	const remedy = "write tests: and below it entries that begin with - who:"
	switch err := d.Decode(&node); {
	case errors.Is(err, io.EOF):
		return nil, opa.Faults{{File: f.Name, Line: 1, Col: 1, Message: "is empty", Remedy: remedy}}
	case err != nil:
		return nil, opa.Faults{syntax(f.Name, err)}
	}
	if err := d.Decode(&second); err == nil {
		return nil, opa.Faults{{File: f.Name, Line: second.Line, Col: second.Column, Message: "a second document begins here", Remedy: "keep one document in the file"}}
	} else if !errors.Is(err, io.EOF) {
		return nil, opa.Faults{syntax(f.Name, err)}
	}
	root := node.Content[0]
	names := map[string]int{}
	for _, m := range p.members(root, []string{"tests"}) {
		list := resolve(m.value)
		if list.Kind != yaml.SequenceNode {
			p.fault(m.value, "tests is a list", remedy)
			continue
		}
		for _, entry := range list.Content {
			t, ok := p.test(resolve(entry))
			if !ok {
				continue
			}
			if first, twice := names[t.name]; twice && t.lines["name"] > 0 {
				p.fault(entry, fmt.Sprintf("the test on line %d has the name %q as well", first, t.name), "give each test a name of its own")
				continue
			}
			if t.lines["name"] > 0 {
				names[t.name] = t.line
			}
			tests = append(tests, t)
		}
	}
	return tests, p.faults
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func syntax(file string, err error) opa.Fault {
	f := opa.Fault{File: file, Line: 1, Col: 1, Message: "is not YAML: " + yamlLine.ReplaceAllString(err.Error(), "")}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil && m[1] != "" {
		f.Line, _ = strconv.Atoi(m[1])                                           // digits
		if strings.HasPrefix(f.Message, "is not YAML: did not find expected ") { // of these the reader counts lines from 0
			f.Line++
		}
	}
	return f
}

// tableParser reads YAML and collects faults.
type tableParser struct {
	file   string
	faults opa.Faults
	nodes  int
}

func (p *tableParser) fault(n *yaml.Node, message, remedy string) {
	p.faults = append(p.faults, opa.Fault{File: p.file, Line: n.Line, Col: n.Column, Message: message, Remedy: remedy})
}

type yamlMember struct {
	name       string
	key, value *yaml.Node
}

// members lists a mapping's members; a fault for what is none, for names that are not known or there twice.
func (p *tableParser) members(n *yaml.Node, known []string) (out []yamlMember) {
	if n.Kind != yaml.MappingNode {
		p.fault(n, "want an object", "with members of "+strings.Join(known, ", "))
		return nil
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		switch {
		case k.Kind != yaml.ScalarNode || k.Tag == "!!merge" || !slices.Contains(known, k.Value):
			p.fault(k, "unknown member "+strconv.Quote(k.Value), strings.TrimPrefix(unknown(k.Value, known).Error(), "there is no such name; "))
		case seen[k.Value] > 0:
			p.fault(k, fmt.Sprintf("%s is there twice; the first is on line %d", k.Value, seen[k.Value]), "keep one")
		default:
			seen[k.Value] = k.Line
			out = append(out, yamlMember{k.Value, k, n.Content[i+1]})
		}
	}
	return out
}

func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// test reads one entry.
func (p *tableParser) test(n *yaml.Node) (t tableTest, ok bool) {
	before := len(p.faults)
	t = tableTest{file: p.file, line: n.Line, lines: map[string]int{}, text: []byte{'{'}}
	words := map[string]string{}
	expected := false
	for _, m := range p.members(n, slices.Concat([]string{"name"}, descriptionMembers, []string{"expect", "because"})) {
		t.lines[m.name] = m.key.Line
		value := resolve(m.value)
		switch m.name {
		case "name", "because":
			if value.Kind != yaml.ScalarNode || value.Tag == "!!null" || value.Value == "" {
				p.fault(m.value, m.name+" is a text", "")
				continue
			}
			if m.name == "name" {
				t.name = value.Value
			} else {
				t.because = value.Value
			}
		case "expect":
			expected = true
			t.expect = p.expectation(value)
		default:
			b, err := p.json(nil, m.value, 0)
			if err != nil {
				p.faults = append(p.faults, *err)
				continue
			}
			if len(t.text) > 1 {
				t.text = append(t.text, ',')
			}
			t.text = append(append(jsonrpc.AppendString(t.text, m.name), ':'), b...)
			words[m.name] = string(b)
		}
	}
	t.text = append(t.text, '}')
	if len(p.faults) > before {
		return t, false
	}
	switch {
	case !expected:
		p.fault(n, "what is expected is missing", "add expect: allow, deny, ask, hidden or shown")
	case t.expect.lists() && words["with"] != "":
		p.fault(n, "a list knows no arguments", "leave out with, or expect allow, deny or ask")
	case t.because != "" && t.expect.effect != "deny" && t.expect.effect != "ask":
		p.fault(n, "only a deny and an ask give reasons", "leave out because")
	}
	if t.name == "" {
		t.name = generated(words)
	}
	return t, len(p.faults) == before
}

// generated names a test after what it asks.
func generated(words map[string]string) string {
	who := strings.Trim(words["who"], `"`)
	for _, verb := range []string{"calls", "reads", "gets"} {
		if words[verb] != "" {
			who += " " + verb + " " + strings.Trim(words[verb], `"`)
		}
	}
	if words["with"] != "" {
		who += " with " + words["with"]
	}
	return strings.ToValidUTF8(who[:min(len(who), 200)], "")
}

var effects = []string{"allow", "deny", "ask", "hidden", "shown"}

// expectation reads expect: one word, or an object with obligations.
func (p *tableParser) expectation(n *yaml.Node) (e expectation) {
	word := func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode || !slices.Contains(effects, n.Value) {
			p.fault(n, "expect is one of "+strings.Join(effects, ", "), "")
			return
		}
		e.effect = n.Value
	}
	if n.Kind != yaml.MappingNode {
		word(n)
		return e
	}
	e.effect = "allow"
	for _, m := range p.members(n, []string{"effect", "rewrite", "redact", "label"}) {
		if m.name == "effect" {
			word(resolve(m.value))
			continue
		}
		list := resolve(m.value)
		if list.Kind != yaml.SequenceNode {
			p.fault(m.value, m.name+" is a list", "")
			continue
		}
		texts := []string{}
		for _, entry := range list.Content {
			if s, ok := p.obligation(m.name, entry); ok {
				texts = append(texts, s)
			}
		}
		slices.Sort(texts)
		switch m.name {
		case "rewrite":
			e.rewrite = texts
		case "redact":
			e.redact = texts
		default:
			e.label = texts
		}
	}
	if (e.rewrite != nil || e.redact != nil || e.label != nil) && e.effect != "allow" && e.effect != "ask" {
		p.fault(n, "only an allow and an ask have obligations", "leave out rewrite, redact and label")
	}
	return e
}

// obligation is the canonical text of one entry of rewrite, redact or label.
func (p *tableParser) obligation(kind string, n *yaml.Node) (string, bool) {
	n = resolve(n)
	if kind == "label" {
		if n.Kind != yaml.ScalarNode {
			p.fault(n, "a label is a text", "")
			return "", false
		}
		return n.Value, true
	}
	var c policy.Change
	var put []byte // what is put there, as JSON
	remove := false
	before := len(p.faults)
	for _, m := range p.members(n, []string{"path", "pattern", "value", "with", "remove"}) {
		b, err := p.json(nil, m.value, 0)
		if err != nil {
			p.faults = append(p.faults, *err)
			continue
		}
		s, _ := jsonrpc.Value{Raw: b}.Str()
		switch m.name {
		case "path":
			c.Path = s
		case "pattern":
			c.Pattern = s
		case "remove":
			remove = string(b) == "true"
		default:
			put = b
		}
	}
	if put == nil && !remove && kind == "redact" {
		put = jsonrpc.AppendString(nil, opa.Redacted)
	}
	if (c.Path == "") == (c.Pattern == "") || (put == nil) != remove {
		p.fault(n, "want path or pattern, and value, with or remove: true", "as in the rule that makes it")
	}
	if c.Pattern == "" {
		c.Value = put
	} else {
		c.With, _ = jsonrpc.Value{Raw: put}.Str()
	}
	return canonicalChange(c), len(p.faults) == before
}

// canonicalChange is a text that two changes share if they do the same.
func canonicalChange(c policy.Change) string {
	if c.Pattern != "" {
		return fmt.Sprintf("pattern %q with %q", c.Pattern, c.With)
	}
	if c.Value == nil {
		return fmt.Sprintf("path %q removed", c.Path)
	}
	v := jsontext.Value(slices.Clone(c.Value))
	if v.Format(jsontext.CanonicalizeRawInts(false), jsontext.CanonicalizeRawFloats(false), jsontext.ReorderRawObjects(true)) != nil {
		v = c.Value
	}
	return fmt.Sprintf("path %q value %s", c.Path, v)
}

// json writes a node as JSON, numbers as they are written. What YAML would make a date is a text.
func (p *tableParser) json(b []byte, n *yaml.Node, depth int) ([]byte, *opa.Fault) {
	bad := func(message, remedy string) ([]byte, *opa.Fault) {
		return nil, &opa.Fault{File: p.file, Line: n.Line, Col: n.Column, Message: message, Remedy: remedy}
	}
	if p.nodes++; p.nodes > maxNodes || depth > maxDepth {
		return bad("this is too large or too deep", "aliases count as what they unfold to")
	}
	switch n.Kind {
	case yaml.AliasNode:
		return p.json(b, n.Alias, depth+1)
	case yaml.SequenceNode:
		b = append(b, '[')
		for i, c := range n.Content {
			if i > 0 {
				b = append(b, ',')
			}
			var err *opa.Fault
			if b, err = p.json(b, c, depth+1); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case yaml.MappingNode:
		b = append(b, '{')
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			if k.Kind != yaml.ScalarNode || k.Tag != "!!str" || seen[k.Value] {
				n = k
				if seen[k.Value] {
					return bad(fmt.Sprintf("the name %q is there twice", k.Value), "keep one")
				}
				return bad(fmt.Sprintf("the name %s is no text", k.Value), "put it in quotes")
			}
			seen[k.Value] = true
			if i > 0 {
				b = append(b, ',')
			}
			b = append(jsonrpc.AppendString(b, k.Value), ':')
			var err *opa.Fault
			if b, err = p.json(b, n.Content[i+1], depth+1); err != nil {
				return nil, err
			}
		}
		return append(b, '}'), nil
	}
	switch n.Tag {
	case "!!str", "!!timestamp":
		return jsonrpc.AppendString(b, n.Value), nil
	case "!!null":
		return append(b, "null"...), nil
	case "!!bool":
		var v bool
		if n.Decode(&v) != nil {
			return bad(n.Value+" is neither true nor false", "")
		}
		return strconv.AppendBool(b, v), nil
	case "!!int", "!!float":
		if !jsontext.Value(n.Value).IsValid() {
			return bad(n.Value+" is no number as JSON writes it", "put a text in quotes")
		}
		return append(b, n.Value...), nil
	}
	return bad("a value of type "+n.Tag+" has no JSON form", "put a text in quotes")
}

// run asks the engine, and says what is wrong with the answer: empty for nothing. q is nil if there is no question.
func (t *tableTest) run(ctx context.Context, e *opa.Engine, questions *Questions) (q *policy.Question, ruling *policy.Ruling, wrong string, err error) {
	q, err = questions.Question(t.text, t.expect.lists())
	if err != nil {
		if m := (*memberError)(nil); errors.As(err, &m) && t.lines[m.member] > 0 {
			err = fmt.Errorf("line %d: %w", t.lines[m.member], err)
		}
		return nil, nil, "", err
	}
	if t.expect.lists() {
		visible, err := e.Visible(ctx, q)
		if err != nil {
			return q, nil, "", fmt.Errorf("the policy could not be evaluated: %w", err)
		}
		if got := map[bool]string{true: "shown", false: "hidden"}[visible]; got != t.expect.effect {
			wrong = fmt.Sprintf("want %s, got %s", t.expect.effect, got)
		}
		return q, nil, wrong, nil
	}
	r := e.Decide(ctx, q)
	if r.Err != nil { // it refuses, but nobody means that by deny
		return q, &r, "", fmt.Errorf("the policy could not be evaluated: %w", r.Err)
	}
	return q, &r, t.compare(&r), nil
}

// compare says how a ruling differs from what is expected.
func (t *tableTest) compare(r *policy.Ruling) string {
	if string(r.Effect) != t.expect.effect {
		got := fmt.Sprintf("want %s, got %s", t.expect.effect, r.Effect)
		if r.Effect != policy.Allow {
			got += ": " + r.Public()
		}
		return got
	}
	if t.because != "" && !slices.ContainsFunc(r.Reasons, func(reason policy.Reason) bool { return strings.Contains(reason.Message, t.because) }) {
		return fmt.Sprintf("want a reason with %q, got: %s", t.because, r.Public())
	}
	o := r.Obligations
	if o == nil {
		o = &policy.Obligations{}
	}
	changes := func(list []policy.Change) []string {
		out := []string{}
		for _, c := range list {
			out = append(out, canonicalChange(c))
		}
		slices.Sort(out)
		return out
	}
	for _, part := range []struct {
		name      string
		want, got []string
	}{
		{"rewrite", t.expect.rewrite, changes(o.Rewrite)},
		{"redact", t.expect.redact, changes(o.Redact)},
		{"label", t.expect.label, o.Label},
	} {
		if part.want != nil && !slices.Equal(part.want, part.got) {
			return fmt.Sprintf("want %s [%s], got [%s]", part.name, strings.Join(part.want, "; "), strings.Join(part.got, "; "))
		}
	}
	return ""
}
