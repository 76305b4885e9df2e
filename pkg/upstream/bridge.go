package upstream

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// Meta is what a modern request says in params._meta and a legacy client said once, in initialize.
type Meta struct {
	Capabilities []byte // ClientCapabilities, JSON object; nil means none
	ClientInfo   []byte // Implementation, JSON object; nil leaves it out
	LogLevel     string // what logging/setLevel asked for; empty leaves it out
}

// appendMeta appends the members of _meta that present does not have, separated by commas.
func appendMeta(dst []byte, m Meta, present jsonrpc.Object) []byte {
	some := false
	for _, v := range m.members() {
		if len(v.Value.Raw) == 0 || present.Get(v.Name).Exists() {
			continue
		}
		if some {
			dst = append(dst, ',')
		}
		some = true
		dst = append(append(jsonrpc.AppendString(dst, v.Name), ':'), v.Value.Raw...)
	}
	return dst
}

func (m Meta) members() []jsonrpc.Member {
	capabilities := m.Capabilities
	if capabilities == nil {
		capabilities = []byte("{}")
	}
	var level []byte
	if m.LogLevel != "" {
		level = jsonrpc.AppendString(nil, m.LogLevel)
	}
	return []jsonrpc.Member{
		{Name: mcp.MetaVersion, Value: jsonrpc.Value{Raw: jsonrpc.AppendString(nil, string(mcp.R20260728))}},
		{Name: mcp.MetaCapabilities, Value: jsonrpc.Value{Raw: capabilities}},
		{Name: mcp.MetaClientInfo, Value: jsonrpc.Value{Raw: m.ClientInfo}},
		{Name: mcp.MetaLogLevel, Value: jsonrpc.Value{Raw: level}},
	}
}

// AddMeta turns a legacy request into a modern one: the body of m with _meta added, every other byte as it was. A member of
// _meta that meta fills is replaced where the client sent one of that name.
func AddMeta(m *jsonrpc.Message, meta Meta) []byte {
	var edits []jsonrpc.Edit
	switch {
	case !m.Params.Exists():
		text := append(appendMeta([]byte(`,"params":{"_meta":{`), meta, m.Meta), "}}"...)
		edits = append(edits, jsonrpc.Edit{Pos: m.MethodValue.Pos + len(m.MethodValue.Raw), Text: text})
	case !m.Meta.Exists():
		text := append(appendMeta([]byte(`"_meta":{`), meta, m.Meta), '}')
		edits = append(edits, insert(m.Params, text))
	default:
		if text := appendMeta(nil, meta, m.Meta); len(text) > 0 {
			edits = append(edits, insert(m.Meta, text))
		}
		fill := map[string][]byte{}
		for _, f := range meta.members() {
			fill[f.Name] = f.Value.Raw
		}
		for _, v := range m.Meta.Members { // in the order in which they stand
			if text := fill[v.Name]; len(text) > 0 {
				edits = append(edits, jsonrpc.Edit{Pos: v.Value.Pos, Len: len(v.Value.Raw), Text: text})
			}
		}
	}
	return jsonrpc.Splice(m.Body, edits...)
}

// insert puts members at the beginning of an object.
func insert(o jsonrpc.Object, text []byte) jsonrpc.Edit {
	if len(o.Members) > 0 {
		text = append(text, ',')
	}
	return jsonrpc.Edit{Pos: o.Pos + 1, Text: text}
}

// ErrMirror says that a request cannot be sent in the modern era because a header cannot mirror what it says.
var ErrMirror = errors.New("cannot be mirrored in a header")

// ModernHeaders makes the headers that a modern request must carry from its body (2026-07-28, "Transports"):
// MCP-Protocol-Version, Mcp-Method, Mcp-Name, and Mcp-Param-* where item is a tool with mirrored arguments. item may be nil.
func ModernHeaders(m *jsonrpc.Message, item *catalog.Item) (http.Header, error) {
	h := modern(m.Method)
	if row := mcp.R20260728.Method(m.Method); row.Mirrored {
		name, ok := m.Params.Get(row.Param).Str()
		if !ok {
			return nil, fmt.Errorf("params.%s is not a string: %w", row.Param, ErrMirror)
		}
		h[canonName] = []string{mcp.EncodeHeader(name)}
	}
	if item == nil || m.Method != mcp.MethodToolsCall {
		return h, nil
	}
	for _, p := range item.Headers {
		v, err := argument(m.Arguments, p.Path)
		if err != nil {
			return nil, err
		}
		text, err := mirror(v, p.Type)
		if err != nil {
			return nil, fmt.Errorf("argument for %s%s is not of type %s: %w", mcp.HeaderParamPrefix, p.Name, p.Type, err)
		}
		if v.Exists() && v.Kind() != jsontext.KindNull {
			h[http.CanonicalHeaderKey(mcp.HeaderParamPrefix+p.Name)] = []string{text}
		}
	}
	return h, nil
}

