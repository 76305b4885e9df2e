package mcp

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Markers of an encoded header value (2026-07-28, "Transports", header encoding). They are compared exactly.
const (
	encodedPrefix = "=?base64?"
	encodedSuffix = "?="
)

// EncodeHeader writes a string as the value of Mcp-Name or Mcp-Param-*: as it is where that is safe, in Base64 otherwise.
func EncodeHeader(s string) string {
	if plainHeader(s) {
		return s
	}
	return encodedPrefix + base64.StdEncoding.EncodeToString([]byte(s)) + encodedSuffix
}

func plainHeader(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	if s != "" && (s[0] == ' ' || s[len(s)-1] == ' ') {
		return false
	}
	return !encoded(s)
}

func encoded(s string) bool {
	return len(s) >= len(encodedPrefix)+len(encodedSuffix) && strings.HasPrefix(s, encodedPrefix) && strings.HasSuffix(s, encodedSuffix)
}

// ErrHeader is why a header value cannot be read.
var ErrHeader = errors.New("not a valid header value")

// DecodeHeader reads the value of Mcp-Name or Mcp-Param-*. Optional white space around it must be gone already (RFC 9110, 5.5).
// Only a prefix or only a suffix of the encoding is literal text; wrong Base64 and broken UTF-8 are errors.
func DecodeHeader(s string) (string, error) {
	if !encoded(s) {
		for i := range len(s) {
			if s[i] < 0x20 && s[i] != '\t' || s[i] > 0x7e {
				return "", fmt.Errorf("%w: a character outside printable ASCII", ErrHeader)
			}
		}
		return s, nil
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s[len(encodedPrefix) : len(s)-len(encodedSuffix)])
	if err != nil {
		return "", fmt.Errorf("%w: bad Base64", ErrHeader)
	}
	if !utf8.Valid(b) {
		return "", fmt.Errorf("%w: not UTF-8", ErrHeader)
	}
	return string(b), nil
}

// ParamHeader is one argument that a tool wants mirrored in a header (2026-07-28, "x-mcp-header").
type ParamHeader struct {
	Name string   // the part after Mcp-Param-, as the schema spells it
	Path []string // property names from the arguments down
	Type string   // string, integer or boolean
}

// maxSchemaDepth bounds how deep ParamHeaders descends; a deeper schema is refused.
const maxSchemaDepth = 64

// ParamHeaders finds the x-mcp-header annotations of a tool's inputSchema. An error says why a client must drop the tool:
// an annotation that is empty, not a token, used twice, on a type other than string, integer or boolean, or on a property that is
// not reachable through properties alone.
func ParamHeaders(schema []byte) ([]ParamHeader, error) {
	if len(schema) == 0 || !strings.Contains(string(schema), "x-mcp-header") {
		return nil, nil // nearly every tool: no walk
	}
	var root any
	if err := json.Unmarshal(schema, &root); err != nil {
		return nil, fmt.Errorf("inputSchema: %w", err)
	}
	w := headerWalk{seen: map[string]bool{}}
	if err := w.walk(root, nil, true, 0); err != nil {
		return nil, err
	}
	return w.found, nil
}

type headerWalk struct {
	found []ParamHeader
	seen  map[string]bool
}

// walk visits every value of the schema; reachable is true while only properties keys were passed.
func (w *headerWalk) walk(v any, path []string, reachable bool, depth int) error {
	if depth > maxSchemaDepth {
		return errors.New("inputSchema is nested too deep")
	}
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if err := w.walk(e, path, false, depth+1); err != nil {
				return err
			}
		}
	case map[string]any:
		if h, ok := v["x-mcp-header"]; ok {
			if err := w.add(h, v, path, reachable); err != nil {
				return err
			}
		}
		for _, k := range sortedKeys(v) {
			props, ok := v[k].(map[string]any)
			if k != "properties" || !ok {
				if k == "x-mcp-header" || k == "default" || k == "const" || k == "enum" || k == "examples" {
					continue // data, not schema
				}
				if err := w.walk(v[k], path, false, depth+1); err != nil {
					return err
				}
				continue
			}
			for _, name := range sortedKeys(props) {
				if err := w.walk(props[name], append(path[:len(path):len(path)], name), reachable, depth+1); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (w *headerWalk) add(h any, schema map[string]any, path []string, reachable bool) error {
	name, ok := h.(string)
	where := strings.Join(path, ".")
	switch typ, _ := schema["type"].(string); {
	case !ok || !token(name):
		return fmt.Errorf("x-mcp-header of %q is not a header token", where)
	case len(path) == 0 || !reachable:
		return fmt.Errorf("x-mcp-header %q is not reachable through properties alone", name)
	case typ != "string" && typ != "integer" && typ != "boolean":
		return fmt.Errorf("x-mcp-header %q is on a property that is not a string, integer or boolean", name)
	case w.seen[strings.ToLower(name)]:
		return fmt.Errorf("x-mcp-header %q is used twice", name)
	default:
		w.seen[strings.ToLower(name)] = true
		w.found = append(w.found, ParamHeader{Name: name, Path: path, Type: typ})
	}
	return nil
}

// token reports whether s is 1*tchar (RFC 9110, 5.6.2).
func token(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0 {
			continue
		}
		return false
	}
	return true
}

// sortedKeys fixes the order in which a schema is read, so that reports do not vary.
func sortedKeys(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }
