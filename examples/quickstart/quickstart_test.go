package quickstart_test

import (
	"context"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/tester"

	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/policies"
)

// TestPolicy runs the Rego tests beside the policy, with what the gateway ships around them.
func TestPolicy(t *testing.T) {
	modules := map[string]*ast.Module{}
	for prefix, files := range map[string]fs.FS{"shipped/": policies.Files, "policy/": os.DirFS("policy")} {
		err := fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".rego") {
				return err
			}
			if prefix == "shipped/" && strings.HasSuffix(path, "_test.rego") {
				return nil // policies/ runs its own, without a policy in the way
			}
			text, err := fs.ReadFile(files, path)
			if err != nil {
				return err
			}
			module, err := ast.ParseModule(prefix+path, string(text))
			modules[prefix+path] = module
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	results, err := tester.NewRunner().SetModules(modules).RunTests(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for r := range results {
		n++
		if !r.Pass() {
			t.Errorf("%s (%s): fail %v, error %v", r.Name, r.Location, r.Fail, r.Error)
		}
	}
	if n < 9 {
		t.Errorf("only %d Rego tests ran", n)
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
