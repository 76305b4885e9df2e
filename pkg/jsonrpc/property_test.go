package jsonrpc_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

// The reference below reads messages with encoding/json, a tree and regular expressions: slow, plain, and with no line in common with the reader.

type pair struct {
	name  string
	value any // object, []any, json.Number, string, bool or nil
	raw   json.RawMessage
}
type object []pair

func (o object) find(name string) (pair, bool) {
	for _, p := range o {
		if p.name == name {
			return p, true
		}
	}
	return pair{}, false
}

// tree decodes valid JSON, keeping order, duplicates and every value's text.
func tree(raw []byte) any {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	first, err := d.Token()
	if err != nil {
		panic(err)
	}
	var o object
	list := []any{}
	for d.More() {
		var p pair
		if first == json.Delim('{') {
			name, err := d.Token()
			if err != nil {
				panic(err)
			}
			p.name = name.(string)
		}
		if err := d.Decode(&p.raw); err != nil {
			panic(err)
		}
		p.value = tree(p.raw)
		o, list = append(o, p), append(list, p.value)
	}
	switch first {
	case json.Delim('{'):
		return o
	case json.Delim('['):
		return list
	}
	return first
}

// sound reports whether a tree is free of duplicates, of numbers too large and of nesting too deep.
func sound(v any, depth int) bool {
	switch v := v.(type) {
	case object:
		seen := map[string]bool{}
		for _, p := range v {
			if seen[p.name] || !sound(p.value, depth-1) {
				return false
			}
			seen[p.name] = true
		}
		return depth > 0
	case []any:
		for _, e := range v {
			if !sound(e, depth-1) {
				return false
			}
		}
		return depth > 0
	case json.Number:
		mantissa, exponent, _ := strings.Cut(strings.ToLower(v.String()), "e")
		if len(regexp.MustCompile(`[^0-9]`).ReplaceAllString(mantissa+exponent, "")) > 100 {
			return false
		}
		if exponent != "" {
			n, _ := new(big.Int).SetString(strings.TrimPrefix(exponent, "+"), 10)
			return n.CmpAbs(big.NewInt(308)) <= 0
		}
	}
	return true
}

var escape = regexp.MustCompile(`\\(u[0-9a-fA-F]{4}|.)`)

// text reports whether the escapes of valid JSON name Unicode characters: every surrogate has its other half directly beside it.
func text(raw []byte) bool {
	high := -1 // where a high surrogate's escape ended
	for _, at := range escape.FindAllIndex(raw, -1) {
		esc := strings.ToLower(string(raw[at[0]:at[1]]))
		if high >= 0 && (at[0] != high || !regexp.MustCompile(`^\\ud[c-f]`).MatchString(esc)) {
			return false
		}
		switch {
		case high >= 0:
			high = -1
		case regexp.MustCompile(`^\\ud[89ab]`).MatchString(esc):
			high = at[1]
		case regexp.MustCompile(`^\\ud[c-f]`).MatchString(esc):
			return false
		}
	}
	return high < 0
}

var keys = strings.Fields(`jsonrpc id method params result error name arguments uri cursor ref argument context _meta inputResponses requestState
	protocolVersion capabilities clientInfo level requestId progressToken progress total message reason notifications taskId task`)

const mcpPrefix = "io.modelcontextprotocol/"

var (
	metaKeys = []string{mcpPrefix + "protocolVersion", mcpPrefix + "clientCapabilities", mcpPrefix + "clientInfo", mcpPrefix + "serverInfo", mcpPrefix + "logLevel", mcpPrefix + "subscriptionId", "progressToken", "traceparent"}
	refKeys  = []string{"type", "name", "uri"}
)

func folded(o object, keys []string) bool {
	for _, p := range o {
		for _, k := range keys {
			if p.name != k && strings.EqualFold(p.name, k) {
				return true
			}
		}
	}
	return false
}

func idText(p pair) bool {
	_, number := p.value.(json.Number)
	_, str := p.value.(string)
	return len(p.raw) <= 1024 && (str || number && regexp.MustCompile(`^-?[0-9]{1,100}$`).Match(p.raw))
}

