package jsonrpc_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

func read(t *testing.T, body string) *jsonrpc.Message {
	t.Helper()
	m, err := jsonrpc.Read([]byte(body), jsonrpc.Limits{})
	if err != nil {
		t.Fatalf("Read(%s): %v", body, err)
	}
	return m
}

// refused reads a body that must be refused.
func refused(t *testing.T, body string, l jsonrpc.Limits) *jsonrpc.Error {
	t.Helper()
	m, err := jsonrpc.Read([]byte(body), l)
	var e *jsonrpc.Error
	if m != nil || !errors.As(err, &e) {
		t.Fatalf("Read(%.200s) = %v, %v; want an *Error", body, m, err)
	}
	return e
}

func TestReadIndexes(t *testing.T) {
	const body = ` {"id" : 9007199254740993, "x":1.0, "jsonrpc":"2.0","method":"tools\/call",
		"params":{"na\u006de":"git_log","arguments":{"max_count":5,"käse":[{}]},"_meta":{"a/b":null},"ref":{"type":"ref\/prompt","n\u0061me":"greet"},"z":{}}}` + "\n"
	m := read(t, body)
	if m.Kind != jsonrpc.Request || m.Method != "tools/call" || string(m.ID) != "9007199254740993" || string(m.Body) != body {
		t.Errorf("kind %v, method %q, id %s", m.Kind, m.Method, m.ID)
	}
	members := func(o jsonrpc.Object) (out []string) {
		for _, v := range o.Members {
			if at := string(m.Body[v.Value.Pos:][:len(v.Value.Raw)]); at != string(v.Value.Raw) {
				t.Errorf("%s: at its offset stands %s, not %s", v.Name, at, v.Value.Raw)
			}
			out = append(out, v.Name+"="+string(v.Value.Raw))
		}
		return out
	}
	for _, c := range []struct {
		name string
		o    jsonrpc.Object
		want []string
	}{
		{"params", m.Params, []string{`name="git_log"`, `arguments={"max_count":5,"käse":[{}]}`, `_meta={"a/b":null}`, `ref={"type":"ref\/prompt","n\u0061me":"greet"}`, `z={}`}},
		{"arguments", m.Arguments, []string{`max_count=5`, `käse=[{}]`}},
		{"_meta", m.Meta, []string{`a/b=null`}},
		{"ref", m.Ref, []string{`type="ref\/prompt"`, `name="greet"`}},
	} {
		if d := cmp.Diff(c.want, members(c.o)); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
		if at := string(m.Body[c.o.Pos:][:len(c.o.Raw)]); at != string(c.o.Raw) {
			t.Errorf("%s: at its offset stands %s", c.name, at)
		}
	}
	if s, ok := m.Params.Get("name").Str(); s != "git_log" || !ok {
		t.Errorf("params.name = %q, %v", s, ok)
	}
	if v := m.Params.Get("uri"); v.Exists() || v.Kind() != jsontext.KindInvalid {
		t.Errorf("params.uri = %v", v)
	}
	if v := m.Meta.Get("a/b"); !v.Exists() || v.Kind() != jsontext.KindNull {
		t.Errorf("_meta.a/b = %v", v)
	}
}

