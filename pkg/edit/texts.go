package edit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

// texts says how expressions are searched in a text's strings.
type texts struct {
	patterns []pattern
	within   bool // also in the strings of JSON that a string holds: it may be written with escapes, and ^ and $ mean its own ends
	numbers  bool // also in the numbers of what is a tool's own: one with a match becomes a text
	message  bool // the protocol's own words are told apart: data in Base64, and tokens that say what a message belongs to
	tokens   bool // message is what a notification or request says: its tokens stay, or no one finds what it belongs to
}

// texts replaces the matches in all strings of a JSON value but the names of members.
func (w *work) texts(text []byte, t texts) ([]byte, error) {
	if len(t.patterns) == 0 {
		return text, nil
	}
	s := textWalk{work: w, texts: t, d: w.begin(text)}
	if err := s.value(t.message); err != nil {
		return nil, err
	}
	return w.finish(text)
}

type textWalk struct {
	*work
	texts
	d    *jsontext.Decoder
	name []byte
	text []byte
}

// value walks the next value. protocol says that what is in it are the protocol's own words, not those of a tool.
func (s *textWalk) value(protocol bool) error {
	switch s.d.PeekKind() {
	case jsontext.KindBeginObject:
		return s.members(protocol)
	case jsontext.KindBeginArray:
		if _, err := s.d.ReadToken(); err != nil {
			return err
		}
		for {
			if k := s.d.PeekKind(); k == jsontext.KindEndArray || k == jsontext.KindInvalid {
				_, err := s.d.ReadToken()
				return err
			}
			if err := s.value(protocol); err != nil {
				return err
			}
		}
	case jsontext.KindString:
		raw, err := s.d.ReadValue()
		if err != nil {
			return err
		}
		return s.str(raw)
	case jsontext.KindNumber:
		raw, err := s.d.ReadValue()
		if err != nil || protocol || !s.numbers {
			return err
		}
		changed, err := s.replace(raw)
		if err != nil || changed == nil {
			return err
		}
		return s.put(int(s.d.InputOffset())-len(raw), len(raw), jsonrpc.AppendString(nil, string(changed)), 0)
	}
	return s.d.SkipValue()
}

// role is what the protocol says by a member's name.
type role int8

const (
	other role = iota
	blob       // Base64
	data       // Base64 where mimeType stands beside it
	mime
	token
	foreign // what is below is a tool's own
)

func roleOf(name []byte) role {
	switch string(name) {
	case "blob":
		return blob
	case "data":
		return data
	case "mimeType":
		return mime
	case "progressToken", "requestId":
		return token
	case "structuredContent", "_meta":
		return foreign
	}
	return other
}

func (s *textWalk) members(protocol bool) error {
	if _, err := s.d.ReadToken(); err != nil {
		return err
	}
	var held []byte // the value of data, until it is known whether mimeType stands beside it
	heldAt, typed := 0, false
	for {
		if k := s.d.PeekKind(); k == jsontext.KindEndObject || k == jsontext.KindInvalid {
			break
		}
		raw, err := s.d.ReadValue()
		if err != nil {
			return err
		}
		what := other
		if protocol {
			if s.name, err = jsontext.AppendUnquote(s.name[:0], raw); err != nil {
				return err
			}
			what = roleOf(s.name)
		}
		typed = typed || what == mime
		if s.d.PeekKind() != jsontext.KindString || what != blob && what != data && (what != token || !s.tokens) {
			own := what == data || what == foreign && !s.tokens // what a tool has put there, in its own words
			if err := s.value(protocol && !own); err != nil {
				return err
			}
			continue
		}
		if raw, err = s.d.ReadValue(); err != nil {
			return err
		}
		switch at := int(s.d.InputOffset()) - len(raw); what {
		case blob:
			err = s.binary(raw, at)
		case data:
			held, heldAt = s.src[at:at+len(raw)], at
		}
		if err != nil {
			return err
		}
	}
	if _, err := s.d.ReadToken(); err != nil {
		return err
	}
	switch {
	case held == nil:
		return nil
	case typed:
		return s.binary(held, heldAt)
	}
	return s.strAt(held, heldAt)
}

func (s *textWalk) str(raw []byte) error { return s.strAt(raw, int(s.d.InputOffset())-len(raw)) }

