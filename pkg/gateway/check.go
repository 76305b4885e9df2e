package gateway

import (
	"bytes"
	"math/big"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// check holds a call to what its tool declares: mirrored arguments, spelling of keys, types of what policy reads. Its refusals are told
// only to a caller who can see the item.
func (x *Exchange) check(t *target, m *jsonrpc.Message) *fault.Error {
	item := t.entry.Item
	if item.Kind != catalog.Tool || m.Method != mcp.MethodToolsCall {
		return nil
	}
	if !x.legacy {
		if f := x.checkMirrored(item, m); f != nil {
			return f
		}
	}
	s := x.Snapshot.shapes[item]
	if s == nil || len(m.Arguments.Members) == 0 {
		return nil
	}
	names, all := x.Snapshot.Policy.Reads(item)
	for _, a := range m.Arguments.Members {
		types, declared := s.types[a.Name]
		if !declared {
			if as, ok := s.folded[fold(a.Name)]; ok {
				return fault.New(fault.BadArguments, "argument %q differs only in case from %q", clip(a.Name, 64), as)
			}
			continue
		}
		if (all || contains(names, a.Name)) && !types.accept(a.Value) {
			return fault.New(fault.BadArguments, "argument %q must be of type %s", clip(a.Name, 64), types)
		}
	}
	return nil
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// checkMirrored compares Mcp-Param-* headers with the arguments they mirror (2026-07-28, "x-mcp-header").
func (x *Exchange) checkMirrored(item *catalog.Item, m *jsonrpc.Message) *fault.Error {
	for _, p := range item.Headers {
		name := mcp.HeaderParamPrefix + strings.ToLower(p.Name)
		lines := x.header.Values(name)
		v := at(m.Arguments, p.Path)
		if !v.Exists() || v.Kind() == 'n' {
			if len(lines) > 0 {
				return fault.New(fault.HeaderMismatch, "%s has no argument to repeat", name)
			}
			continue
		}
		if len(lines) != 1 {
			return fault.New(fault.HeaderMismatch, "%s must stand once and repeat its argument", name)
		}
		said, err := mcp.DecodeHeader(strings.Trim(lines[0], " \t"))
		if err != nil {
			return fault.New(fault.HeaderMismatch, "%s: %v", name, err)
		}
		if !says(said, v, p.Type) {
			return fault.New(fault.HeaderMismatch, "%s does not say what its argument says", name)
		}
	}
	return nil
}

// says compares a decoded header value with a JSON value; integers by value, so that 42.0 equals 42.
func says(said string, v jsonrpc.Value, typ string) bool {
	switch v.Kind() {
	case jsontext.KindString:
		s, _ := v.Str()
		return typ == "string" && s == said
	case jsontext.KindTrue, jsontext.KindFalse:
		return typ == "boolean" && string(v.Raw) == said
	case jsontext.KindNumber:
		if len(said) > 128 || typ != "integer" {
			return false
		}
		a, ok1 := new(big.Rat).SetString(string(v.Raw)) // the reader bounded digits and exponent
		if strings.ContainsAny(said, "eE/_xXbBoOpP") {
			return false // a header holds a plain decimal
		}
		b, ok2 := new(big.Rat).SetString(said)
		return ok1 && ok2 && a.Cmp(b) == 0
	}
	return false
}

// at finds a value below the arguments.
func at(o jsonrpc.Object, path []string) jsonrpc.Value {
	for i, name := range path {
		v := o.Get(name)
		if i == len(path)-1 || v.Kind() != jsontext.KindBeginObject {
			if i < len(path)-1 {
				return jsonrpc.Value{}
			}
			return v
		}
		var err error
		if o, err = jsonrpc.Parse(v.Raw, jsonrpc.Limits{}); err != nil {
			return jsonrpc.Value{}
		}
	}
	return jsonrpc.Value{}
}

// types is a set of JSON types.
type types uint8

const (
	typeString types = 1 << iota
	typeInteger
	typeNumber
	typeBoolean
	typeObject
	typeArray
	typeNull
	typeAny = types(0xff)
)

var typeNames = []struct {
	name string
	t    types
}{{"string", typeString}, {"integer", typeInteger}, {"number", typeNumber}, {"boolean", typeBoolean}, {"object", typeObject}, {"array", typeArray}, {"null", typeNull}}

// String lists the types as a schema spells them.
func (t types) String() string {
	var out []string
	for _, n := range typeNames {
		if t&n.t != 0 {
			out = append(out, n.name)
		}
	}
	return strings.Join(out, " or ")
}

func (t types) accept(v jsonrpc.Value) bool {
	switch v.Kind() {
	case jsontext.KindString:
		return t&typeString != 0
	case jsontext.KindTrue, jsontext.KindFalse:
		return t&typeBoolean != 0
	case jsontext.KindNull:
		return t&typeNull != 0
	case jsontext.KindBeginObject:
		return t&typeObject != 0
	case jsontext.KindBeginArray:
		return t&typeArray != 0
	}
	if t&typeNumber != 0 {
		return true
	}
	return t&typeInteger != 0 && integral(v.Raw)
}

func integral(number []byte) bool {
	if !bytes.ContainsAny(number, ".eE") {
		return true
	}
	r, ok := new(big.Rat).SetString(string(number))
	return ok && r.IsInt()
}

// shape is what a tool's inputSchema says of its top-level arguments.
type shape struct {
	types  map[string]types
	folded map[string]string // fold(declared name) → declared name
}

// shapeOf reads an inputSchema's properties. A schema that says nothing of them has no shape.
func shapeOf(schema []byte) *shape {
	root, err := jsonrpc.Parse(schema, jsonrpc.Limits{})
	if err != nil {
		return nil
	}
	props, err := jsonrpc.Parse(root.Get("properties").Raw, jsonrpc.Limits{})
	if err != nil || len(props.Members) == 0 {
		return nil
	}
	s := &shape{types: make(map[string]types, len(props.Members)), folded: make(map[string]string, len(props.Members))}
	for _, p := range props.Members {
		s.types[p.Name] = typesOf(p.Value.Raw, 0)
		s.folded[fold(p.Name)] = p.Name
	}
	return s
}

// typesOf reads type, anyOf and oneOf; whatever else a schema says leaves any type.
func typesOf(schema []byte, depth int) types {
	o, err := jsonrpc.Parse(schema, jsonrpc.Limits{})
	if err != nil || depth > 4 {
		return typeAny
	}
	if t := o.Get("type"); t.Exists() {
		if s, ok := t.Str(); ok {
			return named(s)
		}
		var set types
		for _, e := range elements(t.Raw) {
			s, _ := jsonrpc.Value{Raw: e}.Str()
			set |= named(s)
		}
		return set
	}
	for _, k := range []string{"anyOf", "oneOf"} {
		if v := o.Get(k); v.Exists() {
			var set types
			for _, e := range elements(v.Raw) {
				set |= typesOf(e, depth+1)
			}
			return set
		}
	}
	return typeAny
}

func named(name string) types {
	for _, n := range typeNames {
		if n.name == name {
			return n.t
		}
	}
	return typeAny
}

// elements splits a JSON array; nil where raw is none.
func elements(raw []byte) [][]byte {
	d := jsontext.NewDecoder(bytes.NewReader(raw))
	if t, err := d.ReadToken(); err != nil || t.Kind() != jsontext.KindBeginArray {
		return nil
	}
	var out [][]byte
	for d.PeekKind() != jsontext.KindEndArray {
		v, err := d.ReadValue()
		if err != nil {
			return nil
		}
		out = append(out, bytes.Clone(v))
	}
	return out
}

// fold maps every spelling that differs only in case to one, as strings.EqualFold would compare them.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, s)
}

// shapesOf reads the shapes of a catalog's tools, keeping those that the world before has read already.
func shapesOf(c *catalog.Catalog, before map[*catalog.Item]*shape) map[*catalog.Item]*shape {
	out := map[*catalog.Item]*shape{}
	for _, v := range c.Views() {
		for _, e := range v.Entries(catalog.Tool, catalog.Legacy) {
			if _, done := out[e.Item]; done {
				continue
			}
			s, ok := before[e.Item]
			if !ok {
				s = shapeOf(e.Item.InputSchema)
			}
			out[e.Item] = s
		}
	}
	return out
}