func TestReadAccepts(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, c := range []struct {
		name, body string
		kind       jsonrpc.Kind
		id         string // "" = nil
	}{
		{"request", `{"jsonrpc":"2.0","id":1,"method":"ping"}`, jsonrpc.Request, `1`},
		{"string id", `{"jsonrpc":"2.0","id":"1","method":"ping"}`, jsonrpc.Request, `"1"`},
		{"empty string id", `{"jsonrpc":"2.0","id":"","method":"ping"}`, jsonrpc.Request, `""`},
		{"escaped id", `{"jsonrpc":"2.0","id":"\u0061\/\n","method":"ping"}`, jsonrpc.Request, `"\u0061\/\n"`},
		{"negative zero", `{"jsonrpc":"2.0","id":-0,"method":"ping"}`, jsonrpc.Request, `-0`},
		{"100 digits", `{"jsonrpc":"2.0","id":` + strings.Repeat("9", 100) + `,"method":"ping"}`, jsonrpc.Request, strings.Repeat("9", 100)},
		{"1024 bytes of id", `{"jsonrpc":"2.0","id":"` + strings.Repeat("a", 1022) + `","method":"ping"}`, jsonrpc.Request, `"` + strings.Repeat("a", 1022) + `"`},
		{"256 bytes of method", `{"jsonrpc":"2.0","id":1,"method":"` + strings.Repeat("a", 256) + `"}`, jsonrpc.Request, `1`},
		{"escaped key", `{"jsonrpc":"2.0","i\u0064":1,"method":"ping"}`, jsonrpc.Request, `1`},
		{"notification", `{"jsonrpc":"2.0","method":"notifications/initialized"}`, jsonrpc.Notification, ""},
		{"result", `{"jsonrpc":"2.0","id":1,"result":{"error":1}}`, jsonrpc.Response, `1`},
		{"null result", `{"jsonrpc":"2.0","id":"a","result":null}`, jsonrpc.Response, `"a"`},
		{"error", `{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}`, jsonrpc.Response, `1`},
		{"error with a null id", `{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}`, jsonrpc.Response, ""},
		{"exponent", `{"jsonrpc":"2.0","method":"m","params":{"n":[1e308,1E-308,1e+0000308,0.5e-1]}}`, jsonrpc.Notification, ""},
		{"depth 64", `{"jsonrpc":"2.0","method":"m","params":{"n":` + nested(62) + `}}`, jsonrpc.Notification, ""},
		{"case of a key in arguments", `{"jsonrpc":"2.0","method":"m","params":{"arguments":{"Name":1,"name":2},"_meta":{"ID":1,"Type":2},"ref":{"ID":1,"Title":2,"title":3}}}`, jsonrpc.Notification, ""},
		{"unlike any known key", `{"jsonrpc":"2.0","method":"m","x":1,"X":2,"params":{"foo":1,"FOO":2,"":3}}`, jsonrpc.Notification, ""},
		{"surrogate pair", `{"jsonrpc":"2.0","method":"m","params":{"\ud83d\ude00":"\ud83d\ude00"}}`, jsonrpc.Notification, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := read(t, c.body)
			if m.Kind != c.kind || string(m.ID) != c.id || (m.ID == nil) != (c.id == "") {
				t.Errorf("got %v with id %s, want %v with %s", m.Kind, m.ID, c.kind, c.id)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	const pre = `{"jsonrpc":"2.0","id":7,"method":"m",`
	params := func(s string) string { return pre + `"params":` + s + `}` }
	nested := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	million := strings.Repeat("9", 1_000_000)
	type row struct {
		name, body string
		kind       jsonrpc.ErrorKind
		id         string
		msg        string // part of the message
	}
	rows := []row{
		{"empty", ``, jsonrpc.Malformed, "", "empty"},
		{"blank", " \n", jsonrpc.Malformed, "", "empty"},
		{"text", `hello`, jsonrpc.Malformed, "", "at byte 0"},
		{"cut", `{"jsonrpc":"2.0","id":7,"method":"m"`, jsonrpc.Malformed, "", "ends too early"},
		{"trailing text", pre + `"x":1} x`, jsonrpc.Malformed, "", "after the JSON text"},
		{"trailing value", pre + `"x":1}{}`, jsonrpc.Malformed, "", "after the JSON text"},
		{"trailing comma", pre + `"x":1,}`, jsonrpc.Malformed, "", "not valid JSON"},
		{"byte order mark", "\xef\xbb\xbf" + pre + `"x":1}`, jsonrpc.Malformed, "", "at byte 0"},
		{"comment", pre + `/**/"x":1}`, jsonrpc.Malformed, "", "not valid JSON"},
		{"single quotes", `{'jsonrpc':"2.0"}`, jsonrpc.Malformed, "", "not valid JSON"},
		{"NaN", params(`{"n":NaN}`), jsonrpc.Malformed, "", "not valid JSON"},
		{"leading zero", params(`{"n":01}`), jsonrpc.Malformed, "", "not valid JSON"},
		{"mismatched end", params(`{"n":[1}`), jsonrpc.Malformed, "", "not valid JSON"},
		{"control character", params("{\"n\":\"\n\"}"), jsonrpc.Malformed, "", "not valid JSON"},
		{"invalid UTF-8", params("{\"n\":\"\xff\"}"), jsonrpc.Malformed, "", "not valid JSON"},
		{"invalid UTF-8 in a key", params("{\"\xc0\xaf\":1}"), jsonrpc.Malformed, "", "not valid JSON"},
		{"encoded surrogate", params("{\"n\":\"\xed\xa0\x80\"}"), jsonrpc.Malformed, "", "not valid JSON"},
		{"lone high surrogate", params(`{"n":"\ud800"}`), jsonrpc.Malformed, "", "not valid JSON"},
		{"lone low surrogate", params(`{"n":"\udc00x"}`), jsonrpc.Malformed, "", "not valid JSON"},
		{"lone surrogate in a key", params(`{"\ud800":1}`), jsonrpc.Malformed, "", "not valid JSON"},
		{"swapped surrogates", params(`{"n":"\udc00\ud800"}`), jsonrpc.Malformed, "", "not valid JSON"},
		{"bad syntax after a duplicate", `{"jsonrpc":"2.0","id":7,"id":7`, jsonrpc.Malformed, "", "ends too early"},
		{"trailing value after a duplicate", `{"id":7,"id":7} 1`, jsonrpc.Malformed, "", "after the JSON text"},
		{"trailing value after an array", `[] 1`, jsonrpc.Malformed, "", "after the JSON text"},
		{"cut array", `[1,`, jsonrpc.Malformed, "", "ends too early"},
		{"bad syntax after a case fold", pre + `"ID":1]`, jsonrpc.Malformed, "", "not valid JSON"},

		{"batch", `[` + pre + `"x":1}]`, jsonrpc.Invalid, "", "batches are not accepted"},
		{"empty batch", `[]`, jsonrpc.Invalid, "", "batches are not accepted"},
		{"scalar", `"m"`, jsonrpc.Invalid, "", "JSON object"},
		{"null", `null`, jsonrpc.Invalid, "", "JSON object"},
		{"empty object", `{}`, jsonrpc.Invalid, "", "jsonrpc"},

		{"duplicate method", pre + `"method":"m"}`, jsonrpc.Invalid, "7", `duplicate key "method" at byte 37`},
		{"duplicate id", pre + `"id":7}`, jsonrpc.Invalid, "", `duplicate key "id"`},
		{"duplicate in params", params(`{"name":1,"name":1}`), jsonrpc.Invalid, "7", `duplicate key "name"`},
		{"duplicate with escape", params(`{"name":1,"nam\u0065":1}`), jsonrpc.Invalid, "7", `duplicate key "name"`},
		{"duplicate in arguments", params(`{"arguments":{"\/":1,"/":1}}`), jsonrpc.Invalid, "7", `duplicate key "/"`},
		{"duplicate in _meta", params(`{"_meta":{"":1,"":1}}`), jsonrpc.Invalid, "7", `duplicate key ""`},
		{"duplicate deep", params(`{"arguments":{"a":[[{"b":{"c":1,"c":2}}]]}}`), jsonrpc.Invalid, "7", `duplicate key "c"`},
		{"duplicate surrogate pair", params(`{"😀":1,"\ud83d\ude00":1}`), jsonrpc.Invalid, "7", `duplicate key "😀"`},
		{"duplicate long key", params(`{"` + strings.Repeat("ä", 50) + `":1,"` + strings.Repeat("ä", 50) + `":2}`), jsonrpc.Invalid, "7", `"` + strings.Repeat("ä", 32) + `"`},

		{"depth 65", params(nested(64)), jsonrpc.Invalid, "7", "nested deeper than 64"},
		{"depth 100 of arrays", params(`{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`), jsonrpc.Invalid, "7", "nested deeper than 64"},
		{"a million brackets", strings.Repeat("[", 1_000_000), jsonrpc.Invalid, "", "nested deeper than 64"},

		{"101 digits", params(`{"n":` + million[:101] + `}`), jsonrpc.Invalid, "7", "more than 100 digits"},
		{"101 digits in a fraction", params(`{"n":-0.` + million[:100] + `}`), jsonrpc.Invalid, "7", "more than 100 digits"},
		{"a million digits", params(`{"n":[` + million + `]}`), jsonrpc.Invalid, "7", "more than 100 digits"},
		{"1e309", params(`{"n":1e309}`), jsonrpc.Invalid, "7", "exponent"},
		{"1e400 in arguments", params(`{"arguments":{"max_count":1e400}}`), jsonrpc.Invalid, "7", "exponent"},
		{"1E-309", params(`{"n":1E-309}`), jsonrpc.Invalid, "7", "exponent"},
		{"a million digits of exponent", params(`{"n":1e` + million + `}`), jsonrpc.Invalid, "7", "exponent"},
		{"a million zeros of exponent", params(`{"n":1e` + strings.Repeat("0", 1_000_000) + `}`), jsonrpc.Invalid, "7", "digits"},
		{"101 digits of id", `{"jsonrpc":"2.0","id":` + million[:101] + `,"method":"m"}`, jsonrpc.Invalid, "", "digits"},

		{"Kelvin sign", params(`{"tas\u212a":1}`), jsonrpc.Invalid, "7", `"task"`},
		{"long s", params(`{"paramſ":1,"taſk":1}`), jsonrpc.Invalid, "7", `"params"`},

		{"method and result", pre + `"result":{}}`, jsonrpc.Invalid, "7", "method beside result"},
		{"method and error", pre + `"error":{}}`, jsonrpc.Invalid, "7", "method beside result or error"},
		{"result and error", `{"jsonrpc":"2.0","id":7,"result":{},"error":{}}`, jsonrpc.Invalid, "7", "result beside error"},
		{"result and null error", `{"jsonrpc":"2.0","id":7,"result":{},"error":null}`, jsonrpc.Invalid, "7", "result beside error"},
		{"none", `{"jsonrpc":"2.0","id":7}`, jsonrpc.Invalid, "7", "neither"},
		{"no version", `{"id":7,"method":"m"}`, jsonrpc.Invalid, "7", "jsonrpc must be"},
		{"version 1.0", `{"jsonrpc":"1.0","id":7,"method":"m"}`, jsonrpc.Invalid, "7", "jsonrpc must be"},
		{"version as a number", `{"jsonrpc":2.0,"id":7,"method":"m"}`, jsonrpc.Invalid, "7", "jsonrpc must be"},
		{"version with a space", `{"jsonrpc":"2.0 ","id":7,"method":"m"}`, jsonrpc.Invalid, "7", "jsonrpc must be"},
		{"method as a number", `{"jsonrpc":"2.0","id":7,"method":1}`, jsonrpc.Invalid, "7", "method must be"},
		{"null method", `{"jsonrpc":"2.0","id":7,"method":null}`, jsonrpc.Invalid, "7", "method must be"},
		{"empty method", `{"jsonrpc":"2.0","id":7,"method":""}`, jsonrpc.Invalid, "7", "method must be"},
		{"257 bytes of method", `{"jsonrpc":"2.0","id":7,"method":"` + strings.Repeat("a", 257) + `"}`, jsonrpc.Invalid, "7", "method must be"},

		{"response without id", `{"jsonrpc":"2.0","result":{}}`, jsonrpc.Invalid, "", "needs an id"},
		{"error without id", `{"jsonrpc":"2.0","error":{}}`, jsonrpc.Invalid, "", "needs an id"},
		{"result with null id", `{"jsonrpc":"2.0","id":null,"result":{}}`, jsonrpc.Invalid, "", "id must be"},
		{"error is no object", `{"jsonrpc":"2.0","id":7,"error":"x"}`, jsonrpc.Invalid, "7", "error must be an object"},

		{"two faults, id of the wrong type", `{"jsonrpc":"2.0","id":{},"method":"m","method":"m"}`, jsonrpc.Invalid, "", "duplicate"},
		{"string id is echoed as written", `{"jsonrpc":"2.0","id":"\u0061/","method":""}`, jsonrpc.Invalid, `"\u0061/"`, "method"},
		{"id after the fault", `{"jsonrpc":"2.0","method":"m","method":"m","id":123456789012345678901}`, jsonrpc.Invalid, "123456789012345678901", "duplicate"},
		{"id named with an escape", `{"jsonrpc":"2.0","method":"","\u0069d":7}`, jsonrpc.Invalid, "7", "method"},
		{"only ID", `{"jsonrpc":"2.0","method":"m","ID":7}`, jsonrpc.Invalid, "", `key "ID"`},
	}
	for _, id := range []string{`null`, `true`, `1.0`, `1.5`, `1e2`, `1E0`, `{}`, `[1]`, `"` + strings.Repeat("a", 1023) + `"`} {
		rows = append(rows, row{"id " + id, `{"jsonrpc":"2.0","id":` + id + `,"method":"m"}`, jsonrpc.Invalid, "", "id must be"})
	}
	for _, v := range []string{`null`, `[]`, `1`, `"{}"`, `false`} {
		rows = append(rows,
			row{"params " + v, params(v), jsonrpc.Invalid, "7", "params must be an object"},
			row{"ref " + v, params(`{"ref":` + v + `}`), jsonrpc.Invalid, "7", "params.ref must be an object"},
			row{"_meta " + v, params(`{"_meta":` + v + `}`), jsonrpc.Invalid, "7", "params._meta must be an object"},
			row{"arguments " + v, params(`{"arguments":` + v + `}`), jsonrpc.Invalid, "7", "params.arguments must be an object"})
	}
	for _, key := range strings.Fields(`jsonrpc id method params result error name arguments uri cursor ref argument context _meta inputResponses requestState
		protocolVersion capabilities clientInfo level requestId progressToken progress total message reason notifications taskId task`) {
		other := strings.ToUpper(key[:len(key)-1]) + key[len(key)-1:]
		rows = append(rows,
			row{"case of " + key, pre + `"` + other + `":{}}`, jsonrpc.Invalid, "7", fmt.Sprintf("key %q at byte 37 differs from %q only in case", other, key)},
			row{"case of params." + key, params(`{"` + other + `":{}}`), jsonrpc.Invalid, "7", fmt.Sprintf("%q", key)})
	}
	for level, known := range map[string][]string{"ref": refKeys, "_meta": metaKeys} {
		for _, key := range known {
			other := strings.ToUpper(key[:len(key)-1]) + key[len(key)-1:]
			msg := fmt.Sprintf("key %q at byte 56 differs from %q only in case", other, key)
			for _, body := range []string{`{"` + other + `":1}`, `{"` + other + `":1,"` + key + `":2}`} {
				rows = append(rows, row{"case of " + level + "." + key, `{"jsonrpc":"2.0","id":7,"method":"m","params":{` + fmt.Sprintf("%7s", `"`+level+`"`) + `:` + body + `}}`, jsonrpc.Invalid, "7", msg})
			}
		}
	}
	rows = append(rows, row{"Kelvin sign in _meta", params(`{"_meta":{"progressTo\u212aen":1}}`), jsonrpc.Invalid, "7", `"progressToken"`})
	for _, c := range rows {
		t.Run(c.name, func(t *testing.T) {
			e := refused(t, c.body, jsonrpc.Limits{})
			if e.Kind != c.kind || string(e.ID) != c.id || (e.ID == nil) != (c.id == "") || !strings.Contains(e.Msg, c.msg) {
				t.Errorf("kind %d, id %s, %q; want kind %d, id %s, %q", e.Kind, e.ID, e.Msg, c.kind, c.id, c.msg)
			}
			if len(e.Msg) > 200 {
				t.Errorf("the message has %d bytes: %s", len(e.Msg), e.Msg)
			}
		})
	}
}

func TestReadDepthLimit(t *testing.T) {
	const body = `{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":[]}}`
	if _, err := jsonrpc.Read([]byte(body), jsonrpc.Limits{Depth: 3}); err != nil {
		t.Error(err)
	}
	for depth := 1; depth < 3; depth++ {
		if e := refused(t, body, jsonrpc.Limits{Depth: depth}); e.Kind != jsonrpc.Invalid || string(e.ID) != "1" {
			t.Errorf("depth %d: kind %d, id %s", depth, e.Kind, e.ID)
		}
	}
}

func TestReadMemberLimit(t *testing.T) {
	object := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"%x":0`, i)
		}
		return "{" + b.String()[1:] + "}"
	}
	const around = 5 // jsonrpc, id, method, params and arguments are open as well
	for _, c := range []struct {
		name, arguments string
		ok              bool
	}{
		{"as many as allowed", object(1<<16 - around), true},
		{"one more", object(1<<16 - around + 1), false},
		{"deeper", `{"a":[` + object(1<<16-around) + `]}`, false},
		{"one after the other", `{"a":[` + object(40000) + "," + object(40000) + `],"b":` + object(40000) + `}`, true},
		{"one in the other", `{"b":` + object(40000)[:len(object(40000))-1] + `,"z":` + object(40000) + `}}`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := `{"jsonrpc":"2.0","id":1,"method":"m","params":{"arguments":` + c.arguments + `}}`
			if c.ok {
				read(t, body)
			} else if e := refused(t, body, jsonrpc.Limits{}); e.Kind != jsonrpc.Invalid || string(e.ID) != "1" || !strings.Contains(e.Msg, "more than 65536 members") {
				t.Errorf("kind %d, id %s, %s", e.Kind, e.ID, e.Msg)
			}
		})
	}
}

func TestParse(t *testing.T) {
	o, err := jsonrpc.Parse([]byte(` {"b":{"c":[1]},"\u0061":"x","Name":1,"name":2} `), jsonrpc.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if o.Pos != 1 || len(o.Members) != 4 || o.Members[0].Name != "b" || string(o.Get("b").Raw) != `{"c":[1]}` || o.Get("b").Pos != 6 || string(o.Get("a").Raw) != `"x"` {
		t.Errorf("got %+v", o)
	}
	if o, err := jsonrpc.Parse([]byte(`{}`), jsonrpc.Limits{}); err != nil || !o.Exists() || o.Members != nil {
		t.Errorf("empty object: %+v, %v", o, err)
	}
	for raw, kind := range map[string]jsonrpc.ErrorKind{
		``: jsonrpc.Malformed, `{`: jsonrpc.Malformed, `{}{}`: jsonrpc.Malformed, `{"a":"\ud800"}`: jsonrpc.Malformed,
		`[]`: jsonrpc.Invalid, `null`: jsonrpc.Invalid, `{"id":1,"a":{"b":1,"\u0062":2}}`: jsonrpc.Invalid, `{"a":[{}]}`: 0, `{"a":[{"b":{}}]}`: jsonrpc.Invalid, `{"a":1e999}`: jsonrpc.Invalid,
	} {
		_, err := jsonrpc.Parse([]byte(raw), jsonrpc.Limits{Depth: 3})
		var e *jsonrpc.Error
		if errors.As(err, &e) && (e.Kind != kind || e.ID != nil) || (err == nil) != (kind == 0) {
			t.Errorf("Parse(%s): %v, want kind %d", raw, err, kind)
		}
	}
}

func TestValueStr(t *testing.T) {
	for raw, want := range map[string]string{`"a b"`: "a b", `""`: "", `"\u00e4\n\"\ud83d\ude00"`: "ä\n\"😀"} {
		if s, ok := (jsonrpc.Value{Raw: []byte(raw)}).Str(); s != want || !ok {
			t.Errorf("Str of %s = %q, %v", raw, s, ok)
		}
	}
	for _, raw := range []string{``, `1`, `null`, `{}`, `["a"]`} {
		if s, ok := (jsonrpc.Value{Raw: []byte(raw)}).Str(); s != "" || ok {
			t.Errorf("Str of %s = %q, %v", raw, s, ok)
		}
	}
}

// A pooled reader must not let one text show through in the next.
func TestReadersDoNotMix(t *testing.T) {
	first := read(t, `{"jsonrpc":"2.0","id":1,"method":"first","params":{"arguments":{"a":1,"b":2},"_meta":{"c":3}}}`)
	_ = refused(t, `{"jsonrpc":"2.0","id":1,"method":"x","params":{"zzz":1,"arguments":{"yyy":{}`, jsonrpc.Limits{})
	second := read(t, `{"jsonrpc":"2.0","id":2,"method":"other","params":{"arguments":{"d":4}}}`)
	if n := first.Arguments.Members; len(n) != 2 || n[0].Name != "a" || n[1].Name != "b" || first.Method != "first" {
		t.Errorf("the first message changed: %+v", first)
	}
	if len(second.Params.Members) != 1 || len(second.Arguments.Members) != 1 || second.Meta.Exists() || second.Meta.Members != nil {
		t.Errorf("the second message has members of others: %+v", second)
	}
}
