package upstream

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

func message(t interface{ Fatal(...any) }, body string) *jsonrpc.Message {
	m, err := jsonrpc.Read([]byte(body), jsonrpc.Limits{})
	if err != nil {
		t.Fatal(body, err)
	}
	return m
}

func TestAddMeta(t *testing.T) {
	const (
		version = `"io.modelcontextprotocol/protocolVersion":"2026-07-28"`
		none    = version + `,"io.modelcontextprotocol/clientCapabilities":{}`
	)
	full := Meta{Capabilities: []byte(`{"roots":{}}`), ClientInfo: []byte(`{"name":"c"}`), LogLevel: "info"}
	for _, c := range []struct {
		body string
		meta Meta
		want string
	}{
		{`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, Meta{}, `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{` + none + `}}}`},
		{`{"jsonrpc":"2.0","method":"tools/list", "params": { } ,"id":1}`, Meta{}, `{"jsonrpc":"2.0","method":"tools/list", "params": {"_meta":{` + none + `} } ,"id":1}`},
		{
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"n":1.0}}}`,
			Meta{},
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{` + none + `},"name":"a","arguments":{"n":1.0}}}`,
		},
		{
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","_meta":{"progressToken":7}}}`, full,
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","_meta":{` + version +
				`,"io.modelcontextprotocol/clientCapabilities":{"roots":{}},"io.modelcontextprotocol/clientInfo":{"name":"c"},"io.modelcontextprotocol/logLevel":"info","progressToken":7}}}`,
		},
		{`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{}}}`, Meta{}, `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{` + none + `}}}`},
		{
			`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"x":1,"io.modelcontextprotocol/clientCapabilities":{"sampling":{}}}}}`,
			Meta{},
			`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{` + version + `,"x":1,"io.modelcontextprotocol/clientCapabilities":{}}}}`,
		},
		{
			`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{"a":{}},"io.modelcontextprotocol/protocolVersion":"x"}}}`,
			Meta{},
			`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`,
		},
	} {
		got := string(AddMeta(message(t, c.body), c.meta))
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.body, diff)
		}
		m := message(t, got)
		if v, _ := m.Meta.Get(mcp.MetaVersion).Str(); v != "2026-07-28" {
			t.Errorf("%s has version %q", got, v)
		}
	}
}

func TestModernHeaders(t *testing.T) {
	item, err := catalog.NewItem("s", catalog.Tool, []byte(`{"name":"a","inputSchema":{"type":"object","properties":{
		"s":{"type":"string","x-mcp-header":"S"},"i":{"type":"integer","x-mcp-header":"Int"},"b":{"type":"boolean","x-mcp-header":"B"},
		"o":{"type":"object","properties":{"n":{"type":"string","x-mcp-header":"Nested"}}}}}}`), catalog.Trust{})
	if err != nil {
		t.Fatal(err)
	}
	call := func(arguments string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"` + arguments + `}}`
	}
	for _, c := range []struct{ body, want string }{
		{`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, ""},
		{`{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"x"}}}`, ""},
		{`{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"test://ä"}}`, "Mcp-Name: =?base64?dGVzdDovL8Ok?="},
		{`{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"p"}}`, "Mcp-Name: p"},
		{`{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":7}}`, "error"},
		{`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}`, "error"},
		{call(``), "Mcp-Name: a"},
		{
			call(`,"arguments":{"s":" x ","i":42.0,"b":false,"o":{"n":"deep"}}`),
			"Mcp-Name: a Mcp-Param-B: false Mcp-Param-Int: 42 Mcp-Param-Nested: deep Mcp-Param-S: =?base64?IHgg?=",
		},
		{call(`,"arguments":{"s":"","i":-9007199254740991,"b":null,"o":null}`), "Mcp-Name: a Mcp-Param-Int: -9007199254740991 Mcp-Param-S: "},
		{call(`,"arguments":{"o":{}}`), "Mcp-Name: a"},
		{call(`,"arguments":{"i":9007199254740993}`), "error"},
		{call(`,"arguments":{"i":1.5}`), "error"},
		{call(`,"arguments":{"i":"1"}`), "error"},
		{call(`,"arguments":{"s":1}`), "error"},
		{call(`,"arguments":{"b":"true"}`), "error"},
	} {
		h, err := ModernHeaders(message(t, c.body), item)
		if c.want == "error" {
			if !errors.Is(err, ErrMirror) {
				t.Errorf("%s: %v", c.body, err)
			}
			continue
		}
		if err != nil || h.Get("Mcp-Protocol-Version") != "2026-07-28" || h.Get("Mcp-Method") == "" {
			t.Fatalf("%s: %v %v", c.body, h, err)
		}
		h.Del("Mcp-Protocol-Version")
		h.Del("Mcp-Method")
		var lines strings.Builder
		h.Write(&lines) //nolint:errcheck // it cannot fail; sorted by name
		if got := strings.TrimSuffix(strings.ReplaceAll(lines.String(), "\r\n", " "), " "); got != c.want && got+" " != c.want {
			t.Errorf("%s:\n%q, want\n%q", c.body, got, c.want)
		}
	}
}