// reference says whether body is JSON, whether it is a message to accept, and the id that a refusal carries.
func reference(body []byte) (isJSON, ok bool, kind jsonrpc.Kind, id string) {
	if !utf8.Valid(body) || !json.Valid(body) || !text(body) {
		return false, false, 0, ""
	}
	top, _ := tree(body).(object)
	ids := 0
	for _, p := range top {
		if p.name == "id" {
			ids++
			if id = ""; idText(p) {
				id = string(p.raw)
			}
		}
	}
	if ids != 1 {
		id = ""
	}
	version, _ := top.find("jsonrpc")
	idPair, hasID := top.find("id")
	method, hasMethod := top.find("method")
	_, hasResult := top.find("result")
	fail, hasError := top.find("error")
	params, hasParams := top.find("params")
	if !sound(any(top), 64) || folded(top, keys) || string(version.raw) != `"2.0"` {
		return true, false, 0, id
	}
	if hasParams {
		p, isObject := params.value.(object)
		if !isObject || folded(p, keys) {
			return true, false, 0, id
		}
		for name, keys := range map[string][]string{"_meta": metaKeys, "ref": refKeys, "arguments": nil} {
			if v, has := p.find(name); has {
				if o, isObject := v.value.(object); !isObject || folded(o, keys) {
					return true, false, 0, id
				}
			}
		}
	}
	switch {
	case hasMethod && !hasResult && !hasError:
		s, isString := method.value.(string)
		ok = isString && s != "" && len(s) <= 256 && (!hasID || idText(idPair))
		kind = jsonrpc.Notification
		if hasID {
			kind = jsonrpc.Request
		}
	case hasResult && !hasMethod && !hasError:
		kind, ok = jsonrpc.Response, idText(idPair)
	case hasError && !hasMethod && !hasResult:
		_, isObject := fail.value.(object)
		kind, ok = jsonrpc.Response, isObject && (idText(idPair) || hasID && idPair.value == nil)
	}
	return true, ok, kind, id
}

// agree fails unless the reader judges body as the reference does, and what it returns is in order.
func agree(t interface{ Fatalf(string, ...any) }, body []byte) {
	before := string(body)
	m, err := jsonrpc.Read(body, jsonrpc.Limits{})
	isJSON, ok, kind, id := reference(body)
	if string(body) != before {
		t.Fatalf("Read changed the body %q to %q", before, body)
	}
	if (err == nil) != ok {
		t.Fatalf("Read(%q): %v; the reference says %v", body, err, ok)
	}
	if err != nil {
		var e *jsonrpc.Error
		if !errors.As(err, &e) {
			t.Fatalf("Read(%q): %T", body, err)
		}
		deep := bytes.Count(body, []byte("["))+bytes.Count(body, []byte("{")) > jsonrpc.DefaultDepth
		if (e.Kind == jsonrpc.Malformed) == isJSON && !deep {
			t.Fatalf("Read(%q): kind %d (%v); the reference says JSON: %v", body, e.Kind, err, isJSON)
		}
		if string(e.ID) != id {
			t.Fatalf("Read(%q): refused with id %s, the reference says %s", body, e.ID, id)
		}
		if !utf8.ValidString(e.Msg) || len(e.Msg) > 400 {
			t.Fatalf("Read(%q): message %q", body, e.Msg)
		}
		return
	}
	if m.Kind != kind || string(m.ID) != id {
		t.Fatalf("Read(%q): %v with id %s; the reference says %v with %s", body, m.Kind, m.ID, kind, id)
	}
	top := tree(body).(object)
	params, _ := top.find("params")
	want, _ := params.value.(object)
	indexed := func(o jsonrpc.Object, want object) {
		if len(o.Members) != len(want) {
			t.Fatalf("Read(%q): %d members, the reference has %d", body, len(o.Members), len(want))
		}
		for i, p := range want {
			v := o.Members[i]
			if v.Name != p.name || string(v.Value.Raw) != string(p.raw) || string(body[v.Value.Pos:][:len(p.raw)]) != string(p.raw) {
				t.Fatalf("Read(%q): member %q = %s at %d; the reference has %q = %s", body, v.Name, v.Value.Raw, v.Value.Pos, p.name, p.raw)
			}
			if s, ok := v.Value.Str(); ok && s != p.value {
				t.Fatalf("Read(%q): member %q decodes to %q, the reference says %q", body, v.Name, s, p.value)
			}
		}
	}
	indexed(m.Params, want)
	meta, _ := want.find("_meta")
	in, _ := meta.value.(object)
	indexed(m.Meta, in)
	r, _ := want.find("ref")
	in, _ = r.value.(object)
	indexed(m.Ref, in)
	args, _ := want.find("arguments")
	in, _ = args.value.(object)
	indexed(m.Arguments, in)
	cloned(t, bytes.Clone(body))
}

