package decision

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// secretNames are letters in a member's name by which it is taken for a credential, after all but letters and digits has been left out.
var secretNames = []string{
	"password", "passwd", "passphrase", "secret", "token", "apikey", "accesskey", "privatekey", "credential", "authorization", "cookie", "bearer",
}

// wholeNames would be found in harmless words: they count only as a whole.
var wholeNames = []string{"pin", "otp", "cvv", "session", "auth", "pwd", "pass"}

// secretValues are texts that are credentials whatever they are called.
var secretValues = regexp.MustCompile(`(?i)\b(bearer|basic) +[\w.~+/=-]{8,}|\beyJ[\w-]+\.[\w-]+\.|-----BEGIN|\b(sk|ghp|gho|glpat|xox[abp])[-_]\w{8,}|\bAKIA[0-9A-Z]{12,}|://[^/\s:@]+:[^/\s@]+@`)

const hidden = `"[hidden]"`

func secretName(name string) bool {
	plain := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return -1
	}, name)
	return slices.Contains(wholeNames, plain) || slices.ContainsFunc(secretNames, func(s string) bool { return strings.Contains(plain, s) })
}

// HideSecrets replaces, in the JSON text of a question or of a ruling, what looks like a credential by "[hidden]": members of arguments and claims by
// their names, at any depth, and texts by their form. It is for eyes, not for evaluation. A text of more than most bytes has its
// arguments left out. What cannot be read is left out as a whole.
func HideSecrets(question []byte, most int) []byte {
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
		if secretValues.MatchString(s) {
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
