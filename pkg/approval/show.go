package approval

import (
	"bytes"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mcpgw/mcpgw/pkg/identity"
)

// masked stands for a value that a human need not see to know what a call does.
const masked = `"***"`

// mask hides what has the form of a credential, and leaves the rest, so that a human sees what a call does. It looks only at what can be
// shown in so many bytes.
func mask(s string, most int) string {
	const window = 8 << 10 // of a credential that begins in what is shown
	if most = max(most, 0) + window; len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return identity.MaskCredentials(s)
}

// Show writes a JSON object for a human: compact, what looks like a credential by its name or by itself masked, characters that do not show
// or that turn a line around escaped, and no more than about most bytes; what is left out is counted. Text that is no JSON is not shown.
func Show(object []byte, most int) string {
	if len(object) == 0 {
		return ""
	}
	var b strings.Builder
	d := jsontext.NewDecoder(bytes.NewReader(object), jsontext.AllowDuplicateNames(true))
	for b.Len() <= most {
		kind, n := d.StackIndex(d.StackDepth())
		isName := kind == jsontext.KindBeginObject && n%2 == 0
		next := d.PeekKind()
		if next == jsontext.KindInvalid {
			if d.StackDepth() == 0 && d.InputOffset() > 0 {
				break // the end
			}
			return "(unreadable)"
		}
		closing := next == jsontext.KindEndObject || next == jsontext.KindEndArray
		switch {
		case closing || n == 0:
		case kind == jsontext.KindBeginObject && !isName:
			b.WriteByte(':')
		default:
			b.WriteByte(',')
		}
		switch next {
		case jsontext.KindBeginObject, jsontext.KindBeginArray, jsontext.KindEndObject, jsontext.KindEndArray:
			if _, err := d.ReadToken(); err != nil {
				return "(unreadable)"
			}
			b.WriteByte(byte(next))
			continue
		}
		t, err := d.ReadToken()
		if err != nil {
			return "(unreadable)"
		}
		if t.Kind() != jsontext.KindString {
			b.WriteString(t.String())
			continue
		}
		s := t.String()
		b.WriteString(quote(mask(s, most-b.Len()), most-b.Len()))
		if isName && identity.NamesCredential(s) {
			if err := d.SkipValue(); err != nil {
				return "(unreadable)"
			}
			b.WriteString(":" + masked)
		}
	}
	if b.Len() <= most {
		return b.String()
	}
	return cut(b.String(), most) + "… (" + strconv.Itoa(len(object)) + " bytes in all)"
}

// Plain makes a text of foreign origin fit to be read: as Show, for one line.
func Plain(s string, most int) string {
	q := quote(mask(s, most), most)
	if q = q[1 : len(q)-1]; len(q) > most {
		return cut(q, most) + "…"
	}
	return strings.ReplaceAll(q, `\"`, `"`)
}

// quote is a JSON string in which everything shows; what is far beyond most bytes is left out.
func quote(s string, most int) string {
	if most = max(most, 0); len(s) > most+utf8.UTFMax {
		s = strings.ToValidUTF8(s[:most+utf8.UTFMax], "")
	}
	b := make([]byte, 0, len(s)+2)
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, '\\', 'n')
		case r == ' ' || unicode.IsGraphic(r) && !unicode.Is(unicode.Zs, r):
			b = utf8.AppendRune(b, r)
		case r > 0xffff:
			b = append(b, `\U`...)
			b = append(b, pad(r, 8)...)
		default:
			b = append(b, `\u`...)
			b = append(b, pad(r, 4)...)
		}
	}
	return string(append(b, '"'))
}

func pad(r rune, n int) string {
	h := strconv.FormatInt(int64(r), 16)
	return strings.Repeat("0", max(n-len(h), 0)) + h
}

// cut is the first bytes of a text, whole characters.
func cut(s string, most int) string {
	return strings.ToValidUTF8(s[:min(most, len(s))], "")
}
