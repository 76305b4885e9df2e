package gateway

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const anything = "string or number or boolean or object or array or null"

// draw writes a shape as text: types, members in order, * for other members, [] for elements; ? for no shape.
func draw(s *shape, depth int) string {
	if s == nil {
		return "?"
	}
	if depth == 0 {
		return "…"
	}
	out := s.types.String()
	if s.types == typeAny {
		out = "any"
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(s.props)) {
		parts = append(parts, name+" "+draw(s.props[name], depth-1))
	}
	if s.rest != nil {
		parts = append(parts, "* "+draw(s.rest, depth-1))
	}
	if s.items != nil {
		parts = append(parts, "[] "+draw(s.items, depth-1))
	}
	if len(parts) > 0 {
		out += "{" + strings.Join(parts, ", ") + "}"
	}
	return out
}

func TestShapeOfASchema(t *testing.T) {
	for _, c := range []struct{ schema, want string }{ // of the member v
		{`{"type":"string"}`, "string"},
		{`{"type":["string","null"]}`, "string or null"},
		{`{"type":["integer","number"]}`, "number"},
		{`{"type":"date"}`, "any"}, // no type of JSON Schema: it forbids nothing we know of
		{`{"type":[]}`, "any"},
		{`{"type":7}`, "any"},
		{`{}`, "any"},
		{`true`, "any"},
		{`false`, "any"},
		{`[]`, "any"},
		{`{"type":"object","properties":{"a":{"type":"integer"},"b":{}}}`, "object{a integer, b any}"},
		{`{"type":"object","additionalProperties":{"type":"string"}}`, "object{* string}"},
		{`{"type":"object","additionalProperties":false}`, "object"},
		{`{"type":"object","additionalProperties":{"type":"string"},"patternProperties":{"^x":{}}}`, "object"},
		{`{"type":"array","items":{"type":"integer"}}`, "array{[] integer}"},
		{`{"type":"array","items":true}`, "array"},
		{`{"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":{"type":"null"}}`, "array{[] string or integer or null}"},
		{`{"type":"array","prefixItems":[{"type":"integer"}]}`, "array{[] any}"},
		{`{"type":"array","items":[{"type":"integer"}],"additionalItems":{"type":"string"}}`, "array{[] string or integer}"},

		{`{"anyOf":[{"type":"integer"},{"type":"null"}]}`, "integer or null"},
		{`{"oneOf":[{"type":"boolean"},{"anyOf":[{"type":"array"},{"type":"object"}]}]}`, "boolean or object or array"},
		{`{"anyOf":[{"type":"integer"},{}]}`, "any"},
		{`{"anyOf":[]}`, "any"},
		{`{"type":["integer","string"],"anyOf":[{"type":"string"},{"type":"null"}]}`, "string"},
		{`{"anyOf":[{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"}}},{"type":"object","properties":{"a":{"type":"null"},"c":{}}},{"type":"string"}]}`, "string or object{a integer or null, b string, c any}"},
		{`{"anyOf":[{"type":"object","properties":{"a":{"type":"integer"}}},{"type":"object"}]}`, "object{a any}"},
		{`{"anyOf":[{"type":"object"},{"type":"object","properties":{"a":{"type":"integer"}}},{"type":"object","properties":{"b":{"type":"integer"}}}]}`, "object{a any, b any}"},
		{`{"anyOf":[{"type":"object","properties":{"a":{"type":"integer"}}},{"type":"object","additionalProperties":{"type":"string"}}]}`, "object{a string or integer, * any}"},
		{`{"anyOf":[{"type":"array","items":{"type":"integer"}},{"type":"array","items":{"type":"string"}},{"type":"null","items":{"type":"boolean"}}]}`, "array or null{[] string or integer}"},

		{`{"allOf":[{"type":["integer","string"]},{"type":["string","null"]}]}`, "string"},
		{`{"allOf":[{"type":"number"},{"type":"integer"}]}`, "integer"},
		{`{"allOf":[{"type":"string"},{"type":"integer"}]}`, "any"},
		{`{"type":"object","properties":{"a":{"type":["integer","null"]}},"allOf":[{"properties":{"a":{"type":["integer","string"]},"b":{"type":"string"}}},{"required":["a"]}]}`, "object{a integer, b string}"},
		{`{"allOf":[{"additionalProperties":{"type":["string","null"]}},{"properties":{"a":{"type":["string","integer"]},"b":{}}}]}`, "any{a string, b string or null, * string or null}"},
		{`{"allOf":[{"items":{"type":["string","null"]}},{"items":{"type":"string"}}]}`, "any{[] string}"},

		{`{"$ref":"#/$defs/x"}`, "object{i integer}"},
		{`{"$ref":"#/definitions/a~1b%20c"}`, "boolean"},
		{`{"$ref":"#/$defs/list/1"}`, "null"},
		{`{"$ref":"#/$defs/list/2"}`, "any"},
		{`{"$ref":"#/$defs/x","description":"with a word beside it","properties":{"j":{"type":"null"}}}`, "object{i integer, j null}"},
		{`{"allOf":[{"$ref":"#/$defs/x"},{"$ref":"#/$defs/y"}]}`, "object{i integer, j string}"},
		{`{"$ref":"#/$defs/none"}`, "any"},
		{`{"$ref":"#anchor"}`, "any"},
		{`{"$ref":"https://example.com/x"}`, "any"},
		{`{"$ref":"#/%zz"}`, "any"},
		{`{"$ref":7}`, "any"},
		{`{"$ref":"#/properties/v"}`, "any"}, // itself
		{`{"$ref":"#"}`, "object{v object{v …}}"},
		{`{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}`, "object or null{next object or null{next object or null{next …}}}"},
		{strings.Repeat(`{"anyOf":[`, 20) + `{"type":"string"}` + strings.Repeat(`]}`, 20), "string"},
	} {
		s := shapeOf([]byte(`{"type":"object","properties":{"v":` + c.schema + `},"$defs":{"x":{"type":"object","properties":{"i":{"type":"integer"}}},"y":{"properties":{"j":{"type":"string"}}},
			"list":[{},{"type":"null"}],"node":{"type":"object","properties":{"next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}}}},"definitions":{"a/b c":{"type":"boolean"}}}`))
		depth := 3
		if c.schema == `{"$ref":"#"}` {
			depth = 2
		}
		if got := draw(s.props["v"], depth); got != c.want {
			t.Errorf("%s: %s, want %s", c.schema, got, c.want)
		}
	}
}

