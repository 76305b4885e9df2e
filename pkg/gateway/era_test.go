package gateway

import (
	"testing"

	"github.com/mcpgw/mcpgw/pkg/fault"
	"github.com/mcpgw/mcpgw/pkg/jsonrpc"
	"github.com/mcpgw/mcpgw/pkg/mcp"
)

// fields is a head's lines, in pairs of name and value.
type fields []string

func (f fields) Get(name string) string {
	if v := f.Values(name); len(v) > 0 {
		return v[0]
	}
	return ""
}

func (f fields) Values(name string) (out []string) {
	for i := 0; i < len(f); i += 2 {
		if f[i] == name {
			out = append(out, f[i+1])
		}
	}
	return out
}

func (f fields) Names() (out []string) {
	seen := map[string]bool{}
	for i := 0; i < len(f); i += 2 {
		if !seen[f[i]] {
			seen[f[i]] = true
			out = append(out, f[i])
		}
	}
	return out
}

// TestEra is the table by which a message finds its era: the body's claim first, the header must agree.
func TestEra(t *testing.T) {
	const ok = fault.Kind(255)
	claim := func(version string) string {
		return `"params":{"_meta":{"io.modelcontextprotocol/protocolVersion":` + version + `}}`
	}
	request := func(method, more string) string {
		if more != "" {
			more = "," + more
		}
		return `{"jsonrpc":"2.0","id":1,"method":"` + method + `"` + more + `}`
	}
	notification := `{"jsonrpc":"2.0","method":"notifications/cancelled"}`
	response := `{"jsonrpc":"2.0","id":1,"result":{}}`
	for _, c := range []struct {
		name, body, header string // header "" is absent
		want               fault.Kind
		revision           mcp.Revision
		legacy             bool
	}{
		{"claim and header agree", request("tools/call", claim(`"2026-07-28"`)), "2026-07-28", ok, mcp.R20260728, false},
		{"white space around the header", request("tools/call", claim(`"2026-07-28"`)), " 2026-07-28\t", ok, mcp.R20260728, false},
		{"claim, no header", request("tools/call", claim(`"2026-07-28"`)), "", fault.HeaderMismatch, "", false},
		{"claim, another header", request("tools/call", claim(`"2026-07-28"`)), "2025-11-25", fault.HeaderMismatch, "", false},
		{"claim of an unknown version", request("tools/call", claim(`"2099-01-01"`)), "2099-01-01", fault.Version, "", false},
		{"claim of a legacy version", request("tools/call", claim(`"2025-11-25"`)), "2025-11-25", fault.Version, "", false},
		{"claim of a number", request("tools/call", claim(`1`)), "2026-07-28", fault.BadMeta, "", false},
		{"claim of null", request("tools/call", claim(`null`)), "2026-07-28", fault.BadMeta, "", false},
		{"modern header, no claim", request("tools/call", ""), "2026-07-28", fault.BadMeta, "", false},
		{"modern header, initialize", request("initialize", ""), "2026-07-28", fault.HeaderMismatch, "", false},
		{"modern header, a notification", notification, "2026-07-28", ok, mcp.R20260728, false},
		{"modern header, a response", response, "2026-07-28", fault.Invalid, "", false},
		{"no header", request("tools/call", ""), "", ok, mcp.R20250326, true},
		{"legacy header", request("tools/call", ""), "2025-06-18", ok, mcp.R20250618, true},
		{"unknown header", request("tools/call", ""), "2024-11-05", fault.Version, "", false},
		{"legacy response", response, "2025-11-25", ok, mcp.R20251125, true},
		{"legacy notification", notification, "2025-11-25", ok, mcp.R20251125, true},
		{"initialize", request("initialize", ""), "", ok, mcp.R20250326, true},
		{"a request without id", `{"jsonrpc":"2.0","method":"tools/call"}`, "2025-11-25", fault.Invalid, "", false},
		{"a notification with an id", request("notifications/cancelled", ""), "2025-11-25", fault.Invalid, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := jsonrpc.Read([]byte(c.body), jsonrpc.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			var h fields
			if c.header != "" {
				h = fields{mcp.HeaderVersion, c.header}
			}
			x := &Exchange{header: h}
			f := x.era(m)
			if c.want != ok {
				if f == nil || f.Kind != c.want {
					t.Errorf("got %v, want %v", f, c.want)
				}
				return
			}
			if f != nil || x.Revision != c.revision || x.legacy != c.legacy {
				t.Errorf("got revision %q, legacy %v, %v", x.Revision, x.legacy, f)
			}
		})
	}
	for _, twice := range []string{mcp.HeaderVersion, mcp.HeaderMethod, mcp.HeaderName, "mcp-param-region", mcp.HeaderSession} {
		m, err := jsonrpc.Read([]byte(request("tools/call", "")), jsonrpc.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		x := &Exchange{header: fields{twice, "2025-11-25", twice, "2025-11-25"}}
		if f := x.era(m); f == nil || f.Kind != fault.HeaderMismatch {
			t.Errorf("%s twice gets %v", twice, f)
		}
	}
}

func TestMirrors(t *testing.T) {
	for _, c := range []struct {
		header fields
		name   string
		body   string
		good   bool
	}{
		{fields{mcp.HeaderName, "echo"}, mcp.HeaderName, "echo", true},
		{fields{mcp.HeaderName, "\techo "}, mcp.HeaderName, "echo", true},
		{fields{mcp.HeaderName, "=?base64?Z3LDvMOfZQ==?="}, mcp.HeaderName, "grüße", true},
		{fields{mcp.HeaderName, "=?base64?Z3LDvMOfZQ?="}, mcp.HeaderName, "grüße", false},
		{fields{mcp.HeaderName, "Echo"}, mcp.HeaderName, "echo", false},
		{fields{mcp.HeaderName, "echo", mcp.HeaderName, "echo"}, mcp.HeaderName, "echo", false},
		{nil, mcp.HeaderName, "echo", false},
		{fields{mcp.HeaderMethod, "tools/call"}, mcp.HeaderMethod, "tools/call", true},
		{fields{mcp.HeaderMethod, "=?base64?dG9vbHMvY2FsbA==?="}, mcp.HeaderMethod, "tools/call", false}, // a method is never encoded
	} {
		x := &Exchange{header: c.header}
		if f := x.mirrors(c.name, c.body); (f == nil) != c.good {
			t.Errorf("%v of %q: %v", c.header, c.body, f)
		}
	}
}