// cloned fails unless a clone of the message in body is what a fresh reading gives, and shares no byte with it. It destroys body.
func cloned(t interface{ Fatalf(string, ...any) }, body []byte) {
	fresh, err := jsonrpc.Read(bytes.Clone(body), jsonrpc.Limits{})
	if err != nil {
		t.Fatalf("Read(%q) a second time: %v", body, err)
	}
	m, err := jsonrpc.Read(body, jsonrpc.Limits{})
	if err != nil {
		t.Fatalf("Read(%q) a third time: %v", body, err)
	}
	c := m.Clone()
	for i := range m.Body {
		m.Body[i] ^= 0xff
	}
	if d := cmp.Diff(fresh, c); d != "" {
		t.Fatalf("the clone of %q differs from a fresh reading: %s", fresh.Body, d)
	}
	inside := func(v []byte) {
		if len(v) > 0 && !bytes.Equal(v, c.Body) { // the whole body stands for itself
			v[0] ^= 0xff
			if bytes.Equal(c.Body, fresh.Body) {
				t.Fatalf("a value of the clone of %q does not stand in its body", fresh.Body)
			}
			v[0] ^= 0xff
		}
	}
	for _, o := range []jsonrpc.Object{c.Params, c.Meta, c.Ref, c.Arguments} {
		inside(o.Raw)
		for _, v := range o.Members {
			inside(v.Value.Raw)
		}
	}
	for _, v := range [][]byte{c.MethodValue.Raw, c.Result.Raw, c.Error.Raw} {
		inside(v)
	}
}

// literal writes s as a JSON string, some of its characters as escapes.
func literal(t *rapid.T, s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		if r < 0x10000 && rapid.IntRange(0, 9).Draw(t, "escape") == 0 {
			b.WriteString(`\u` + strings.ToUpper(big.NewInt(0x10000 + int64(r)).Text(16))[1:])
			continue
		}
		q, _ := json.Marshal(string(r))
		b.Write(q[1 : len(q)-1])
	}
	return b.String() + `"`
}

func space(t *rapid.T) string {
	return rapid.SampledFrom([]string{"", "", "", "", " ", "\n\t", "\r "}).Draw(t, "space")
}

// members writes an object: each wanted member, most of the time, and a few more. Now and then a name is in another case, or a member comes twice.
func members(t *rapid.T, names []string, value func(name string) string) string {
	var out []string
	for _, name := range names {
		if rapid.IntRange(0, 79).Draw(t, "case") == 41 {
			name = rapid.SampledFrom([]string{strings.ToUpper(name), strings.ToLower(name), strings.ReplaceAll(name, "s", "ſ"), strings.ReplaceAll(name, "k", "\u212a")}).Draw(t, "cased")
		}
		m := space(t) + literal(t, name) + space(t) + ":" + space(t) + value(name) + space(t)
		out = append(out, m)
		if rapid.IntRange(0, 79).Draw(t, "twice") == 41 {
			out = append(out, m)
		}
	}
	return "{" + strings.Join(rapid.Permutation(out).Draw(t, "order"), ",") + space(t) + "}"
}

func scalar(t *rapid.T) string {
	return rapid.OneOf(
		rapid.SampledFrom([]string{"null", "true", "1", "-0", "1.0", "9007199254740993", "1e308", "0.5e+0308", strings.Repeat("1", 100), `"\ud83d\ude00"`, `"\\ud800"`, `""`}),
		rapid.Custom(func(t *rapid.T) string { return literal(t, rapid.String().Draw(t, "string")) }),
	).Draw(t, "scalar")
}