func TestShapeOfArguments(t *testing.T) {
	s := shapeOf([]byte(`{"type":"object","properties":{"max_count":{"type":"integer"},"Any":{}}}`))
	if s.props["max_count"].types != typeInteger || s.props["Any"].types != typeAny || s.folded[fold("MAX_COUNT")] != "max_count" || s.twins {
		t.Errorf("got %+v", s)
	}
	for _, none := range []string{`{}`, `true`, `[]`, `{"properties":[]}`, `{"properties":{}}`, ``, `{"properties":{"a":1,"a":2}}`} {
		if s := shapeOf([]byte(none)); s != nil {
			t.Errorf("%s has the shape %+v", none, s)
		}
	}
	for _, c := range []struct{ schema, want string }{
		{`{"type":"object","allOf":[{"properties":{"a":{}}}]}`, "object{a any}"},
		{`{"type":"object","$ref":"#/$defs/a","$defs":{"a":{"properties":{"a":{}}}}}`, "object{a any}"},
		{`{"type":"object","$id":"https://example.com/a","properties":{"a":{"$ref":"#/$defs/a"}},"$defs":{"a":{"type":"null"}}}`, "object{a null}"},
		{`{"type":"object","properties":{"a":{"$ref":"#/$defs/a"}},"$defs":{"a":{"$id":"https://example.com/a","type":"null"}}}`, "object{a any}"},
	} {
		if got := draw(shapeOf([]byte(c.schema)), 3); got != c.want {
			t.Errorf("%s: %s, want %s", c.schema, got, c.want)
		}
	}
	if typeAny.String() != anything {
		t.Errorf("any type is %s", typeAny)
	}
}

