package conformance

import (
	"fmt"
	"net/url"
	"path/filepath"
	"testing"

	"github.com/mcpgw/mcpgw/test/harness"
)

// The suite has no credentials, so it meets a loopback listener that needs none. "all" is the server it
// knows; "other" makes /mcp an aggregate, whose names are kept without a prefix since the suite calls
// tools by their own names.
const gatewayConfig = `
listeners:
  - address: 127.0.0.1:0
    anonymous: { roles: [suite] }
servers:
  - name: all
    http: { url: %q }
  - name: other
    http: { url: %q }
endpoints:
  - name: mcp
    path: /mcp
    per_server: true
    prefixes: { all: "", other: "" }
policy:
  directory: policy
admin:
  address: %q
`

const allowSuite = `package mcpgw.policy

allow if "suite" in input.subject.roles
`

// TestSuiteThroughGateway runs both requirement sets on one server's endpoint and on an aggregate, and
// leaves the report that others read.
func TestSuiteThroughGateway(t *testing.T) {
	var rows []Row
	for _, run := range []struct{ through, path string }{{"server", "/mcp/all"}, {"aggregate", "/mcp"}} {
		t.Run(run.through, func(t *testing.T) {
			// Servers of its own for each: the suite leaves things behind in them, and what it adds a
			// second time changes no list.
			base := startGateway(t)
			for _, requirements := range Requirements {
				at := base.ResolveReference(&url.URL{Path: run.path}).String()
				rows = append(rows, Judge(t, run.through, requirements, Run(t, at, requirements)))
			}
		})
	}
	Write(t, rows)
}

// startGateway returns the URL of a gateway that knows its servers' items.
func startGateway(t *testing.T) *url.URL {
	t.Helper()
	all, other := harness.StartDualEra(t), harness.StartBackend(t, harness.Dual, nil)
	config := fmt.Sprintf(gatewayConfig, all, other.URL, "unix:"+filepath.Join(t.TempDir(), "admin.sock"))
	gateway := harness.StartGateway(t, config, map[string]string{"suite.rego": allowSuite})
	base, err := url.Parse(gateway.URLs[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []string{"all", "other"} {
		harness.AwaitItems(t, base.ResolveReference(&url.URL{Path: "/mcp/" + server}).String(), "")
	}
	return base
}