func TestToLegacyResult(t *testing.T) {
	for _, c := range []struct {
		result   string
		revision mcp.Revision
		want     string
	}{
		{`{"resultType":"complete","content":[],"x":9007199254740993}`, mcp.R20251125, `{"content":[],"x":9007199254740993}`},
		{`{ "a":1.0 , "ttlMs":5, "cacheScope":"private" , "b" : {"ttlMs":1} }`, mcp.R20251125, `{"a":1.0,"b" : {"ttlMs":1}}`},
		{`{"resultType":"complete"}`, mcp.R20251125, `{}`},
		{`{}`, mcp.R20251125, `{}`},
		{`{"structuredContent":[1],"isError":false}`, mcp.R20250618, `{"structuredContent":{"result":[1]},"isError":false}`},
		{`{"structuredContent":{"a":1}}`, mcp.R20250618, `{"structuredContent":{"a":1}}`},
		{
			`{"content":[{"type":"resource_link","uri":"u:1","name":"n"},{"type":"text","text":"a\/b"}]}`, mcp.R20250326,
			`{"content":[{"type":"text","text":"u:1"},{"type":"text","text":"a\/b"}]}`,
		},
		{`{"content":[{"type":"resource_link","uri":"u:1","name":"n"}]}`, mcp.R20250618, `{"content":[{"type":"resource_link","uri":"u:1","name":"n"}]}`},
	} {
		got, err := ToLegacyResult([]byte(c.result), c.revision)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %s %v, want %s", c.result, got, err, c.want)
		}
	}
	for result, want := range map[string]error{
		`{"resultType":"input_required","inputRequests":{}}`: ErrInputRequired,
		`{"resultType":"task"}`:                              ErrResultType,
		`{"resultType":7}`:                                   ErrResultType,
	} {
		if _, err := ToLegacyResult([]byte(result), mcp.R20251125); !errors.Is(err, want) {
			t.Errorf("%s: %v", result, err)
		}
	}
	if _, err := ToLegacyResult([]byte(`[]`), mcp.R20251125); err == nil {
		t.Error("an array is a result")
	}
}

// A bridged body is the client's with _meta in it: taking _meta out again gives what the client sent.
func TestPropertyAddMetaChangesNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := string(jsonrpc.AppendString(nil, rapid.String().Draw(t, "name")))
		value := rapid.SampledFrom([]string{"1.0", "9007199254740993", `"\u00e4"`, "[ 1 ]", "null", `{"_meta":{}}`}).Draw(t, "value")
		space := rapid.SampledFrom([]string{"", " ", "\n\t"}).Draw(t, "space")
		body := `{"jsonrpc":"2.0",` + space + `"id":"1","method":"tools/call","params":{` + space + `"name":` + name + `,"arguments":{"a":` + value + `}` + space + `}}`
		m := message(t, body)
		got := AddMeta(m, Meta{})
		added := message(t, string(got))
		meta := `"_meta":` + string(added.Meta.Raw) + ","
		if back := strings.Replace(string(got), meta, "", 1); back != body {
			t.Fatalf("%s\nbecame\n%s", body, got)
		}
		if _, err := ModernHeaders(added, nil); err != nil {
			t.Fatal(err)
		}
	})
}
