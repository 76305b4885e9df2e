package edit

import (
	"bytes"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

// Message redacts a message of a server that belongs to a call: its body after the change, at most so many bytes; m.Body itself where
// nothing changes. Any error means that the client must not see the message.
//
// In a result, pointers begin at the result, and what they say of structuredContent holds as well for JSON in the texts of content:
// servers say the same twice. Expressions are searched in every string of the result, in the JSON that a string holds, and in what is in
// Base64 (blob, and data beside a mimeType) if that is text; other data there is ErrUnreadable. They are searched as well in the numbers of
// what is a tool's own (structuredContent, _meta, data, JSON in strings), and one with a match becomes a string; the protocol's numbers and
// all names of members stay. In an error, and in what a server says or asks on the way, expressions alone count: pointers are about results.
func (e *Editor) Message(m *jsonrpc.Message, most int) ([]byte, error) {
	if len(m.Body) > most {
		return nil, ErrTooLarge
	}
	w := work{most: most}
	t := texts{patterns: e.patterns, within: true, numbers: true, message: true}
	var v jsonrpc.Value
	var text []byte
	var err error
	switch {
	case m.Kind == jsonrpc.Response && m.Result.Exists():
		v = m.Result
		if text, err = w.paths(v.Raw, e.paths); err != nil {
			return nil, err
		}
		if text, err = w.paths(text, e.copies(&w)); err != nil {
			return nil, err
		}
	case m.Kind == jsonrpc.Response:
		v = m.Error
		text = v.Raw
	default:
		v, t.tokens = m.Params.Value, true
		text = v.Raw
	}
	if v.Exists() {
		if text, err = w.texts(text, t); err != nil {
			return nil, err
		}
	}
	edits, err := w.beside(m, t, v)
	if err != nil {
		return nil, err
	}
	if w.changed == 0 {
		return m.Body, nil
	}
	if v.Exists() {
		edits = append(edits, jsonrpc.Edit{Pos: v.Pos, Len: len(v.Raw), Text: text})
	}
	size := len(m.Body)
	for _, e := range edits {
		size += len(e.Text) - e.Len
	}
	if size > most {
		return nil, ErrTooLarge
	}
	slices.SortFunc(edits, func(a, b jsonrpc.Edit) int { return a.Pos - b.Pos })
	return jsonrpc.Splice(m.Body, edits...), nil
}

// beside searches what stands beside main in a message and belongs to no message: a client sees it all the same.
func (w *work) beside(m *jsonrpc.Message, t texts, main jsonrpc.Value) (edits []jsonrpc.Edit, err error) {
	if len(t.patterns) == 0 {
		return nil, nil
	}
	o, err := jsonrpc.Parse(m.Body, jsonrpc.Limits{Depth: maxDepth})
	if err != nil {
		return nil, err
	}
	t.message = false
	for _, other := range o.Members {
		switch other.Name {
		case "jsonrpc", "id", "method":
			continue
		}
		v := other.Value
		if main.Exists() && v.Pos == main.Pos {
			continue
		}
		text, err := w.texts(v.Raw, t)
		if err != nil {
			return nil, err
		}
		edits = append(edits, jsonrpc.Edit{Pos: v.Pos, Len: len(v.Raw), Text: text})
	}
	return edits, nil
}

// maxDepth is deeper than any message that was read.
const maxDepth = 1 << 14

// copies are the changes of texts that repeat structuredContent, for clients of older revisions (2025-06-18, "Structured Content").
func (e *Editor) copies(w *work) []path {
	if e.inner == nil && e.whole == nil {
		return nil
	}
	text := func(raw []byte) ([]byte, error) {
		if len(raw) == 0 || raw[0] != '"' {
			return nil, nil
		}
		text, err := jsontext.AppendUnquote(nil, raw)
		if err != nil {
			return nil, err
		}
		if e.whole != nil {
			if !isJSON(text) && !jsontext.Value(text).IsValid(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) {
				return nil, nil
			}
			w.changed++
			return jsonrpc.AppendString(nil, string(e.whole.value)), nil // of what is removed nothing is left
		}
		i := inner{work: work{most: w.most, lenient: true, changed: w.changed}, paths: e.inner}
		changed, err := i.texts(text)
		w.changed = i.changed
		if err != nil || changed == nil {
			return nil, err
		}
		return jsonrpc.AppendString(nil, string(changed)), nil
	}
	all := segment{all: true}
	content, resource, member := segment{name: "content"}, segment{name: "resource"}, segment{name: "text"}
	return []path{
		{segments: []segment{content, all, member}, edit: text},
		{segments: []segment{content, all, resource, member}, edit: text},
	}
}

// isJSON reports whether a text begins with an object or array.
func isJSON(text []byte) bool {
	t := bytes.TrimLeft(text, " \t\r\n")
	if len(t) == 0 || t[0] != '{' && t[0] != '[' {
		return false
	}
	return jsontext.NewDecoder(bytes.NewBuffer(t), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)).SkipValue() == nil
}
