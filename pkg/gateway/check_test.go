package gateway

import (
	"context"
	"encoding/json"
	"maps"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
	"github.com/mcpgw/mcpgw/pkg/opa"
)

func value(t *testing.T, text string) jsonrpc.Value {
	t.Helper()
	return object(t, `{"v":`+text+`}`).Get("v")
}

func object(t interface{ Fatalf(string, ...any) }, text string) jsonrpc.Object {
	o, err := jsonrpc.Parse([]byte(text), jsonrpc.Limits{})
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return o
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
			if v := value(t, v); !c.types.accept(v.Kind(), v.Raw) {
				t.Errorf("%s refuses %s", c.types, v.Raw)
			}
		}
		for _, v := range c.no {
			if v := value(t, v); c.types.accept(v.Kind(), v.Raw) {
				t.Errorf("%s accepts %s", c.types, v.Raw)
			}
		}
	}
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

// guarded is a gateway before one modern server, whose policy reads arguments.
func guarded(t *testing.T) *Gateway {
	t.Helper()
	engine, err := opa.Load(opa.Options{Modules: []opa.File{{Name: "p.rego", Text: []byte(`package mcpgw.policy

allow if {
	input.resource.name == "pay"
	is_number(input.arguments.opts.amount)
	input.arguments.opts.amount <= 10
}

allow if input.resource.name == "open"

allow if input.arguments.ok == "yes"
`)}}})
	if err != nil {
		t.Fatal(err)
	}
	auth, err := identity.New(identity.Options{APIKeys: []identity.APIKey{{ID: "r", Digest: identity.DigestOf("key"), Principal: identity.Principal{Roles: []string{"reader"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(auth.Close)
	src := &catalog.Source{Server: "s", Modern: true, Revisions: []mcp.Revision{mcp.R20260728}}
	for kind, definitions := range map[catalog.Kind][][]byte{
		catalog.Tool:     {[]byte(`{"name":"pay","inputSchema":{"type":"object","properties":{"opts":{"type":"object","properties":{"amount":{"type":"number"}}}}}}`)},
		catalog.Prompt:   {[]byte(`{"name":"open"}`), []byte(`{"name":"secret"}`), []byte(`{"name":"ask","arguments":[{"name":"ok"},{"name":"more"}]}`)},
		catalog.Resource: {[]byte(`{"uri":"file:///a","name":"a"}`)},
	} {
		items, bad := catalog.Collect("s", kind, definitions, catalog.Trust{})
		if len(bad) > 0 {
			t.Fatal(bad)
		}
		src.Items[kind] = items
	}
	g, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	g.Swap(func(Snapshot) Snapshot {
		return Snapshot{
			Settings: &Settings{
				Listeners: map[string]*Listener{"main": {Name: "main", Auth: auth, Hosts: []string{"localhost"}}},
				Endpoints: map[string]*Endpoint{"mcp": {Name: "mcp"}}, Servers: map[string]*Server{"s": {Name: "s"}},
			},
			Policy: engine, Routes: Routes{Servers: map[string]bool{"s": true}},
			Catalog: catalog.Build([]catalog.Endpoint{{Name: "mcp", Path: "/mcp", Servers: []catalog.Selection{{Server: "*"}}}}, []*catalog.Source{src}, nil),
		}
	})
	return g
}

// TestWhatAServerReadsWasJudged: a message that a server may read otherwise than policy did does not reach it.
func TestWhatAServerReadsWasJudged(t *testing.T) {
	g := guarded(t)
	const pay, complete, get = mcp.MethodToolsCall, mcp.MethodComplete, mcp.MethodPromptsGet
	const argument = `,"argument":{"name":"a","value":"b"}`
	for _, c := range []struct {
		method, name, params string
		want                 string // part of the refusal; "" = sent to the server
	}{
		{complete, "", `"ref":{"type":"ref/prompt","name":"s_open"}` + argument, ``},
		{complete, "", `"ref":{"type":"ref/prompt","name":"s_secret"}` + argument, `no rule allows this call`},
		{complete, "", `"ref":{"type":"ref/prompt","name":"s_open","Name":"s_secret"}` + argument, `key \"Name\" at byte `},
		{complete, "", `"ref":{"type":"ref/prompt","Type":"ref/resource","name":"s_open"}` + argument, `key \"Type\" at byte `},
		{complete, "", `"ref":"open"` + argument, `params.ref must be an object`},
		{complete, "", argument[1:], `params.ref must be an object`},
		{complete, "", `"ref":{},"_meta":{"ProgressToken":1}`, `key \"ProgressToken\" at byte `},

		{pay, "s_pay", `"name":"s_pay","arguments":{"opts":{"amount":1}}`, ``},
		{pay, "s_pay", `"name":"s_pay","arguments":{"opts":{"amount":1000}}`, `no rule allows this call`},
		{pay, "s_pay", `"name":"s_pay","arguments":{"opts":{"amount":1,"Amount":1000}}`, `differs only in case`},
		{pay, "s_pay", `"name":"s_pay","arguments":{"opts":{"amount":1},"Opts":{"amount":1000}}`, `differs only in case`},
		{pay, "s_pay", `"name":"s_pay","arguments":{"opts":{"amount":9.9999999999999999999999}}`, `more digits than a double holds`},
		{pay, "s_pay", `"name":"s_pay","arguments":{"opts":{"amount":"1"}}`, `must be of type number`},

		{get, "s_ask", `"name":"s_ask","arguments":{"ok":"yes"}`, ``},
		{get, "s_ask", `"name":"s_ask","arguments":{"ok":"no"}`, `no rule allows this call`},
		{get, "s_ask", `"name":"s_ask","arguments":{"ok":"yes","OK":"no"}`, `differs only in case`},
		{get, "s_ask", `"name":"s_ask","arguments":{"ok":"yes","More":"x"}`, `differs only in case`},
		{get, "s_ask", `"name":"s_ask","arguments":{"ok":true}`, `must be of type string`},

		// arguments where the method has none
		{complete, "", `"ref":{"type":"ref/prompt","name":"s_secret"},"arguments":{"ok":"yes"}` + argument, `no rule allows this call`},
		{mcp.MethodResourcesRead, "file:///a", `"uri":"file:///a","arguments":{"ok":"yes"}`, `no rule allows this call`},
		{get, "s_secret", `"name":"s_secret","arguments":{"ok":"yes"}`, ``},
	} {
		h := fields{"authorization", "Bearer key", "content-type", "application/json", "accept", "application/json, text/event-stream", "mcp-protocol-version", "2026-07-28", "mcp-method", c.method}
		if c.name != "" {
			h = append(h, "mcp-name", c.name)
		}
		x, v := g.Head(context.Background(), &Head{Listener: "main", Method: "POST", Path: "/mcp", Authority: "localhost", Address: "127.0.0.1", Header: h})
		if v != nil {
			t.Fatalf("refused at the head: %s", v.(*Reply).Body)
		}
		body := `{"jsonrpc":"2.0","id":7,"method":"` + c.method + `","params":{` + c.params + `,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`
		switch v := x.Body([]byte(body)).(type) {
		case *Forward:
			if c.want != "" {
				t.Errorf("%s: sent to %s, want a refusal with %s", c.params, v.Backend, c.want)
			}
			if want := strings.Replace(body, `"s_`, `"`, 1); string(v.Body) != want {
				t.Errorf("the server gets %s, want %s", v.Body, want)
			}
		case *Reply:
			if c.want == "" || !strings.Contains(string(v.Body), c.want) {
				t.Errorf("%s: refused with %s, want %q", c.params, v.Body, c.want)
			}
		}
	}
}

// TestMetaKeysAreReadStrictly: the reader, which is too low to know pkg/mcp, knows every _meta key that the gateway reads.
func TestMetaKeysAreReadStrictly(t *testing.T) {
	for _, key := range []string{mcp.MetaVersion, mcp.MetaCapabilities, mcp.MetaClientInfo, mcp.MetaServerInfo, mcp.MetaLogLevel, mcp.MetaSubscription, mcp.MetaProgress, mcp.MetaTraceparent} {
		for _, c := range []struct {
			key string
			ok  bool
		}{{key, true}, {strings.ToUpper(key), false}} {
			_, err := jsonrpc.Read([]byte(`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"`+c.key+`":1}}}`), jsonrpc.Limits{})
			if (err == nil) != c.ok {
				t.Errorf("%s: %v", c.key, err)
			}
		}
	}
}

const (
	payment = `{"type":"object","properties":{"opts":{"type":"object","properties":{"amount":{"type":"number"},"n":{"type":"integer"}}},
		"rows":{"type":"array","items":{"type":"object","properties":{"id":{"type":"integer"}},"additionalProperties":{"type":"string"}}},
		"amount":{"type":["number","null"]},"any":{}}}`
	tuples = `{"type":"object","properties":{"t":{"type":"array","prefixItems":[{"properties":{"id":{"type":"string"}}}]}},"additionalProperties":{"properties":{"id":{"type":"string"}}}}`
	cycle  = `{"type":"object","properties":{"tree":{"$ref":"#/$defs/node"}},"$defs":{"node":{"type":"object","properties":{"v":{"type":"integer"},"next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}}}}}`
	twins  = `{"type":"object","properties":{"a":{},"A":{},"o":{"properties":{"b":{},"B":{}}}}}`
)

func TestInspect(t *testing.T) {
	all := []string{"*"}
	for _, c := range []struct {
		schema, arguments string
		reads             []string
		want              string // "" = accepted
	}{
		// (a) spelling of declared keys, whatever policy reads
		{payment, `{"amount":1,"Amount":1000}`, nil, `argument "Amount" differs only in case from "amount"`},
		{payment, `{"Amount":1000}`, nil, `argument "Amount" differs only in case from "amount"`},
		{payment, `{"opts":{"amount":1,"Amount":1000}}`, nil, `argument "opts.Amount" differs only in case from "amount"`},
		{payment, `{"opts":{"AMOUNT":1000}}`, nil, `argument "opts.AMOUNT" differs only in case from "amount"`},
		{payment, `{"opts":{"\u0041mount":1000}}`, nil, `argument "opts.Amount" differs only in case from "amount"`},
		{payment, `{"rows":[{"id":1},{"id":2,"Id":3}]}`, nil, `argument "rows.1.Id" differs only in case from "id"`},
		{payment, `{"rows":[{"id":1,"x":"y"}],"opts":{"amount":1,"\u0061":{"Amount":1}},"zzz":{"Amount":1,"amount":2}}`, nil, ``},
		{payment, `{"any":{"amount":1,"Amount":2}}`, nil, ``},
		{tuples, `{"t":[{"ID":"x"}]}`, nil, `argument "t.0.ID" differs only in case from "id"`},
		{tuples, `{"z":{"ID":"x"}}`, nil, `argument "z.ID" differs only in case from "id"`},
		{cycle, `{"tree":{"v":1,"next":{"v":2,"next":{"v":3,"V":4}}}}`, nil, `argument "tree.next.next.V" differs only in case from "v"`},
		{cycle, `{"tree":{"v":1,"next":{"v":2,"next":null}}}`, all, ``},

		// a key that is not declared, but that policy may read
		{`{}`, `{"Amount":1000}`, []string{"amount"}, `argument "Amount" differs only in case from "amount"`},
		{`{}`, `{"amount":1,"Amount":1000}`, []string{"amount"}, `argument "Amount" differs only in case from "amount"`},
		{`{}`, `{"amount":1,"x":1,"X":2}`, []string{"amount"}, ``},
		{`{}`, `{"amount":1,"x":1,"X":2}`, all, `two arguments differ only in case: "x"`},
		{`{}`, `{"\u212a":1,"z":3,"K":2}`, all, `two arguments differ only in case: "k"`},
		{twins, `{"a":1}`, []string{"A"}, ``},
		{twins, `{"a":1,"A":2}`, nil, ``},
		{twins, `{"a":1,"A":2}`, []string{"A"}, `argument "a" differs only in case from "A"`},
		{twins, `{"a":1,"A":2}`, all, `two arguments differ only in case: "a"`},

		// (b) types and twins below what policy may read
		{payment, `{"opts":{"amount":"1000"}}`, nil, ``},
		{payment, `{"opts":{"amount":"1000"}}`, []string{"opts"}, `argument "opts.amount" must be of type number`},
		{payment, `{"opts":{"amount":null}}`, []string{"opts"}, `argument "opts.amount" must be of type number`},
		{payment, `{"opts":{"amount":[1]}}`, []string{"opts"}, `argument "opts.amount" must be of type number`},
		{payment, `{"opts":[]}`, []string{"opts"}, `argument "opts" must be of type object`},
		{payment, `{"opts":"{}"}`, []string{"opts"}, `argument "opts" must be of type object`},
		{payment, `{"opts":{"n":1.5}}`, []string{"opts"}, `argument "opts.n" must be of type integer`},
		{payment, `{"opts":{"n":1.50e1,"amount":2}}`, []string{"opts"}, ``},
		{payment, `{"amount":"1"}`, []string{"opts"}, ``},
		{payment, `{"amount":"1"}`, []string{"amount"}, `argument "amount" must be of type number or null`},
		{payment, `{"amount":null}`, []string{"amount"}, ``},
		{payment, `{"rows":[{"id":1},{"id":"2"}]}`, []string{"rows"}, `argument "rows.1.id" must be of type integer`},
		{payment, `{"rows":[{"id":1,"x":2}]}`, []string{"rows"}, `argument "rows.0.x" must be of type string`},
		{payment, `{"rows":[[1]]}`, []string{"rows"}, `argument "rows.0" must be of type object`},
		{payment, `{"any":{"b":[{"amount":1,"Amount":2}]}}`, []string{"any"}, `argument "any.b.0" has two keys that differ only in case: "amount"`},
		{payment, `{"any":{"b":[{"amount":1},{"Amount":2}],"Amount":{"b":1}}}`, []string{"any"}, ``},
		{payment, `{"any":{"Z":{"x":1},"y":2,"x":{"X":3},"z":4}}`, []string{"any"}, `argument "any" has two keys that differ only in case: "z"`},
		{twins, `{"o":{"b":1,"B":2}}`, nil, ``},
		{twins, `{"o":{"b":1,"B":2}}`, []string{"o"}, `argument "o" has two keys that differ only in case: "b"`},
		{cycle, `{"tree":{"next":{"next":{"next":{"v":"1"}}}}}`, all, `argument "tree.next.next.next.v" must be of type integer`},

		// (d) numbers that float64 would round
		{payment, `{"opts":{"amount":10.0000000000000000000001}}`, []string{"opts"}, `argument "opts.amount" has more digits than a double holds`},
		{payment, `{"opts":{"amount":9.9999999999999999999999}}`, []string{"opts"}, `argument "opts.amount" has more digits than a double holds`},
		{payment, `{"amount":10.0000000000000000000001}`, []string{"amount"}, `argument "amount" has more digits than a double holds`},
		{payment, `{"amount":10.0000000000000000000001,"any":[0.10000000000000000000001]}`, []string{"opts"}, ``},
		{payment, `{"any":[[0.10000000000000000000001]]}`, []string{"any"}, `argument "any.0.0" has more digits than a double holds`},
		{payment, `{"any":[0.1,-1.5e-7,9007199254740993,1e300,123456789012345678901234567890,10.00000000000000000000]}`, all, ``},

		// messages are bounded
		{payment, `{"any":{"` + strings.Repeat("é", 5000) + `":{"a":1,"A":2}}}`, all, `argument "any.` + strings.Repeat("é", 62) + `…" has two keys that differ only in case: "a"`},
		{`{}`, `{"` + strings.Repeat("a", 5000) + `":1,"` + strings.Repeat("A", 5000) + `":2}`, all, `two arguments differ only in case: "` + strings.Repeat("a", 128) + `…"`},
	} {
		names, every := c.reads, false
		if len(names) == 1 && names[0] == "*" {
			names, every = nil, true
		}
		got := ""
		if f := inspect(shapeOf([]byte(c.schema)), object(t, c.arguments), names, every); f != nil {
			if got = f.Message; f.Kind != fault.BadArguments {
				t.Errorf("%.200s, policy reads %v: kind %v", c.arguments, c.reads, f.Kind)
			}
		}
		if got != c.want {
			t.Errorf("%.200s, policy reads %v: %s; want %s", c.arguments, c.reads, got, c.want)
		}
	}
}

// TestInspectPlain: what is flat, and what nothing is to be known of, is not read again.
func TestInspectPlain(t *testing.T) {
	s := shapeOf([]byte(payment))
	for _, c := range []string{`{"amount":1.5,"any":"x"}`, `{"any":{"a":[1,2,{"b":3}]}}`, `{}`} {
		arguments := object(t, c)
		names := []string{"amount"}
		if n := testing.AllocsPerRun(100, func() {
			if f := inspect(s, arguments, names, false); f != nil {
				t.Fatal(f)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", c, n)
		}
	}
}

// TestInspectLarge: a large argument costs time in proportion, and nothing for each of its keys.
func TestInspectLarge(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"any":[{"end":1}`)
	for b.Len() < 1<<20 {
		b.WriteString(`,{"id":1234,"name":"somebody","ratio":0.12345678901234568,"tags":["a","b"]}`)
	}
	b.WriteString(`]}`)
	s, arguments := shapeOf([]byte(payment)), object(t, b.String())
	if n := testing.AllocsPerRun(1, func() {
		if f := inspect(s, arguments, nil, true); f != nil {
			t.Fatal(f)
		}
	}); n > 50 {
		t.Errorf("%v allocations", n)
	}
}

func TestNumbers(t *testing.T) {
	number := rapid.OneOf(
		rapid.StringMatching(`-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?`),
		rapid.Map(rapid.Float64().Filter(func(f float64) bool { return !math.IsInf(f, 0) && !math.IsNaN(f) }), func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }),
		rapid.SampledFrom([]string{"0", "-0.0", "0e5", "1e-308", "0." + strings.Repeat("0", 80) + "1e-308", "1.23456789012345e-308", "4.9e-308", "9.5e307", "1e308", "0.3", "0.30000000000000004", "0.3000000000000000444"}),
	)
	rapid.Check(t, func(t *rapid.T) {
		text := number.Draw(t, "number")
		exact, ok := new(big.Rat).SetString(text)
		if !ok {
			t.Fatalf("%s is no number", text)
		}
		if got := integral([]byte(text)); got != exact.IsInt() {
			t.Fatalf("integral(%s): %v", text, got)
		}
		f, err := strconv.ParseFloat(text, 64)
		held, _ := new(big.Rat).SetString(strconv.FormatFloat(f, 'g', -1, 64))
		want := exact.IsInt() || err == nil && held.Cmp(exact) == 0
		if got := double([]byte(text)); got != want {
			t.Fatalf("double(%s): %v", text, got)
		}
	})
}

// A call that is accepted is read alike by a server that minds case and by one that does not.
func TestAcceptedIsReadAlike(t *testing.T) {
	spelt := rapid.SampledFrom([]string{"a", "A", "k", "K", "\u212a", "s", "ſ", "S", "ab", "aB", "é", "É"})
	var schema func(t *rapid.T, depth int) string
	schema = func(t *rapid.T, depth int) string {
		if depth == 0 {
			return rapid.SampledFrom([]string{`{}`, `{"type":"integer"}`, `{"type":"string"}`, `{"$ref":"#"}`, `true`}).Draw(t, "leaf")
		}
		declared := func(label string) string {
			var out []string
			for _, name := range rapid.SliceOfNDistinct(spelt, 1, 3, rapid.ID).Draw(t, label) {
				out = append(out, strconv.Quote(name)+":"+schema(t, depth-1))
			}
			return `{"type":"object","properties":{` + strings.Join(out, ",") + `}}`
		}
		switch rapid.IntRange(0, 6).Draw(t, "kind") {
		case 0:
			return `{"type":"array","items":` + schema(t, depth-1) + `}`
		case 1:
			return `{"type":"object","additionalProperties":` + schema(t, depth-1) + `}`
		case 2:
			return `{"allOf":[` + declared("one") + `,` + declared("other") + `]}`
		case 3:
			return `{"anyOf":[` + declared("one") + `,` + declared("other") + `,{"type":"null"}]}`
		}
		return declared("names")
	}
	var typ func(s *shape, depth int) reflect.Type
	typ = func(s *shape, depth int) reflect.Type {
		switch {
		case s == nil || depth == 0:
		case s.types&^typeNull == typeObject && len(s.props) > 0:
			var fields []reflect.StructField
			for i, name := range slices.Sorted(maps.Keys(s.props)) {
				fields = append(fields, reflect.StructField{Name: "F" + strconv.Itoa(i), Type: typ(s.props[name], depth-1), Tag: reflect.StructTag(`json:"` + name + `"`)})
			}
			return reflect.StructOf(fields)
		case s.types&^typeNull == typeObject && s.rest != nil:
			return reflect.MapOf(reflect.TypeFor[string](), typ(s.rest, depth-1))
		case s.types&^typeNull == typeArray:
			return reflect.SliceOf(typ(s.items, depth-1))
		}
		return reflect.TypeFor[any]()
	}
	var fill func(t *rapid.T, s *shape, depth int) string
	fill = func(t *rapid.T, s *shape, depth int) string {
		switch {
		case s == nil || depth == 0 && s.types == typeAny:
			return rapid.SampledFrom([]string{`1`, `"x"`, `{"a":1}`, `{"a":1,"A":2}`, `[{"s":1}]`}).Draw(t, "anything")
		case depth == 0 && s.types&typeObject != 0:
			return `{}`
		case s.types&typeInteger != 0:
			return strconv.Itoa(rapid.IntRange(0, 9).Draw(t, "integer"))
		case s.types&typeString != 0:
			return `"x"`
		case s.types&typeArray != 0:
			return `[` + fill(t, s.items, max(depth-1, 0)) + `]`
		}
		var out []string
		used := map[string]bool{}
		add := func(name string, child *shape) {
			if !used[name] {
				used[name] = true
				out = append(out, strconv.Quote(name)+":"+fill(t, child, depth-1))
			}
		}
		for _, name := range slices.Sorted(maps.Keys(s.props)) {
			if rapid.Bool().Draw(t, "given") {
				add(name, s.props[name])
			}
			if rapid.IntRange(0, 9).Draw(t, "misspelt") == 7 {
				if other := strings.ToUpper(name); s.props[other] == nil {
					add(other, s.props[name])
				}
			}
		}
		if rapid.IntRange(0, 3).Draw(t, "more") == 1 {
			add(spelt.Filter(func(n string) bool { _, declared := s.props[n]; return !declared }).Draw(t, "extra"), s.rest)
		}
		return `{` + strings.Join(rapid.Permutation(out).Draw(t, "order"), ",") + `}`
	}
	accepted, refusals := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		text := schema(t, 3)
		s := shapeOf([]byte(text))
		if s == nil || s.types&^typeNull != typeObject {
			return
		}
		arguments := fill(t, s, 4)
		if f := inspect(s, object(t, arguments), nil, rapid.Bool().Draw(t, "all")); f != nil {
			refusals++
			return
		}
		accepted++
		exact, folding := reflect.New(typ(s, 5)), reflect.New(typ(s, 5))
		if err := jsonv2.Unmarshal([]byte(arguments), exact.Interface()); err != nil {
			t.Fatalf("%s with schema %s: %v", arguments, text, err)
		}
		if err := json.Unmarshal([]byte(arguments), folding.Interface()); err != nil {
			t.Fatalf("%s with schema %s: %v", arguments, text, err)
		}
		if d := cmp.Diff(exact.Elem().Interface(), folding.Elem().Interface()); d != "" {
			t.Fatalf("%s with schema %s: %s", arguments, text, d)
		}
	})
	if accepted < 10 || refusals < 10 {
		t.Errorf("%d calls accepted, %d refused: the property says little", accepted, refusals)
	}
}
