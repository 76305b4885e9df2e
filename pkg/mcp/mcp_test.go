package mcp_test

import (
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/mcp"
)

func TestRevisions(t *testing.T) {
	for _, r := range mcp.Revisions {
		if !r.Known() {
			t.Errorf("%s is listed but has no table", r)
		}
	}
	for _, m := range []string{"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"} {
		if mcp.R20260728.Method(m).Class != mcp.Absent || mcp.R20251125.Method(m).Class == mcp.Absent {
			t.Errorf("%s: removed by 2026-07-28, served before", m)
		}
	}
	if mcp.Revision("2024-11-05").Known() || mcp.Revision("").Modern() {
		t.Error("unknown revisions must be neither known nor modern")
	}
}

func TestHeaderEncoding(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "git_log": "git_log", "a b": "a b", " a": "=?base64?IGE=?=", "é": "=?base64?w6k=?=",
		"=?base64?YQ==?=": "=?base64?PT9iYXNlNjQ/WVE9PT89?=", "=?base64?x": "=?base64?x", "=?BASE64?YQ==?=": "=?BASE64?YQ==?=",
	} {
		if got := mcp.EncodeHeader(in); got != want {
			t.Errorf("EncodeHeader(%q) = %q, want %q", in, got, want)
		}
	}
	for _, bad := range []string{"=?base64?YQ?=", "=?base64?Y Q==?=", "=?base64?_w==?=", "=?base64?/w==?=", "é", "a\x01"} {
		if got, err := mcp.DecodeHeader(bad); err == nil {
			t.Errorf("DecodeHeader(%q) = %q, want an error", bad, got)
		}
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		got, err := mcp.DecodeHeader(mcp.EncodeHeader(s))
		if err != nil || got != s {
			t.Fatalf("%q came back as %q, %v", s, got, err)
		}
	})
}

func FuzzDecodeHeader(f *testing.F) {
	f.Add("=?base64?YQ==?=")
	f.Add("plain")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := mcp.DecodeHeader(s)
		if err != nil {
			return
		}
		if again, err := mcp.DecodeHeader(mcp.EncodeHeader(v)); err != nil || again != v {
			t.Fatalf("%q decoded to %q, which comes back as %q, %v", s, v, again, err)
		}
	})
}

func TestParamHeaders(t *testing.T) {
	ok := `{"type":"object","properties":{"tenant":{"type":"string","x-mcp-header":"Tenant"},"o":{"type":"object","properties":{"n":{"type":"integer","x-mcp-header":"N"}}}}}`
	got, err := mcp.ParamHeaders([]byte(ok))
	want := []mcp.ParamHeader{{Name: "N", Path: []string{"o", "n"}, Type: "integer"}, {Name: "Tenant", Path: []string{"tenant"}, Type: "string"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for name, bad := range map[string]string{
		"number":     `{"properties":{"a":{"type":"number","x-mcp-header":"A"}}}`,
		"array":      `{"properties":{"a":{"type":"array","x-mcp-header":"A"}}}`,
		"in items":   `{"properties":{"a":{"type":"array","items":{"type":"string","x-mcp-header":"A"}}}}`,
		"in oneOf":   `{"oneOf":[{"properties":{"a":{"type":"string","x-mcp-header":"A"}}}]}`,
		"in $defs":   `{"$defs":{"a":{"type":"string","x-mcp-header":"A"}},"properties":{"a":{"$ref":"#/$defs/a"}}}`,
		"twice":      `{"properties":{"a":{"type":"string","x-mcp-header":"A"},"b":{"type":"string","x-mcp-header":"a"}}}`,
		"empty":      `{"properties":{"a":{"type":"string","x-mcp-header":""}}}`,
		"not token":  `{"properties":{"a":{"type":"string","x-mcp-header":"a b"}}}`,
		"not string": `{"properties":{"a":{"type":"string","x-mcp-header":1}}}`,
		"at root":    `{"type":"string","x-mcp-header":"A"}`,
		"deep":       strings.Repeat(`{"properties":{"a":`, 80) + `{"type":"string","x-mcp-header":"A"}` + strings.Repeat(`}}`, 80),
	} {
		if got, err := mcp.ParamHeaders([]byte(bad)); err == nil {
			t.Errorf("%s: accepted as %+v", name, got)
		}
	}
}
