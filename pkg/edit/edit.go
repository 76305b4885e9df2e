// Package edit changes JSON texts as a policy demands: arguments before a server sees them, results before a client does.
//
// A change says where by a JSON pointer (RFC 6901, with * as a segment for every member or element), or what by an RE2 expression that is
// searched in every text. Changes are splices: bytes outside of what is changed stay as they came, numbers and the order of members too.
// Pointers come first, expressions after them, so that these see what a pointer has put there.
//
// The two uses differ in what they do about a place that is not there. A rewrite adds a member to an object that is there and refuses
// where the object is not, since the call would otherwise happen without what policy demands. A redaction of what is not there is
// nothing. Whatever cannot be changed as demanded is an error, and the text is then not to be used at all.
//
// Everything is bounded: the size of the outcome, the number of splices, the number of expressions that are kept. All functions are safe
// for concurrent use.
package edit

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

// Change is one change. Exactly one of Path and Pattern is set.
type Change struct {
	Path    string // a JSON pointer, never that of the whole document
	Pattern string // an RE2 expression; every match in every text is replaced, member names excepted

	// Value is put at Path, as JSON text; nil removes what is there. With takes the place of each match of Pattern; $1 or ${1} is what the
	// group matched.
	Value []byte
	With  string
}

// Why a text cannot be changed.
var (
	// ErrAbsent says that a rewrite is about a place that the arguments do not have.
	ErrAbsent = errors.New("the place is not there")
	// ErrConflict says that two rewrites are about one place.
	ErrConflict = errors.New("two changes are about one place")
	// ErrTooLarge says that the outcome, or the work, is beyond its bound.
	ErrTooLarge = errors.New("larger than the bound")
	// ErrUnreadable says that a text holds what expressions cannot be searched in.
	ErrUnreadable = errors.New("cannot be searched")
)

// maxEdits is how many splices one text may get: values that change, and matches.
const maxEdits = 1 << 18

// Editor makes a set of changes.
type Editor struct {
	paths    []path
	inner    []path // what paths say of structuredContent, from there
	whole    *path  // the change of structuredContent itself
	patterns []pattern
}

type pattern struct {
	re      *regexp.Regexp
	with    []byte
	dollars int // how many groups with can name
}

// path is a compiled change by pointer.
type path struct {
	segments []segment
	value    []byte                       // nil removes
	edit     func([]byte) ([]byte, error) // where set: what becomes of the value; nil leaves it
}

type segment struct {
	name string
	all  bool // every member, every element
}

// Patterns keeps compiled expressions. The zero value is ready.
type Patterns struct {
	mu   sync.Mutex
	kept map[string]*regexp.Regexp
}

// maxPatterns is how many expressions are kept. A policy has a few; one that makes them from what calls say has no use for old ones.
const maxPatterns = 512

