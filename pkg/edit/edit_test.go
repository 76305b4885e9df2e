package edit_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/mcpgw/mcpgw/pkg/edit"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
)

func set(path, value string) edit.Change     { return edit.Change{Path: path, Value: []byte(value)} }
func remove(path string) edit.Change         { return edit.Change{Path: path} }
func pattern(expr, with string) edit.Change  { return edit.Change{Pattern: expr, With: with} }
func changes(c ...edit.Change) []edit.Change { return c }
func with(t testing.TB, c ...edit.Change) *edit.Editor {
	t.Helper()
	var p edit.Patterns
	e, err := p.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestArguments(t *testing.T) {
	for name, c := range map[string]struct {
		in, out string
		changes []edit.Change
		err     error
	}{
		"set":                               {in: `{ "a" : 1 ,"b":9007199254740993}`, changes: changes(set("/a", `{"x":1.0}`)), out: `{ "a" : {"x":1.0} ,"b":9007199254740993}`},
		"add":                               {in: `{"b": 1.0 }`, changes: changes(set("/a", `"x"`), set("/c", `2`)), out: `{"b": 1.0,"a":"x","c":2 }`},
		"add to nothing":                    {in: `{ }`, changes: changes(set("/a", `1`)), out: `{"a":1 }`},
		"no arguments":                      {changes: changes(set("/a", `1`)), out: `{"a":1}`},
		"no arguments and nothing to do":    {changes: changes(remove("/a"), pattern("x", "y")), out: ``},
		"escapes":                           {in: `{"a/b":{"~":1,"\u007e1":2},"~1":3}`, changes: changes(set("/a~1b/~0", `7`), set("/~01", `8`), set("/a~1b/~01", `9`)), out: `{"a/b":{"~":7,"\u007e1":9},"~1":8}`},
		"an escaped name":                   {in: `{"\u0061":1}`, changes: changes(set("/a", `2`)), out: `{"\u0061":2}`},
		"the empty name":                    {in: `{"":{"":1}}`, changes: changes(set("//", `2`)), out: `{"":{"":2}}`},
		"every member":                      {in: `{"a":{"x":1,"y":{"z":2}},"*":3}`, changes: changes(set("/a/*", `0`)), out: `{"a":{"x":0,"y":0},"*":3}`},
		"every element":                     {in: `{"a":[{"x":1,"y":1},{"y":2},3]}`, changes: changes(set("/a/*/y", `0`)), err: edit.ErrAbsent},
		"every element that has it":         {in: `{"a":[{"x":1,"y":1},{"y":2}]}`, changes: changes(set("/a/*/y", `0`)), out: `{"a":[{"x":1,"y":0},{"y":0}]}`},
		"every element of none":             {in: `{"a":[]}`, changes: changes(set("/a/*/y", `0`)), out: `{"a":[]}`},
		"every element of a number":         {in: `{"a":5}`, changes: changes(set("/a/*", `0`)), err: edit.ErrAbsent},
		"an element":                        {in: `{"a":[1,2,3]}`, changes: changes(set("/a/1", `0`)), out: `{"a":[1,0,3]}`},
		"an element beyond the end":         {in: `{"a":[1]}`, changes: changes(set("/a/1", `0`)), err: edit.ErrAbsent},
		"an index with a zero":              {in: `{"a":[1,2]}`, changes: changes(set("/a/01", `0`)), err: edit.ErrAbsent},
		"the end":                           {in: `{"a":[1 ]}`, changes: changes(set("/a/-", `2`)), out: `{"a":[1,2 ]}`},
		"the end of nothing":                {in: `{"a":[]}`, changes: changes(set("/a/-", `2`)), out: `{"a":[2]}`},
		"below the end":                     {in: `{"a":[1]}`, changes: changes(set("/a/-/x", `2`)), err: edit.ErrAbsent},
		"an absent parent":                  {in: `{"b":1}`, changes: changes(set("/a/x", `1`)), err: edit.ErrAbsent},
		"a parent that is text":             {in: `{"a":"x"}`, changes: changes(set("/a/x", `1`)), err: edit.ErrAbsent},
		"remove the first":                  {in: `{ "a":1 , "b":2}`, changes: changes(remove("/a")), out: `{ "b":2}`},
		"remove the last":                   {in: `{ "a":1 , "b":2 }`, changes: changes(remove("/b")), out: `{ "a":1 }`},
		"remove the middle":                 {in: `{"a":1,"b":2,"c":3}`, changes: changes(remove("/b")), out: `{"a":1,"c":3}`},
		"remove all":                        {in: `{ "a":1, "b":2 }`, changes: changes(remove("/*")), out: `{  }`},
		"remove the first two":              {in: `{"a":1, "b":2, "c":3}`, changes: changes(remove("/a"), remove("/b")), out: `{"c":3}`},
		"remove the last two":               {in: `{"a":1, "b":2, "c":3}`, changes: changes(remove("/c"), remove("/b")), out: `{"a":1}`},
		"remove all and add":                {in: `{"a":1,"b":2}`, changes: changes(remove("/a"), remove("/b"), set("/c", `3`)), out: `{"c":3}`},
		"remove the last and add":           {in: `{"a":1,"b":2}`, changes: changes(remove("/b"), set("/c", `3`)), out: `{"a":1,"c":3}`},
		"remove what is not there":          {in: `{"a":1}`, changes: changes(remove("/b"), remove("/a/x/y"), remove("/c/*")), out: `{"a":1}`},
		"remove elements":                   {in: `{"a":[{"x":1},[2], 3]}`, changes: changes(remove("/a/0"), remove("/a/2")), out: `{"a":[[2]]}`},
		"remove beside a change":            {in: `{"a":{"x":1,"y":2},"b":1}`, changes: changes(set("/a/x", `7`), remove("/b")), out: `{"a":{"x":7,"y":2}}`},
		"two at one place":                  {in: `{"a":1}`, changes: changes(set("/*", `7`), set("/a", `8`)), err: edit.ErrConflict},
		"one within the other":              {in: `{"a":{"x":1}}`, changes: changes(set("/*", `7`), set("/a/x", `8`)), err: edit.ErrConflict},
		"two that add":                      {in: `{"a":[{}]}`, changes: changes(set("/a/*/x", `7`), set("/a/0/x", `8`)), err: edit.ErrConflict},
		"a pattern":                         {in: `{"q":"a 123 b 4\u0035","n":123,"123":{"x":["1","x"]}}`, changes: changes(pattern(`\d+`, "<$0>")), out: `{"q":"a <123> b <45>","n":123,"123":{"x":["<1>","x"]}}`},
		"a group":                           {in: `{"q":"http://a/x"}`, changes: changes(pattern(`^http://(.*)$`, "https://${1}")), out: `{"q":"https://a/x"}`},
		"a string that does not change":     {in: `{"q":"\u0041\/","r":"x"}`, changes: changes(pattern(`x`, "y")), out: `{"q":"\u0041\/","r":"y"}`},
		"a pattern sees what a pointer put": {in: `{"q":"1"}`, changes: changes(pattern(`[ab]`, "-"), set("/q", `"abc"`)), out: `{"q":"--c"}`},
		"patterns one after the other":      {in: `{"q":"a"}`, changes: changes(pattern(`a`, "b"), pattern(`b`, "c")), out: `{"q":"c"}`},
		"the empty match":                   {in: `{"q":"ab"}`, changes: changes(pattern(`x*`, "-")), out: `{"q":"-a-b-"}`},
		"replaced by nothing":               {in: `{"q":"aa"}`, changes: changes(pattern(`a`, "")), out: `{"q":""}`},
		"JSON in a text is text":            {in: `{"q":"{\"a\":1}"}`, changes: changes(pattern(`^1$`, "2"), remove("/q/a")), out: `{"q":"{\"a\":1}"}`},
		"growth":                            {in: `{"q":"` + strings.Repeat("a", 500) + `"}`, changes: changes(pattern(`a`, "bbb")), err: edit.ErrTooLarge},
		"growth by a group":                 {in: `{"q":"` + strings.Repeat("a", 500) + `"}`, changes: changes(pattern(`a+`, "$0$0$0$0$0$0")), err: edit.ErrTooLarge},
		"growth by a pointer":               {in: `{"q":[1,2,3]}`, changes: changes(set("/q/*", `"`+strings.Repeat("a", 400)+`"`)), err: edit.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			var in []byte
			if c.in != "" {
				in = []byte(c.in)
			}
			got, changed, err := with(t, c.changes...).Arguments(in, 1000)
			if !errors.Is(err, c.err) || err == nil && string(got) != c.out {
				t.Fatalf("got %s (%v)\nwant %s (%v)", got, err, c.out, c.err)
			}
			if err == nil && (changed > 0) != (c.in != c.out) {
				t.Errorf("%d changes", changed)
			}
		})
	}
}