func (s *textWalk) strAt(raw []byte, at int) error {
	text := raw[1 : len(raw)-1]
	if bytes.IndexByte(raw, '\\') >= 0 || s.lenient {
		var err error
		if s.text, err = jsontext.AppendUnquote(s.text[:0], raw); err != nil && !s.lenient {
			return err
		}
		text = s.text
	}
	changed, err := s.replace(text)
	if err != nil || changed == nil {
		return err
	}
	return s.put(at, len(raw), jsonrpc.AppendString(nil, string(changed)), 0)
}

// binary replaces in what a string holds in Base64. Only text can be searched: an image under such a change is refused.
func (s *textWalk) binary(raw []byte, at int) error {
	encoded, err := jsontext.AppendUnquote(nil, raw)
	if err != nil {
		return err
	}
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		decoded, err := enc.AppendDecode(nil, encoded)
		if err != nil {
			continue
		}
		if !utf8.Valid(decoded) || bytes.IndexByte(decoded, 0) >= 0 {
			return fmt.Errorf("binary data: %w", ErrUnreadable)
		}
		changed, err := s.replace(decoded)
		if err != nil || changed == nil {
			return err
		}
		return s.put(at, len(raw), jsonrpc.AppendString(nil, enc.EncodeToString(changed)), 0)
	}
	return fmt.Errorf("data that is no Base64: %w", ErrUnreadable)
}

// replace makes the changes in one decoded text; nil where nothing matches. The text is not kept.
func (s *textWalk) replace(text []byte) (changed []byte, err error) {
	if s.within {
		inner := s.inside()
		if changed, err = inner.texts(text); err != nil {
			return nil, err
		}
		s.changed = inner.changed
		if changed != nil {
			text = changed
		}
	}
	for i := range s.patterns {
		p := &s.patterns[i]
		if !p.re.Match(text) {
			continue
		}
		found := p.re.FindAllSubmatchIndex(text, maxEdits-s.changed+1)
		if s.changed += len(found); s.changed > maxEdits {
			return nil, fmt.Errorf("more than %d matches: %w", maxEdits, ErrTooLarge)
		}
		var out []byte
		done := 0
		for _, m := range found {
			// Each group is a part of the match, so this is the most that may come out: known before it is made.
			if most := len(out) + m[0] - done + len(p.with) + p.dollars*(m[1]-m[0]); most > s.most {
				return nil, fmt.Errorf("a text of up to %d bytes after the change: %w", most, ErrTooLarge)
			}
			out = append(out, text[done:m[0]]...)
			out = p.re.Expand(out, p.with, text, m)
			done = m[1]
		}
		out = append(out, text[done:]...)
		if len(out) > s.most {
			return nil, fmt.Errorf("a text of %d bytes after the change: %w", len(out), ErrTooLarge)
		}
		changed, text = out, out
		if changed == nil { // what was replaced by nothing is not what was not changed
			changed = []byte{}
		}
	}
	return changed, nil
}

// inner changes JSON that a text holds.
type inner struct {
	work
	patterns []pattern
	paths    []path
}

// inside is for the texts within the texts of s.
func (s *textWalk) inside() *inner {
	return &inner{work: work{most: s.most, lenient: true, changed: s.changed}, patterns: s.patterns}
}

// texts changes the objects, arrays and strings that a text consists of, one after the other; nil where nothing changes. What follows the
// last that can be read, or is no JSON from the start, stays.
func (i *inner) texts(text []byte) ([]byte, error) {
	t := bytes.TrimLeft(text, " \t\r\n")
	if len(t) == 0 || t[0] != '{' && t[0] != '[' && t[0] != '"' {
		return nil, nil
	}
	d := i.begin(text)
	var kept []jsonrpc.Edit // of all values that are whole
	for {
		if k := d.PeekKind(); k != jsontext.KindBeginObject && k != jsontext.KindBeginArray && k != jsontext.KindString {
			break
		}
		var err error
		if i.paths != nil {
			p := pathWalk{work: &i.work, d: d}
			active := make([]cursor, len(i.paths))
			for n := range i.paths {
				active[n] = cursor{&i.paths[n], 0}
			}
			_, err = p.value(active)
		} else {
			s := textWalk{work: &i.work, texts: texts{patterns: i.patterns, numbers: true}, d: d}
			err = s.value(false)
		}
		if errors.Is(err, ErrTooLarge) {
			return nil, err
		}
		if err != nil {
			break
		}
		kept = i.edits
	}
	if len(kept) == 0 {
		return nil, nil
	}
	i.edits, i.size = kept, len(text)
	for _, e := range kept {
		i.size += len(e.Text) - e.Len
	}
	return i.finish(text)
}