func value(t *rapid.T, depth int) string {
	switch k := rapid.IntRange(0, 49).Draw(t, "shape"); {
	case k == 41:
		return rapid.SampledFrom([]string{"1E-309", "1e400", strings.Repeat("1", 101), `"\ud800"`, strings.Repeat("[", 64) + strings.Repeat("]", 64)}).Draw(t, "bad value")
	case depth > 0 && k < 8:
		return members(t, rapid.SliceOfNDistinct(rapid.StringN(0, 4, -1), 0, 4, rapid.ID).Draw(t, "names"), func(string) string { return value(t, depth-1) })
	case depth > 0 && k < 16:
		var out []string
		for range rapid.IntRange(0, 3).Draw(t, "length") {
			out = append(out, space(t)+value(t, depth-1)+space(t))
		}
		return "[" + strings.Join(out, ",") + "]"
	}
	return scalar(t)
}

// message writes a JSON-RPC message that is often, not always, a good one.
func message(t *rapid.T) string {
	names := rapid.SampledFrom([][]string{{"jsonrpc", "id", "method", "params"}, {"jsonrpc", "id", "method", "params"}, {"jsonrpc", "method", "params"}, {"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"}, {"id", "method"}, {"jsonrpc", "id"}, {"jsonrpc", "id", "method", "result"}, {"jsonrpc", "id", "result", "error"}}).Draw(t, "names")
	if rapid.Bool().Draw(t, "more") {
		names = append(append([]string{}, names...), "x")
	}
	odd := func() bool { return rapid.IntRange(0, 49).Draw(t, "odd") == 31 }
	var at func(name string) string
	at = func(name string) string {
		if odd() {
			return value(t, 2)
		}
		switch name {
		case "jsonrpc":
			return `"2.0"`
		case "id":
			if odd() {
				return rapid.SampledFrom([]string{"null", "1.5", "1e2", `"` + strings.Repeat("i", 1023) + `"`}).Draw(t, "bad id")
			}
			return rapid.SampledFrom([]string{"1", `"1"`, `"\u0061\n"`, "9007199254740993", "-5", `"` + strings.Repeat("i", 1022) + `"`}).Draw(t, "id")
		case "method":
			return rapid.SampledFrom([]string{`"tools/call"`, `"tools\/list"`, `"ping"`}).Draw(t, "method")
		case "params":
			return members(t, rapid.SampledFrom([][]string{{"name", "arguments"}, {"name", "arguments", "_meta"}, {"uri", "_meta"}, {"ref", "argument", "_meta"}, {}}).Draw(t, "params"), at)
		case "name", "uri":
			return literal(t, rapid.String().Draw(t, "name"))
		case "ref":
			return members(t, rapid.SampledFrom([][]string{refKeys, {"type", "name"}, {"type", "uri", "x"}}).Draw(t, "ref"), at)
		case "_meta":
			return members(t, append(rapid.SliceOfNDistinct(rapid.SampledFrom(metaKeys), 0, 4, rapid.ID).Draw(t, "keys"), "x"), func(string) string { return value(t, 3) })
		case "error", "arguments":
			return members(t, rapid.SliceOfNDistinct(rapid.StringN(0, 6, -1), 0, 4, rapid.ID).Draw(t, "names"), func(string) string { return value(t, 3) })
		}
		return value(t, 3)
	}
	return space(t) + members(t, names, at) + space(t)
}

// mutate changes a few bytes.
func mutate(t *rapid.T, body []byte) []byte {
	for range rapid.IntRange(1, 3).Draw(t, "mutations") {
		if len(body) == 0 {
			return body
		}
		at := rapid.IntRange(0, len(body)-1).Draw(t, "at")
		c := rapid.SampledFrom([]byte("{}[],:\"\\0e.u \xff\x00nd8")).Draw(t, "byte")
		switch rapid.IntRange(0, 3).Draw(t, "how") {
		case 0:
			body[at] = c
		case 1:
			body = append(body[:at:at], append([]byte{c}, body[at:]...)...)
		case 2:
			body = append(body[:at:at], body[at+1:]...)
		case 3:
			body = body[:at]
		}
	}
	return body
}

func TestReadAgreesWithReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { agree(t, []byte(message(t))) })
}

func TestReadAgreesWithReferenceOnMutations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { agree(t, mutate(t, []byte(message(t)))) })
}

func TestReadNeverPanics(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		agree(t, body)
		agree(t, append([]byte(`{"jsonrpc":`), body...))
	})
}

func TestIDsAreByteExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.OneOf(
			rapid.StringMatching(`-?[1-9][0-9]{0,99}`),
			rapid.Custom(func(t *rapid.T) string { return literal(t, rapid.StringN(0, 100, 150).Draw(t, "text")) }),
		).Draw(t, "id")
		m, err := jsonrpc.Read([]byte(`{"jsonrpc":"2.0","id": `+id+` ,"method":"m"}`), jsonrpc.Limits{})
		if err != nil || string(m.ID) != id {
			t.Fatalf("id %s: %v, %v", id, m, err)
		}
		answer, err := jsonrpc.Read(jsonrpc.Result(m.ID, nil), jsonrpc.Limits{})
		if err != nil || string(answer.ID) != id {
			t.Fatalf("answer to %s: %v, %v", id, answer, err)
		}
	})
}

func TestSpliceChangesNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		body := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":` + literal(t, rapid.String().Draw(t, "old")) + `,"arguments":` + members(t, nil, nil) + `}}`)
		m, err := jsonrpc.Read(body, jsonrpc.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		name, renamed := m.Params.Get("name"), rapid.String().Draw(t, "new")
		out := jsonrpc.Splice(body, jsonrpc.Edit{Pos: name.Pos, Len: len(name.Raw), Text: jsonrpc.AppendString(nil, renamed)})
		end := name.Pos + len(name.Raw)
		if !bytes.HasPrefix(out, body[:name.Pos]) || !bytes.HasSuffix(out, body[end:]) {
			t.Fatalf("%s became %s", body, out)
		}
		again, err := jsonrpc.Read(out, jsonrpc.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := again.Params.Get("name").Str(); got != renamed {
			t.Fatalf("renamed to %q, reads %q", renamed, got)
		}
	})
}

// Any set of edits equals the same edits made one by one, from the last to the first.
func TestSpliceEqualsEditsOneByOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		var edits []jsonrpc.Edit
		for at := 0; at <= len(body) && len(edits) < 5; {
			e := jsonrpc.Edit{Pos: rapid.IntRange(at, len(body)).Draw(t, "pos"), Text: rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(t, "text")}
			e.Len = rapid.IntRange(0, len(body)-e.Pos).Draw(t, "len")
			edits, at = append(edits, e), e.Pos+e.Len
			if rapid.Bool().Draw(t, "enough") {
				break
			}
		}
		want := string(body)
		for i := len(edits) - 1; i >= 0; i-- {
			e := edits[i]
			want = want[:e.Pos] + string(e.Text) + want[e.Pos+e.Len:]
		}
		before := string(body)
		if got := string(jsonrpc.Splice(body, edits...)); got != want || string(body) != before {
			t.Fatalf("Splice(%q, %v) = %q, want %q", before, edits, got, want)
		}
	})
}

func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		call,
		`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":0.5}}`,
		`{"jsonrpc":"2.0","id":"\u0061","result":{"a":[1e308,"\ud83d\ude00"]}}`,
		`{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"m"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"m","params":{"nam\u0065":1,"name":2}}`,
		`{"jsonrpc":"2.0","id":1,"ID":2,"method":"m"}`,
		`{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"a","Name":"b"},"_meta":{"ProgressToken":1}}}`,
		`[{"jsonrpc":"2.0","id":1,"method":"m"}]`,
		`{"jsonrpc":"2.0","id":1,"method":"m","params":{"arguments":{"a":1e400,"b":"\ud800"}}} x`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) { agree(t, body) })
}