// argument finds a nested argument; absent where any step of the path is.
func argument(o jsonrpc.Object, path []string) (jsonrpc.Value, error) {
	v := jsonrpc.Value{}
	for n, name := range path {
		if n > 0 {
			if v.Kind() != jsontext.KindBeginObject {
				return jsonrpc.Value{}, nil
			}
			var err error
			if o, err = jsonrpc.Parse(v.Raw, jsonrpc.Limits{}); err != nil {
				return v, err
			}
		}
		if v = o.Get(name); !v.Exists() {
			return v, nil
		}
	}
	return v, nil
}

// maxInteger is the largest integer that a mirrored argument may have: 2^53-1.
const maxInteger = 1<<53 - 1

// mirror writes a value as a header; null and absent give no header and no error.
func mirror(v jsonrpc.Value, typ string) (string, error) {
	if !v.Exists() || v.Kind() == jsontext.KindNull {
		return "", nil
	}
	switch typ {
	case "string":
		if s, ok := v.Str(); ok {
			return mcp.EncodeHeader(s), nil
		}
	case "boolean":
		if k := v.Kind(); k == jsontext.KindTrue || k == jsontext.KindFalse {
			return string(v.Raw), nil
		}
	case "integer": // 42.0 is an integer too
		f, err := strconv.ParseFloat(string(v.Raw), 64)
		if v.Kind() == jsontext.KindNumber && err == nil && f == math.Trunc(f) && math.Abs(f) <= maxInteger {
			return strconv.FormatInt(int64(f), 10), nil
		}
	}
	return "", ErrMirror
}

// Results that have no place in the legacy era.
var (
	// ErrInputRequired says that the server asks for input (a multi-round request), which is not bridged.
	ErrInputRequired = errors.New("the server asks for input")
	// ErrResultType says that the result is of a type that no one asked for.
	ErrResultType = errors.New("the result has an unknown resultType")
)

// modernOnly are the members of a result that older revisions do not know (2026-07-28, "Results").
var modernOnly = map[string]bool{"resultType": true, "ttlMs": true, "cacheScope": true}

// ToLegacyResult turns the result of a modern server (a JSON object) into one for a legacy client: members that the client's
// revision does not know are left out, structuredContent that is no object is wrapped as {"result":…} (as the list wraps its
// schema), and for 2025-03-26 a resource_link becomes text. Every other byte stays.
func ToLegacyResult(result []byte, revision mcp.Revision) ([]byte, error) {
	o, err := jsonrpc.Parse(result, jsonrpc.Limits{})
	if err != nil {
		return nil, err
	}
	if t := o.Get("resultType"); t.Exists() {
		switch s, _ := t.Str(); s {
		case "complete":
		case "input_required":
			return nil, ErrInputRequired
		default:
			return nil, ErrResultType
		}
	}
	out := []byte{'{'}
	from := o.Pos + 1
	for _, m := range o.Members {
		end := m.Value.Pos + len(m.Value.Raw)
		if !modernOnly[m.Name] {
			head := bytes.TrimLeft(result[from:m.Value.Pos], ", \t\r\n")
			if len(out) > 1 {
				out = append(out, ',')
			}
			value, err := legacyMember(m, revision)
			if err != nil {
				return nil, err
			}
			out = append(append(out, head...), value...)
		}
		from = end
	}
	return append(out, '}'), nil
}

func legacyMember(m jsonrpc.Member, revision mcp.Revision) ([]byte, error) {
	switch {
	case m.Name == "structuredContent" && m.Value.Kind() != jsontext.KindBeginObject:
		return append(append([]byte(`{"result":`), m.Value.Raw...), '}'), nil
	case m.Name == "content" && revision == mcp.R20250326 && bytes.Contains(m.Value.Raw, []byte("resource_link")):
		return linksAsText(m.Value.Raw)
	}
	return m.Value.Raw, nil
}

// linksAsText writes the resource links of a content array as text: 2025-03-26 knows no such content.
func linksAsText(content []byte) ([]byte, error) {
	items, err := elements(content)
	if err != nil {
		return nil, err
	}
	out := []byte{'['}
	for n, raw := range items {
		if n > 0 {
			out = append(out, ',')
		}
		o, err := object(raw)
		if err == nil && str(o["type"]) == "resource_link" {
			raw = append(jsonrpc.AppendString([]byte(`{"type":"text","text":`), str(o["uri"])), '}')
		}
		out = append(out, raw...)
	}
	return append(out, ']'), nil
}
