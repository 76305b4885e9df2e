package edit_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/edit"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

// tree is a JSON value whose scalars, names and white space are kept as they are written. It is the reference's form: changed as a tree and
// written anew, with no line in common with the editor.
type tree struct {
	raw   string // of a scalar
	open  byte   // { or [, 0 for a scalar
	parts []part
	space string // before the end of a container
}

type part struct {
	before string // white space
	name   string // raw, of a member
	value  *tree
}

func (v *tree) String() string {
	if v.open == 0 {
		return v.raw
	}
	var b strings.Builder
	b.WriteByte(v.open)
	for i, p := range v.parts {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(p.before)
		if v.open == '{' {
			b.WriteString(p.name + ":")
		}
		b.WriteString(p.value.String())
	}
	return b.String() + v.space + string(v.open+2)
}

func decoded(raw string) string {
	var s string
	if err := json.Unmarshal([]byte(raw), &s); err != nil {
		panic(err)
	}
	return s
}

var (
	names   = rapid.SampledFrom([]string{`"a"`, `"b"`, `"c"`, `"\u0061b"`, `"a\/b"`, `"~"`, `""`, `"*"`, `"0"`, `"text"`})
	spaces  = rapid.SampledFrom([]string{"", "", " ", "\n\t"})
	scalars = rapid.SampledFrom([]string{"1", "1.0", "9007199254740993", "-0", "1E2", "true", "null", `""`, `"secret"`, `"a secret, a s\u0065cret"`, `"\ud83d\ude00\/"`, `"x"`, `"secresecrett"`, `"4111"`})
)

func drawTree(t *rapid.T, depth int) *tree {
	kind := rapid.IntRange(0, 3).Draw(t, "kind")
	if depth == 0 || kind < 1 {
		return &tree{raw: scalars.Draw(t, "scalar")}
	}
	v := &tree{open: '[', space: spaces.Draw(t, "space")}
	if kind > 1 {
		v.open = '{'
	}
	return v.fill(t, depth)
}

func (v *tree) fill(t *rapid.T, depth int) *tree {
	seen := map[string]bool{}
	for range rapid.IntRange(0, 4).Draw(t, "parts") {
		name := names.Draw(t, "name")
		if v.open == '{' && seen[decoded(name)] {
			continue
		}
		seen[decoded(name)] = true
		v.parts = append(v.parts, part{spaces.Draw(t, "before"), name, drawTree(t, depth-1)})
	}
	return v
}

func drawObject(t *rapid.T) *tree {
	return (&tree{open: '{', space: spaces.Draw(t, "space")}).fill(t, 4)
}

var segments = rapid.SampledFrom([]string{"a", "b", "c", "ab", "a~1b", "~0", "", "*", "0", "1", "-", "text"})

func drawChange(t *rapid.T) edit.Change {
	if rapid.Bool().Draw(t, "pattern") {
		return edit.Change{
			Pattern: rapid.SampledFrom([]string{"secret", "^secret$", "s.cret", "[0-9]+", "(sec)(ret)"}).Draw(t, "expr"),
			With:    rapid.SampledFrom([]string{"", "-", "[gone]", "$0$0", "${2}"}).Draw(t, "with"),
		}
	}
	c := edit.Change{Path: "/" + strings.Join(rapid.SliceOfN(segments, 1, 3).Draw(t, "path"), "/")}
	if v := rapid.SampledFrom([]string{"", "0", `"new secret"`, `{"x":1.0}`, "null"}).Draw(t, "value"); v != "" {
		c.Value = []byte(v)
	}
	return c
}

var errRefused = errors.New("refused")

// rewriteTree sets, adds or removes what one pointer names, as the documentation of Arguments says.
func (v *tree) rewrite(path []string, value []byte) error {
	name := strings.NewReplacer("~1", "/", "~0", "~").Replace(path[0])
	if v.open == 0 {
		if value == nil {
			return nil
		}
		return errRefused
	}
	found := false
	var kept []part
	for i, p := range v.parts {
		is := path[0] == "*" || v.open == '{' && decoded(p.name) == name || v.open == '[' && strconv.Itoa(i) == name
		found = found || is
		switch {
		case !is:
		case len(path) > 1:
			if err := p.value.rewrite(path[1:], value); err != nil {
				return err
			}
		case value == nil:
			continue
		default:
			p.value = &tree{raw: string(value)}
		}
		kept = append(kept, p)
	}
	v.parts = kept
	if found || value == nil || path[0] == "*" {
		return nil
	}
	if len(path) > 1 || v.open == '[' && name != "-" {
		return errRefused
	}
	quoted := string(jsonrpc.AppendString(nil, name))
	v.parts = append(v.parts, part{"", quoted, &tree{raw: string(value)}})
	return nil
}

