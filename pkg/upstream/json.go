package upstream

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// lenient reads what a server sends of lists: a duplicate name deep inside one definition must cost that definition only,
// which the catalog then quarantines, and not the whole list.
func lenient(raw []byte) *jsontext.Decoder {
	return jsontext.NewDecoder(bytes.NewBuffer(raw), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

// object reads one level of a JSON object; the values are parts of raw. A name that stands twice at this level is an error.
func object(raw []byte) (map[string]jsontext.Value, error) {
	d := lenient(raw)
	if t, err := d.ReadToken(); err != nil || t.Kind() != jsontext.KindBeginObject {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	out := map[string]jsontext.Value{}
	for d.PeekKind() != jsontext.KindEndObject {
		name, err := d.ReadToken()
		if err != nil {
			return nil, err
		}
		key := name.String()
		v, err := d.ReadValue()
		if err != nil {
			return nil, err
		}
		if _, twice := out[key]; twice {
			return nil, fmt.Errorf("member %q stands twice", key)
		}
		end := d.InputOffset()
		out[key] = raw[end-int64(len(v)) : end : end]
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text after the JSON object")
	}
	return out, nil
}

// elements splits a JSON array; the elements are parts of raw, byte for byte.
func elements(raw []byte) ([][]byte, error) {
	d := lenient(raw)
	if t, err := d.ReadToken(); err != nil || t.Kind() != jsontext.KindBeginArray {
		return nil, fmt.Errorf("not a JSON array: %w", err)
	}
	out := [][]byte{}
	for d.PeekKind() != jsontext.KindEndArray {
		v, err := d.ReadValue()
		if err != nil {
			return nil, err
		}
		end := d.InputOffset()
		out = append(out, raw[end-int64(len(v)):end:end])
	}
	_, err := d.ReadToken()
	return out, err
}

// str is the decoded JSON string, or empty.
func str(v jsontext.Value) string {
	if v.Kind() != jsontext.KindString {
		return ""
	}
	s, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return ""
	}
	return string(s)
}
