package decision

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mcpgw/mcpgw/pkg/identity"
)

const hidden = `"[hidden]"`

// secretName is for names of arguments and claims: there, a session is what its holder may act with.
func secretName(name string) bool {
	return identity.NamesCredential(name) || strings.EqualFold(name, "session")
}

// hideSecrets replaces, in the JSON text of a question or of a ruling, what looks like a credential by "[hidden]": members of arguments and claims by
// their names, at any depth, and texts by their form. It is for eyes, not for evaluation. A text of more than most bytes has its
// arguments left out. What cannot be read is left out as a whole.
func hideSecrets(question []byte, most int) []byte {
	in := jsontext.NewDecoder(bytes.NewReader(question), jsontext.AllowDuplicateNames(true))
	var b bytes.Buffer
	out := jsontext.NewEncoder(&b, jsontext.AllowDuplicateNames(true))
	if err := hide(in, out, "", false, len(question) > most); err != nil {
		return []byte(hidden)
	}
	return bytes.TrimSpace(b.Bytes())
}

// hide copies one value. path is that of the members above; open says that names inside it are somebody's own.
func hide(in *jsontext.Decoder, out *jsontext.Encoder, path string, open, short bool) error {
	switch in.PeekKind() {
	case '{', '[':
		begin, err := in.ReadToken()
		if err != nil {
			return err
		}
		object := begin.Kind() == '{'
		if err := out.WriteToken(begin); err != nil {
			return err
		}
		for in.PeekKind() != '}' && in.PeekKind() != ']' {
			below, skip := path, ""
			if object {
				name, err := in.ReadToken()
				if err != nil {
					return err
				}
				text := name.String()
				if err := out.WriteToken(jsontext.String(text)); err != nil {
					return err
				}
				if below = path + "/" + text; open && secretName(text) {
					skip = hidden
				} else if short && below == "/arguments" {
					skip = `"[left out: too long]"`
				}
			}
			if skip != "" {
				if err := in.SkipValue(); err != nil {
					return err
				}
				if err := out.WriteValue(jsontext.Value(skip)); err != nil {
					return err
				}
				continue
			}
			if err := hide(in, out, below, open || below == "/arguments" || below == "/subject/claims" || below == "/rewrite", short); err != nil {
				return err
			}
		}
		end, err := in.ReadToken()
		if err != nil {
			return err
		}
		return out.WriteToken(end)
	case '"':
		t, err := in.ReadToken()
		if err != nil {
			return err
		}
		s := t.String()
		if identity.HoldsCredential(s) {
			return out.WriteValue(jsontext.Value(hidden))
		}
		return out.WriteToken(jsontext.String(s))
	case 'n', 't', 'f', '0':
		v, err := in.ReadValue()
		if err != nil {
			return err
		}
		return out.WriteValue(v)
	}
	return fmt.Errorf("no JSON at %d", in.InputOffset())
}