// replaced is a JSON text with the matches in all strings but names replaced, and every other token as it was.
func replaced(text, expr, with string) string {
	var b strings.Builder
	re := regexp.MustCompile(expr)
	strs := regexp.MustCompile(`"(\\.|[^"\\])*"`)
	done := 0
	for _, at := range strs.FindAllStringIndex(text, -1) {
		b.WriteString(text[done:at[0]])
		raw := text[at[0]:at[1]]
		if is := decoded(raw); !strings.HasPrefix(text[at[1]:], ":") && re.MatchString(is) { // the reference writes names without space behind
			raw = string(jsonrpc.AppendString(nil, re.ReplaceAllString(is, with)))
		}
		b.WriteString(raw)
		done = at[1]
	}
	return b.String() + text[done:]
}

// squeezed is a text without its white space; the texts drawn here have none in strings but blanks.
func squeezed(s string) string { return strings.NewReplacer("\n", "", "\t", "", " ", "").Replace(s) }

// TestRewriteAgreesWithReference: one pointer or expression does what the slow reference does, to the byte. White space beside what is
// removed or added goes or stays as it is convenient; elsewhere it is compared, too.
func TestRewriteAgreesWithReference(t *testing.T) {
	many(t, func(t *rapid.T) {
		doc := drawObject(t)
		in := doc.String()
		c := drawChange(t)
		got, _, err := with2(t, c).Arguments([]byte(in), 1<<20)
		if c.Pattern != "" {
			if want := replaced(in, c.Pattern, c.With); err != nil || string(got) != want {
				t.Fatalf("%s with %+v\ngot  %s (%v)\nwant %s", in, c, got, err, want)
			}
			return
		}
		before := count(doc)
		failed := doc.rewrite(strings.Split(c.Path[1:], "/"), c.Value)
		if (err == nil) != (failed == nil) || failed != nil && !errors.Is(err, edit.ErrAbsent) {
			t.Fatalf("%s with %+v: %v, the reference says %v", in, c, err, failed)
		}
		if err != nil {
			return
		}
		want, is := doc.String(), string(got)
		if count(doc) != before {
			want, is = squeezed(want), squeezed(is)
		}
		if is != want {
			t.Fatalf("%s with %+v\ngot  %s\nwant %s", in, c, got, want)
		}
	})
}

func count(v *tree) int {
	n := 1
	for _, p := range v.parts {
		n += count(p.value)
	}
	return n
}

