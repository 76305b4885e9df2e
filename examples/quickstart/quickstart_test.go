package quickstart_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/policytest"
)

// TestPolicy runs the tests beside the policy, Rego and table, as a user does.
func TestPolicy(t *testing.T) {
	mcpgw := filepath.Join(t.TempDir(), "mcpgw")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", mcpgw, "../../cmd/mcpgw").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), mcpgw, "policy", "test", "policy", "--threshold", "100", "--output", "json").Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var r policytest.Report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, test := range r.Tests {
		kinds[filepath.Ext(test.File)]++
	}
	if kinds[".rego"] < 9 || kinds[".yaml"] < 12 {
		t.Errorf("only these tests ran: %v", kinds)
	}
	// The configuration names the same policy.
	if out, err := exec.CommandContext(t.Context(), mcpgw, "policy", "test", "--config", "mcpgw.yaml").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestConfiguration loads mcpgw.yaml as the gateway does and holds it against what the README says.
func TestConfiguration(t *testing.T) {
	loaded, err := config.Load("mcpgw.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c := loaded.Proto
	digests := map[string]string{}
	for _, key := range c.GetAuthentication().GetApiKeys() {
		digests[key.GetId()] = key.GetDigest()
	}
	for _, role := range []string{"reader", "writer"} {
		if want := config.KeyDigest("quickstart-" + role); digests[role] != want {
			t.Errorf("%s: digest %q, that of quickstart-%s is %q", role, digests[role], role, want)
		}
	}
	if got := c.GetListeners()[0].GetAddress(); got != "127.0.0.1:8080" {
		t.Errorf("the first listener is %q", got)
	}
	if e := c.GetEndpoints()[0]; e.GetPath() != "/mcp" || !e.GetPerServer() {
		t.Errorf("the first endpoint is %v", e)
	}
}