func (p *Patterns) compile(expr string) (*regexp.Regexp, error) {
	p.mu.Lock()
	re := p.kept[expr]
	p.mu.Unlock()
	if re != nil {
		return re, nil
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept == nil || len(p.kept) >= maxPatterns {
		p.kept = map[string]*regexp.Regexp{}
	}
	p.kept[expr] = re
	return re, nil
}

// Compile makes an editor. The changes must not be changed afterwards.
func (p *Patterns) Compile(changes []Change) (*Editor, error) {
	e := &Editor{}
	for _, c := range changes {
		if c.Pattern != "" {
			re, err := p.compile(c.Pattern)
			if err != nil {
				return nil, err
			}
			e.patterns = append(e.patterns, pattern{re, []byte(c.With), strings.Count(c.With, "$")})
			continue
		}
		segments, err := parse(c.Path)
		if err != nil {
			return nil, err
		}
		e.paths = append(e.paths, path{segments: segments, value: c.Value})
		if first := segments[0]; first.all || first.name == "structuredContent" {
			below := path{segments: segments[1:], value: c.Value}
			if len(below.segments) > 0 {
				e.inner = append(e.inner, below)
			} else if e.whole == nil || c.Value == nil {
				e.whole = &below
			}
		}
	}
	return e, nil
}

func parse(pointer string) ([]segment, error) {
	if pointer == "" || pointer[0] != '/' {
		return nil, fmt.Errorf("%q is no pointer to a part of a document", pointer)
	}
	var out []segment
	for s := range strings.SplitSeq(pointer[1:], "/") {
		name := unescape.Replace(s)
		out = append(out, segment{name: name, all: s == "*"})
	}
	return out, nil
}

// unescape is RFC 6901, section 4; a replacer does not look at its own output, so ~01 is ~1.
var unescape = strings.NewReplacer("~1", "/", "~0", "~")

// Paths lists the first segments of the pointers: the arguments that are touched by name. all is true where one is *.
func (e *Editor) Paths() (names []string, all bool) {
	for _, p := range e.paths {
		names, all = append(names, p.segments[0].name), all || p.segments[0].all
	}
	return names, all
}

// Arguments rewrites arguments: the text of one JSON object, nil where there are none. The outcome has at most so many bytes; changed
// counts the values and the matches that are others now. Out is text itself where there are none.
//
// What a pointer names is set, and added where it is a member that its object does not have, or - at the end of an array. Where the
// object or array is not there, or an index is beyond the array, the error is ErrAbsent; but what is to be removed may be absent, and *
// may stand for nothing in an object or array that is there. Two changes at one place are ErrConflict.
func (e *Editor) Arguments(text []byte, most int) (out []byte, changed int, err error) {
	out = text
	if out == nil {
		out = []byte("{}")
	}
	w := work{most: most, strict: true}
	if out, err = w.paths(out, e.paths); err != nil {
		return nil, 0, err
	}
	if out, err = w.texts(out, texts{patterns: e.patterns}); err != nil {
		return nil, 0, err
	}
	if w.changed == 0 {
		return text, 0, nil
	}
	return out, w.changed, nil
}

// work is one text's way through changes. Its bounds are for all of them together.
type work struct {
	most    int
	strict  bool // a rewrite
	lenient bool // of a text within a text, which nobody has read
	src     []byte
	edits   []jsonrpc.Edit
	size    int // of the outcome
	changed int // values and matches that are others now, in this text and within
}

// put notes an edit, which changes so many values or matches that have not been counted yet.
func (w *work) put(pos, n int, text []byte, changed int) error {
	w.size += len(text) - n
	w.changed += changed
	if w.changed > maxEdits {
		return fmt.Errorf("more than %d places change: %w", maxEdits, ErrTooLarge)
	}
	w.edits = append(w.edits, jsonrpc.Edit{Pos: pos, Len: n, Text: text})
	return nil
}

// finish makes the edits.
func (w *work) finish(text []byte) ([]byte, error) {
	if w.size > w.most {
		return nil, fmt.Errorf("%d bytes after the change: %w", w.size, ErrTooLarge)
	}
	if len(w.edits) == 0 {
		return text, nil
	}
	slices.SortFunc(w.edits, func(a, b jsonrpc.Edit) int { return a.Pos - b.Pos })
	return jsonrpc.Splice(text, w.edits...), nil
}

// begin starts a pass over a text.
func (w *work) begin(text []byte) *jsontext.Decoder {
	w.src, w.edits, w.size = text, w.edits[:0], len(text)
	// Who read the message found no duplicates; within a text of it there may be, and each is changed.
	return jsontext.NewDecoder(bytes.NewBuffer(text), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(w.lenient))
}

// paths makes changes by pointer.
func (w *work) paths(text []byte, paths []path) ([]byte, error) {
	if len(paths) == 0 {
		return text, nil
	}
	p := pathWalk{work: w, d: w.begin(text)}
	active := make([]cursor, len(paths))
	for i := range paths {
		active[i] = cursor{&paths[i], 0}
	}
	if _, err := p.value(active); err != nil {
		return nil, err
	}
	return w.finish(text)
}

// cursor is a change that is about something below the value at hand, as far as it has come.
type cursor struct {
	*path
	at int
}

func (c cursor) segment() segment { return c.segments[c.at] }
func (c cursor) last() bool       { return c.at+1 == len(c.segments) }

// demands reports whether the change must find its place.
func (c cursor) demands() bool { return c.value != nil }

func (c cursor) absent() error {
	var b strings.Builder
	for _, s := range c.segments[:c.at+1] {
		b.WriteString("/" + s.name)
	}
	return fmt.Errorf("%.200q: %w", b.String(), ErrAbsent)
}

type pathWalk struct {
	*work
	d    *jsontext.Decoder
	name []byte
}

func (p *pathWalk) offset() int { return int(p.d.InputOffset()) }

// value walks the next value, below which something is to change, and returns where it begins.
func (p *pathWalk) value(active []cursor) (start int, err error) {
	switch p.d.PeekKind() {
	case jsontext.KindBeginObject, jsontext.KindBeginArray:
		return p.container(active)
	}
	raw, err := p.d.ReadValue()
	if err != nil {
		return 0, err
	}
	for _, c := range active {
		if p.strict && c.demands() {
			return 0, c.absent()
		}
	}
	return p.offset() - len(raw), nil
}

// parts is where the members or elements of one container stand, for removing and adding with the commas right.
type parts struct {
	kept bool // one stays
	end  int  // of the part before, or of the opening
	gone int  // where parts begin that are removed and have none before them; -1
}

func (p *pathWalk) container(active []cursor) (start int, err error) {
	if _, err := p.d.ReadToken(); err != nil {
		return 0, err
	}
	open := p.offset()
	kind, _ := p.d.StackIndex(p.d.StackDepth())
	object := kind == jsontext.KindBeginObject
	found := make([]bool, len(active))
	list := parts{end: open, gone: -1}
	for n := 0; ; n++ {
		if k := p.d.PeekKind(); k == jsontext.KindEndObject || k == jsontext.KindEndArray || k == jsontext.KindInvalid {
			break
		}
		begin := -1
		if object {
			raw, err := p.d.ReadValue()
			if err != nil {
				return 0, err
			}
			begin = p.offset() - len(raw)
			if p.name, err = jsontext.AppendUnquote(p.name[:0], raw); err != nil && !p.lenient {
				return 0, err
			}
		} else {
			p.name = strconv.AppendInt(p.name[:0], int64(n), 10)
		}
		end, below, err := p.match(active, found)
		if err != nil {
			return 0, err
		}
		at, removed, err := p.part(end, below)
		if err != nil {
			return 0, err
		}
		if begin < 0 {
			begin = at
		}
		if err := p.place(&list, begin, removed); err != nil {
			return 0, err
		}
	}
	if _, err := p.d.ReadToken(); err != nil {
		return 0, err
	}
	if list.gone >= 0 {
		if err := p.put(list.gone, list.end-list.gone, nil, 1); err != nil {
			return 0, err
		}
	}
	return open - 1, p.add(active, found, object, list)
}

// match finds the changes that are about the part named p.name, and those about something below it.
func (p *pathWalk) match(active []cursor, found []bool) (end *path, below []cursor, err error) {
	for i, c := range active {
		if s := c.segment(); !s.all && s.name != string(p.name) {
			continue
		}
		found[i] = true
		switch {
		case !c.last():
			below = append(below, cursor{c.path, c.at + 1})
		case end != nil && p.strict:
			return nil, nil, fmt.Errorf("%.100q: %w", p.name, ErrConflict)
		case end == nil || c.value == nil: // of two redactions the one that leaves nothing
			end = c.path
		}
	}
	if p.strict && end != nil && len(below) > 0 {
		return nil, nil, fmt.Errorf("%.100q: %w", p.name, ErrConflict)
	}
	return end, below, nil
}

// part walks one member's value or one element.
func (p *pathWalk) part(end *path, below []cursor) (start int, removed bool, err error) {
	if end == nil && len(below) > 0 {
		start, err = p.value(below)
		return start, false, err
	}
	raw, err := p.d.ReadValue()
	if err != nil {
		return 0, false, err
	}
	start = p.offset() - len(raw)
	switch {
	case end == nil:
		return start, false, nil
	case end.edit != nil:
		text, err := end.edit(raw)
		if err == nil && text != nil {
			err = p.put(start, len(raw), text, 0)
		}
		return start, false, err
	case end.value == nil:
		return start, true, nil
	}
	return start, false, p.put(start, len(raw), end.value, 1)
}

// place notes a part that was walked: it begins at begin and ends where the decoder stands.
func (p *pathWalk) place(l *parts, begin int, removed bool) (err error) {
	if l.gone >= 0 {
		err = p.put(l.gone, begin-l.gone, nil, 1)
		l.gone = -1
	}
	before := l.end
	l.end = p.offset()
	switch {
	case err != nil:
	case !removed:
		l.kept = true
	case l.kept: // with the comma before it
		err = p.put(before, l.end-before, nil, 1)
	default:
		l.gone = begin
	}
	return err
}

// add puts what a rewrite names and the container does not have.
func (p *pathWalk) add(active []cursor, found []bool, object bool, l parts) error {
	if !p.strict {
		return nil
	}
	var text []byte
	added := 0
	for i, c := range active {
		s := c.segment()
		if found[i] || s.all || !c.demands() {
			continue
		}
		if !c.last() || !object && s.name != "-" {
			return c.absent()
		}
		for j, b := range active[:i] { // by * and by name, say
			if !found[j] && b.demands() && b.segment() == s {
				return fmt.Errorf("%.100q: %w", s.name, ErrConflict)
			}
		}
		if l.kept || len(text) > 0 {
			text = append(text, ',')
		}
		if object {
			text = append(jsonrpc.AppendString(text, s.name), ':')
		}
		text = append(text, c.value...)
		added++
	}
	if len(text) == 0 {
		return nil
	}
	return p.put(l.end, 0, text, added)
}