func TestPromptShape(t *testing.T) {
	for definition, want := range map[string]string{
		`{"name":"p","arguments":[{"name":"who","required":true},{"name":"lang"},{"title":"no name"},7]}`: "object{lang string, who string, * string}",
		`{"name":"p"}`:                  "object{* string}",
		`{"name":"p","arguments":{}}`:   "object{* string}",
		`{"name":"p","arguments":null}`: "object{* string}",
	} {
		if got := draw(promptShape([]byte(definition)), 3); got != want {
			t.Errorf("%s: %s, want %s", definition, got, want)
		}
	}
}

// TestShapeBounds: a schema that would take exponential work or endless room gives a shape soon; what is near the root is in it.
func TestShapeBounds(t *testing.T) {
	var refs, wide, mixed strings.Builder
	for i := range 40 {
		fmt.Fprintf(&refs, `"d%d":{"allOf":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}]},`, i, i+1, i+1)
		fmt.Fprintf(&mixed, `"d%d":{"anyOf":[{"properties":{"l":{"$ref":"#/$defs/d%d"}}},{"properties":{"l":{"allOf":[{"$ref":"#/$defs/d%d"},{"properties":{"m":{"$ref":"#/$defs/d0"}}}]}}}]},`, i, i+1, (i*7+3)%40)
	}
	for i := range 10000 {
		fmt.Fprintf(&wide, `{"properties":{"p%d":{"type":"string"}},"additionalProperties":{}},`, i)
	}
	for name, schema := range map[string]string{
		"references that double": `{"properties":{"amount":{"type":"number"},"x":{"$ref":"#/$defs/d0"}},"$defs":{` + refs.String() + `"d40":{"properties":{"z":{}}}}}`,
		"references that mix":    `{"properties":{"amount":{"type":"number"},"x":{"$ref":"#/$defs/d0"}},"$defs":{` + mixed.String() + `"d40":{"properties":{"z":{}}}}}`,
		"many ways":              `{"properties":{"amount":{"type":"number"},"x":{"anyOf":[` + wide.String() + `{}]}}}`,
		"all of many":            `{"properties":{"amount":{"type":"number"},"x":{"allOf":[` + wide.String() + `{}]}}}`,
		"a circle":               `{"properties":{"amount":{"type":"number"},"x":{"$ref":"#/$defs/a"}},"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"anyOf":[{"$ref":"#/$defs/a"},{"type":"string"}]}}}`,
	} {
		start := time.Now()
		s := shapeOf([]byte(schema))
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: %v", name, took)
		}
		if s == nil || s.props["amount"] == nil || s.props["amount"].types != typeNumber {
			t.Errorf("%s: %s", name, draw(s, 1))
		}
		t.Logf("%s: %v", name, time.Since(start))
	}
}

// TestFold: two names fold to one exactly where a reader that ignores case would take one for the other.
func TestFold(t *testing.T) {
	for _, c := range [][2]string{{"max_count", "MAX_Count"}, {"k", "\u212a"}, {"s", "\u017f"}, {"é", "É"}, {"σ", "ς"}} {
		if fold(c[0]) != fold(c[1]) {
			t.Errorf("%q and %q fold apart", c[0], c[1])
		}
	}
	letters := rapid.StringOfN(rapid.SampledFrom([]rune("aAbBkK\u212asS\u017fσςΣéÉıIiİ_1")), 0, 4, -1)
	rapid.Check(t, func(t *rapid.T) {
		a, b := letters.Draw(t, "a"), letters.Draw(t, "b")
		if got := string(appendFold([]byte("x"), []byte(a))); got != "x"+fold(a) {
			t.Fatalf("%q folds to %q and to %q", a, fold(a), got)
		}
		if (fold(a) == fold(b)) != strings.EqualFold(a, b) {
			t.Fatalf("%q and %q: folded alike %v, equal but for case %v", a, b, fold(a) == fold(b), strings.EqualFold(a, b))
		}
	})
}