func with2(t *rapid.T, c ...edit.Change) *edit.Editor {
	var p edit.Patterns
	e, err := p.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// many checks 20 cases at a time: with rapid's 100 checks, 2,000 cases.
func many(t *testing.T, property func(*rapid.T)) {
	rapid.Check(t, func(t *rapid.T) {
		for range 20 {
			property(t)
		}
	})
}

// TestRewriteChangesNothingElse: any set of changes leaves every value that no change is about as it is written and in its order, and
// whatever comes out is JSON that is read as strictly as what came in.
func TestRewriteChangesNothingElse(t *testing.T) {
	many(t, func(t *rapid.T) {
		in := drawObject(t).String()
		set := rapid.SliceOfN(rapid.Custom(drawChange), 1, 4).Draw(t, "changes")
		got, changed, err := with2(t, set...).Arguments([]byte(in), 1<<20)
		if err != nil {
			return // the other tests say when
		}
		if changed == 0 && string(got) != in {
			t.Fatalf("nothing changed, yet %s became %s", in, got)
		}
		if _, err := jsonrpc.Parse(got, jsonrpc.Limits{}); err != nil {
			t.Fatalf("%s became %s: %v", in, got, err)
		}
		was, is := leaves([]byte(in)), leaves(got)
		var order []string
		for _, l := range is {
			if !touched(l.path, set) && !matched(l.raw, set) {
				order = append(order, l.String())
			}
		}
		var want []string
		for _, l := range was {
			if !touched(l.path, set) && !matched(l.raw, set) {
				want = append(want, l.String())
			}
		}
		if g, w := strings.Join(order, "\n"), strings.Join(want, "\n"); g != w {
			t.Fatalf("%s with %+v became %s\nuntouched now:\n%s\nbefore:\n%s", in, set, got, g, w)
		}
	})
}

type leaf struct {
	path []string
	raw  string
}

func (l leaf) String() string { return fmt.Sprintf("%q %s", l.path, l.raw) }

// leaves lists the scalars of a text in order.
func leaves(text []byte) (out []leaf) {
	d := jsontext.NewDecoder(strings.NewReader(string(text)))
	for {
		kind := d.PeekKind()
		if kind == jsontext.KindInvalid {
			return out
		}
		in, n := d.StackIndex(d.StackDepth())
		if kind == '{' || kind == '[' || kind == '}' || kind == ']' || in == '{' && n%2 == 0 {
			if _, err := d.ReadToken(); err != nil {
				panic(err)
			}
			continue
		}
		raw, err := d.ReadValue()
		if err != nil {
			panic(err)
		}
		var path []string
		for s := range d.StackPointer().Tokens() {
			path = append(path, s)
		}
		out = append(out, leaf{path, string(raw)})
	}
}

// touched reports whether a pointer is about a value, what is around it or in it; and, where elements may be removed, about its array.
func touched(path []string, set []edit.Change) bool {
	for _, c := range set {
		if c.Path == "" {
			continue
		}
		said := strings.Split(c.Path[1:], "/")
		about := true
		for i, s := range said {
			if i == len(path) {
				break
			}
			_, notIndex := strconv.Atoi(path[i])
			s = strings.NewReplacer("~1", "/", "~0", "~").Replace(s)
			if last := i == len(said)-1; s != "*" && s != path[i] && (!last || notIndex != nil) {
				about = false
				break
			}
		}
		if about {
			return true
		}
	}
	return false
}

func matched(raw string, set []edit.Change) bool {
	for _, c := range set {
		if c.Pattern != "" && raw[0] == '"' {
			return true // any string may have been changed by it
		}
	}
	return false
}

// result is a response around a result.
func result(t *rapid.T, text string) *jsonrpc.Message {
	m, err := jsonrpc.Read([]byte(`{"jsonrpc":"2.0","id":1,"result":`+text+`}`), jsonrpc.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestRedactionLeavesNoMatch: whatever the result, no text of it matches afterwards, nor does a text in JSON in a text; no place that was to
// go is there; and a second time changes nothing.
func TestRedactionLeavesNoMatch(t *testing.T) {
	many(t, func(t *rapid.T) {
		structured := drawObject(t).String()
		text := structured
		if rapid.Bool().Draw(t, "another text") {
			text = drawTree(t, 3).String()
		}
		in := `{"structuredContent":` + structured + `,"content":[{"type":"text","text":` + string(jsonrpc.AppendString(nil, text)) + `},` + drawTree(t, 3).String() + `]}`
		exprs := []string{"secret", "^x$", "[0-9]{4}"}
		// With a path that removes members, not elements: the elements behind one move up, and a second time others go.
		path := "/structuredContent/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "ab", "*"}), 1, 2).Draw(t, "path"), "/")
		set := changes(edit.Change{Path: path, Value: []byte(`"gone"`)})
		for _, expr := range exprs {
			set = append(set, pattern(expr, "-"))
		}
		got, err := with2(t, set...).Message(result(t, in), 1<<20)
		if err != nil {
			t.Fatalf("%s: %v", in, err)
		}
		m, err := jsonrpc.Read(got, jsonrpc.Limits{})
		if err != nil {
			t.Fatalf("%s became %s: %v", in, got, err)
		}
		again, err := with2(t, set...).Message(m, 1<<20)
		if err != nil || string(again) != string(got) && !strings.Contains(path, "*") {
			t.Fatalf("again: %s became %s (%v)", got, again, err)
		}
		look := func(l leaf) {
			s := l.raw // of a number
			if l.raw[0] == '"' {
				s = decoded(l.raw)
			}
			for _, expr := range exprs {
				if regexp.MustCompile(expr).MatchString(s) {
					t.Fatalf("%s is left in %s\nof %s", s, got, in)
				}
			}
		}
		for _, l := range leaves(m.Result.Raw) {
			if l.raw[0] == '"' || l.path[0] == "structuredContent" {
				look(l)
			}
			if s := ""; l.raw[0] == '"' {
				s = decoded(l.raw)
				if s != "" && (s[0] == '{' || s[0] == '[') && json.Valid([]byte(s)) {
					for _, l := range leaves([]byte(s)) {
						look(l)
					}
				}
			}
		}
	})
}

// TestRedactionsTogether: any set of redactions leaves a message, and of two about one place the outer or the removal counts.
func TestRedactionsTogether(t *testing.T) {
	many(t, func(t *rapid.T) {
		in := `{"structuredContent":` + drawObject(t).String() + `,"content":[{"type":"text","text":` + string(jsonrpc.AppendString(nil, drawObject(t).String())) + `}],"a":` + drawTree(t, 3).String() + `}`
		set := rapid.SliceOfN(rapid.Custom(drawChange), 1, 6).Draw(t, "changes")
		for i, c := range set {
			if c.Path != "" && rapid.Bool().Draw(t, "structured") {
				set[i].Path = "/structuredContent" + c.Path
			}
		}
		got, err := with2(t, set...).Message(result(t, in), 1<<20)
		if err != nil {
			t.Fatalf("%s with %+v: %v", in, set, err)
		}
		m, err := jsonrpc.Read(got, jsonrpc.Limits{})
		if err != nil || m.Kind != jsonrpc.Response {
			t.Fatalf("%s with %+v became %s: %v", in, set, got, err)
		}
		for _, c := range set { // a member that only one change is about is gone, or what the change says
			name := strings.TrimPrefix(c.Path, "/structuredContent/")
			if c.Path == "" || name == c.Path || len(set) > 1 || strings.ContainsAny(name, "/*~") {
				continue
			}
			o, err := jsonrpc.Parse(m.Result.Raw, jsonrpc.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if o, err = jsonrpc.Parse(o.Get("structuredContent").Raw, jsonrpc.Limits{}); err != nil {
				t.Fatal(err)
			}
			if is := o.Get(name); is.Exists() && string(is.Raw) != string(c.Value) {
				t.Fatalf("%s with %+v left %s", in, set, is.Raw)
			}
		}
	})
}

// FuzzEdit: whatever the text, there is no panic, and what comes out of JSON is JSON within its bound.
func FuzzEdit(f *testing.F) {
	f.Add(`{"a":[1,{"b":"secret"}],"structuredContent":{"b":1}}`, "/a/*/b", "sec(r)et", "$1", []byte("null"))
	f.Add(`{"content":[{"text":"{\"b\":1}"},{"data":"aGk=","mimeType":"t"}]}`, "/structuredContent/b", "h", "", []byte(nil))
	f.Add(`{"contents":[{"blob":"aGk="}]}`, "/contents/-", "^", "x", []byte("{}"))
	f.Fuzz(func(t *testing.T, text, path, expr, with string, value []byte) {
		set := changes(edit.Change{Path: path})
		if jsontext.Value(value).IsValid() {
			set[0].Value = value
		}
		if expr != "" {
			set = append(set, edit.Change{Pattern: expr, With: with})
		}
		var p edit.Patterns
		e, err := p.Compile(set)
		if err != nil {
			return
		}
		const most = 1 << 16
		if out, _, err := e.Arguments([]byte(text), most); err == nil {
			if len(out) > most && len(out) > len(text) {
				t.Errorf("%d bytes", len(out))
			}
			if jsontext.Value(text).IsValid() && !jsontext.Value(out).IsValid() {
				t.Errorf("%q became %q", text, out)
			}
		}
		m, err := jsonrpc.Read([]byte(`{"jsonrpc":"2.0","id":1,"result":`+text+`}`), jsonrpc.Limits{})
		if err != nil {
			return
		}
		if out, err := e.Message(m, most); err == nil && (len(out) > most || !jsontext.Value(out).IsValid()) {
			t.Errorf("%q became %q", text, out)
		}
	})
}
