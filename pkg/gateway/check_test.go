package gateway

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

func value(t *testing.T, text string) jsonrpc.Value {
	t.Helper()
	o, err := jsonrpc.Parse([]byte(`{"v":`+text+`}`), jsonrpc.Limits{})
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return o.Get("v")
}

func TestTypesOfASchema(t *testing.T) {
	for _, c := range []struct{ schema, want string }{
		{`{"type":"string"}`, "string"},
		{`{"type":["string","null"]}`, "string or null"},
		{`{"anyOf":[{"type":"integer"},{"type":"null"}]}`, "integer or null"},
		{`{"oneOf":[{"type":"boolean"},{"anyOf":[{"type":"array"},{"type":"object"}]}]}`, "boolean or object or array"},
		{`{"anyOf":[{"type":"integer"},{}]}`, "string or integer or number or boolean or object or array or null"}, // one branch says nothing
		{`{}`, "string or integer or number or boolean or object or array or null"},
		{`{"$ref":"#/$defs/x"}`, "string or integer or number or boolean or object or array or null"},
		{`{"type":"date"}`, "string or integer or number or boolean or object or array or null"}, // no type of JSON Schema: it forbids nothing we know of
		{`true`, "string or integer or number or boolean or object or array or null"},
		{strings.Repeat(`{"anyOf":[`, 9) + `{"type":"string"}` + strings.Repeat(`]}`, 9), "string or integer or number or boolean or object or array or null"},
	} {
		if got := typesOf([]byte(c.schema), 0).String(); got != c.want {
			t.Errorf("%s: %s, want %s", c.schema, got, c.want)
		}
	}
}

func TestAccept(t *testing.T) {
	for _, c := range []struct {
		types types
		yes   []string
		no    []string
	}{
		{typeInteger, []string{"5", "-1", "0", "5.0", "1e2", "9007199254740993", "10e-1"}, []string{"5.5", "1e-1", `"5"`, "null", "false", "[5]", "{}"}},
		{typeNumber, []string{"5", "5.5", "1e300"}, []string{`"5"`, "null", "true"}},
		{typeString, []string{`""`, `"5"`}, []string{"5", "null", "[]"}},
		{typeBoolean, []string{"true", "false"}, []string{"0", `"true"`, "null"}},
		{typeNull, []string{"null"}, []string{"0", `""`, "false"}},
		{typeArray, []string{"[]"}, []string{"{}", "null"}},
		{typeObject, []string{"{}"}, []string{"[]", "null"}},
		{typeInteger | typeNull, []string{"5", "null"}, []string{"5.5", `""`}},
	} {
		for _, v := range c.yes {
			if !c.types.accept(value(t, v)) {
				t.Errorf("%s refuses %s", c.types, v)
			}
		}
		for _, v := range c.no {
			if c.types.accept(value(t, v)) {
				t.Errorf("%s accepts %s", c.types, v)
			}
		}
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
		if (fold(a) == fold(b)) != strings.EqualFold(a, b) {
			t.Fatalf("%q and %q: folded alike %v, equal but for case %v", a, b, fold(a) == fold(b), strings.EqualFold(a, b))
		}
	})
}

func TestSays(t *testing.T) {
	for _, c := range []struct {
		said, value, typ string
		want             bool
	}{
		{"eu", `"eu"`, "string", true},
		{"EU", `"eu"`, "string", false},
		{"", `""`, "string", true},
		{"é", `"\u00e9"`, "string", true},
		{"42", "42", "integer", true},
		{"42.0", "42", "integer", true},
		{"42", "42.0", "integer", true},
		{"42", "4.2e1", "integer", true},
		{"-7", "-7", "integer", true},
		{"9007199254740993", "9007199254740993", "integer", true},
		{"9007199254740992", "9007199254740993", "integer", false},
		{"4.2e1", "42", "integer", false},
		{"0x2a", "42", "integer", false},
		{"84/2", "42", "integer", false},
		{"4_2", "42", "integer", false},
		{"", "0", "integer", false},
		{" 42", "42", "integer", false},
		{strings.Repeat("0", 200) + "42", "42", "integer", false},
		{"true", "true", "boolean", true},
		{"false", "false", "boolean", true},
		{"TRUE", "true", "boolean", false},
		{"1", "true", "boolean", false},
		{"42", `"42"`, "integer", false},
		{"true", `"true"`, "boolean", false},
		{"42", "42", "string", false},
		{"[]", "[]", "string", false},
		{"{}", "{}", "string", false},
	} {
		if got := says(c.said, value(t, c.value), c.typ); got != c.want {
			t.Errorf("%q says %s (%s): %v", c.said, c.value, c.typ, got)
		}
	}
}

func TestAt(t *testing.T) {
	o, err := jsonrpc.Parse([]byte(`{"a":{"b":{"c":5},"n":null},"s":"x"}`), jsonrpc.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"a.b.c": "5", "a.n": "null", "a.b": `{"c":5}`, "a.x": "", "s.x": "", "a.b.c.d": "", "a.n.x": "", "x": ""} {
		if got := string(at(o, strings.Split(path, ".")).Raw); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}

func TestShapeOf(t *testing.T) {
	s := shapeOf([]byte(`{"type":"object","properties":{"max_count":{"type":"integer"},"Any":{}}}`))
	if s.types["max_count"] != typeInteger || s.types["Any"] != typeAny || s.folded[fold("MAX_COUNT")] != "max_count" {
		t.Errorf("got %+v", s)
	}
	for _, none := range []string{`{}`, `true`, `[]`, `{"properties":[]}`, `{"properties":{}}`, ``} {
		if s := shapeOf([]byte(none)); s != nil {
			t.Errorf("%s has the shape %+v", none, s)
		}
	}
}