func TestCompile(t *testing.T) {
	var p edit.Patterns
	for _, c := range []edit.Change{{}, {Path: "a"}, {Pattern: "("}, {Pattern: "(a{1000}){1000}"}} {
		if _, err := p.Compile(changes(c)); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
	for n := range 2000 { // more than are kept
		e, err := p.Compile(changes(pattern("a{"+strings.Repeat("1", 1+n%3)+"}|"+strings.Repeat("b", n), "")))
		if err != nil || e == nil {
			t.Fatal(err)
		}
	}
	names, all := with(t, set("/a/b", "1"), set("/c~1", "1"), pattern("x", "")).Paths()
	if strings.Join(names, " ") != "a c/" || all {
		t.Errorf("paths begin with %q, %v", names, all)
	}
	if _, all := with(t, set("/*/b", "1")).Paths(); !all {
		t.Error("* is not all")
	}
}

func message(t testing.TB, text string) *jsonrpc.Message {
	t.Helper()
	m, err := jsonrpc.Read([]byte(text), jsonrpc.Limits{Depth: 256})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestMessage(t *testing.T) {
	card := pattern(`\b[0-9]{16}\b`, "[card]")
	const no = "4111111111111111"
	response := func(result string) string {
		return `{"jsonrpc":"2.0", "id":9007199254740993, "result":` + result + ` }`
	}
	for name, c := range map[string]struct {
		in, out string // of the result, unless it begins with !
		changes []edit.Change
		err     error
	}{
		"nothing there":                    {in: `{"content":[],"n":1.0}`, changes: changes(set("/a/b", "1"), remove("/content/0"), card), out: `{"content":[],"n":1.0}`},
		"text":                             {in: `{"content":[{"type":"text","text":"it is ` + no + `"}]}`, changes: changes(card), out: `{"content":[{"type":"text","text":"it is [card]"}]}`},
		"escapes":                          {in: `{"content":[{"type":"text","text":"\u0034111111111111111"}]}`, changes: changes(card), out: `{"content":[{"type":"text","text":"[card]"}]}`},
		"structured, twice":                {in: `{"structuredContent":{"ssn":"1","n":1.0},"content":[{"type":"text","text":"{ \"ssn\":\"1\",\"n\":1.0 }"}]}`, changes: changes(set("/structuredContent/ssn", "null")), out: `{"structuredContent":{"ssn":null,"n":1.0},"content":[{"type":"text","text":"{ \"ssn\":null,\"n\":1.0 }"}]}`},
		"the copy alone":                   {in: `{"content":[{"type":"text","text":"{\"rows\":[{\"ssn\":1,\"x\":2}]}"}]}`, changes: changes(remove("/structuredContent/rows/*/ssn")), out: `{"content":[{"type":"text","text":"{\"rows\":[{\"x\":2}]}"}]}`},
		"a copy in a resource":             {in: `{"content":[{"type":"resource","resource":{"uri":"u","text":"[{\"a\":1}]"}}]}`, changes: changes(remove("/structuredContent/*/a")), out: `{"content":[{"type":"resource","resource":{"uri":"u","text":"[{}]"}}]}`},
		"a copy with duplicates":           {in: `{"content":[{"type":"text","text":"{\"a\":1,\"a\":2,\"b\":3}"}]}`, changes: changes(remove("/structuredContent/a")), out: `{"content":[{"type":"text","text":"{\"b\":3}"}]}`},
		"a copy of lines":                  {in: `{"content":[{"type":"text","text":"{\"a\":1}\n{\"a\":2,\"b\":1}\nend"}]}`, changes: changes(remove("/structuredContent/a")), out: `{"content":[{"type":"text","text":"{}\n{\"b\":1}\nend"}]}`},
		"all of it":                        {in: `{"structuredContent":{"a":1},"content":[{"type":"text","text":"{\"a\":1}"},{"type":"text","text":"[INFO] x"}]}`, changes: changes(set("/structuredContent", `"gone"`)), out: `{"structuredContent":"gone","content":[{"type":"text","text":"\"gone\""},{"type":"text","text":"[INFO] x"}]}`},
		"all of it, removed":               {in: `{"structuredContent":{"a":1},"content":[{"type":"text","text":"{\"a\":1}"}]}`, changes: changes(remove("/structuredContent")), out: `{"content":[{"type":"text","text":""}]}`},
		"all of a number":                  {in: `{"structuredContent":42,"content":[{"type":"text","text":"42"},{"type":"text","text":"it is 42"}]}`, changes: changes(set("/structuredContent", `0`)), out: `{"structuredContent":0,"content":[{"type":"text","text":"0"},{"type":"text","text":"it is 42"}]}`},
		"two at one place":                 {in: `{"a":{"b":1}}`, changes: changes(set("/a", "1"), remove("/a"), set("/a/b", "2")), out: `{}`},
		"ends of a string":                 {in: `{"structuredContent":{"a":"secret"},"content":[{"type":"text","text":"{\"a\":\"secret\",\"b\":\"no secret\"}"}]}`, changes: changes(pattern("^secret$", "x")), out: `{"structuredContent":{"a":"x"},"content":[{"type":"text","text":"{\"a\":\"x\",\"b\":\"no secret\"}"}]}`},
		"escapes in a copy":                {in: `{"content":[{"type":"text","text":"{\"a\":\"\\u0034111111111111111\"}"}]}`, changes: changes(card), out: `{"content":[{"type":"text","text":"{\"a\":\"[card]\"}"}]}`},
		"names stay":                       {in: `{"content":[],"` + no + `":1}`, changes: changes(card), out: `{"content":[],"` + no + `":1}`},
		"a number":                         {in: `{"structuredContent":{"n":` + no + `,"m":1.0},"ttlMs":` + no + `}`, changes: changes(card), out: `{"structuredContent":{"n":"[card]","m":1.0},"ttlMs":` + no + `}`},
		"a number in a copy":               {in: `{"content":[{"type":"text","text":"{\"n\":` + no + `}"}]}`, changes: changes(card), out: `{"content":[{"type":"text","text":"{\"n\":\"[card]\"}"}]}`},
		"a text that is a JSON string":     {in: `{"content":[{"type":"text","text":"\"\\u0034111111111111111\""}]}`, changes: changes(card), out: `{"content":[{"type":"text","text":"\"[card]\""}]}`},
		"a blob of text":                   {in: `{"contents":[{"uri":"u","blob":"` + b64("a "+no) + `"}]}`, changes: changes(card), out: `{"contents":[{"uri":"u","blob":"` + b64("a [card]") + `"}]}`},
		"a blob without":                   {in: `{"contents":[{"uri":"u","blob":"aGk"}]}`, changes: changes(card), out: `{"contents":[{"uri":"u","blob":"aGk"}]}`},
		"a binary blob":                    {in: `{"contents":[{"uri":"u","blob":"//79"}]}`, changes: changes(card), err: edit.ErrUnreadable},
		"UTF-16":                           {in: `{"contents":[{"uri":"u","blob":"` + b64("4\x001\x001\x00") + `"}]}`, changes: changes(card), err: edit.ErrUnreadable},
		"a broken blob":                    {in: `{"contents":[{"uri":"u","blob":"!!"}]}`, changes: changes(card), err: edit.ErrUnreadable},
		"an image":                         {in: `{"content":[{"type":"image","data":"//79","mimeType":"image/png"}]}`, changes: changes(card), err: edit.ErrUnreadable},
		"an image and a path":              {in: `{"content":[{"type":"image","data":"//79","mimeType":"image/png"}]}`, changes: changes(set("/structuredContent/x", "1")), out: `{"content":[{"type":"image","data":"//79","mimeType":"image/png"}]}`},
		"an image that is taken out first": {in: `{"content":[{"type":"image","data":"//79","mimeType":"image/png"}]}`, changes: changes(card, set("/content/*/data", `""`)), out: `{"content":[{"type":"image","data":"","mimeType":"image/png"}]}`},
		"a tool's own blob":                {in: `{"structuredContent":{"blob":"` + no + `","data":"!` + no + `","mimeType":"x"}}`, changes: changes(card), out: `{"structuredContent":{"blob":"[card]","data":"![card]","mimeType":"x"}}`},
		"input is asked for":               {in: `{"resultType":"input_required","inputRequests":{"q":{"method":"elicitation/create","params":{"message":"card ` + no + `?"}}},"requestState":"s"}`, changes: changes(card), out: `{"resultType":"input_required","inputRequests":{"q":{"method":"elicitation/create","params":{"message":"card [card]?"}}},"requestState":"s"}`},
		"a prompt":                         {in: `{"messages":[{"role":"user","content":{"type":"text","text":"` + no + `"}}]}`, changes: changes(set("/messages/*/role", `"assistant"`), card), out: `{"messages":[{"role":"assistant","content":{"type":"text","text":"[card]"}}]}`},
		"an error":                         {in: `!{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"no ` + no + `","data":{"blob":"` + no + `"}}}`, changes: changes(card, remove("/message")), out: `{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"no [card]","data":{"blob":"[card]"}}}`},
		"progress":                         {in: `!{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"` + no + `","progress":1,"message":"` + no + `"}}`, changes: changes(card), out: `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"` + no + `","progress":1,"message":"[card]"}}`},
		"a log message":                    {in: `!{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":{"x":"` + no + `","blob":"!"}}}`, changes: changes(card), out: `{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":{"x":"[card]","blob":"!"}}}`},
		"a log text":                       {in: `!{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"` + no + `"}}`, changes: changes(card), out: `{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"[card]"}}`},
		"a question":                       {in: `!{"jsonrpc":"2.0","id":"` + no + `","method":"elicitation/create","params":{"_meta":{"progressToken":"` + no + `"},"message":"` + no + `"}}`, changes: changes(card), out: `{"jsonrpc":"2.0","id":"` + no + `","method":"elicitation/create","params":{"_meta":{"progressToken":"` + no + `"},"message":"[card]"}}`},
		"beside the result":                {in: `!{"note":["` + no + `"],"jsonrpc":"2.0","id":1,"result":{},"params":{"n":` + no + `},"x":1.0}`, changes: changes(card), out: `{"note":["[card]"],"jsonrpc":"2.0","id":1,"result":{},"params":{"n":"[card]"},"x":1.0}`},
		"no params":                        {in: `!{"jsonrpc":"2.0","method":"notifications/x"}`, changes: changes(card), out: `{"jsonrpc":"2.0","method":"notifications/x"}`},
		"too long":                         {in: `{"a":"` + strings.Repeat("x", 1000) + `"}`, changes: changes(card), err: edit.ErrTooLarge},
		"too long afterwards":              {in: `{"a":"` + strings.Repeat("x", 400) + `"}`, changes: changes(pattern("x", "yyy")), err: edit.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			in, out := response(c.in), response(c.out)
			if text, whole := strings.CutPrefix(c.in, "!"); whole {
				in, out = text, c.out
			}
			got, err := with(t, c.changes...).Message(message(t, in), 1000)
			if !errors.Is(err, c.err) || err == nil && string(got) != out {
				t.Fatalf("got  %s (%v)\nwant %s (%v)", got, err, out, c.err)
			}
		})
	}
}

// TestWork: what a policy cannot be blamed for costs no more than its bound.
func TestWork(t *testing.T) {
	long := `{"jsonrpc":"2.0","id":1,"result":{"a":"` + strings.Repeat("x", 1<<20) + `"}}`
	for name, c := range map[string]edit.Change{
		"matches": pattern("()", "-"), "groups": pattern("x+", strings.Repeat("$0", 1000)), "growth": pattern("x", strings.Repeat("y", 100)),
	} {
		if _, err := with(t, c).Message(message(t, long), 4<<20); !errors.Is(err, edit.ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	many := `{"a":[` + strings.Repeat("1,", 300_000) + `1]}`
	if _, _, err := with(t, set("/a/*", "2")).Arguments([]byte(many), 4<<20); !errors.Is(err, edit.ErrTooLarge) {
		t.Errorf("many places: %v", err)
	}
}
