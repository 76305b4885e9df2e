package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/test/harness"
)

// TestPolicyTest: the quick start's catalog is saved from the running gateway, is the one that lies beside its policy, and the
// policy's tests pass with it, with the live one, and fail without one.
func TestPolicyTest(t *testing.T) {
	tools := harness.Tools(t)
	quickstart := filepath.Join(tools.Root, "examples", "quickstart")
	text, err := os.ReadFile(filepath.Join(quickstart, "mcpgw.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	config, _, _ := strings.Cut(string(text), "\ntelemetry:")
	admin := "unix:" + filepath.Join(t.TempDir(), "admin.sock")
	config = strings.NewReplacer(
		"127.0.0.1:8080", "127.0.0.1:0", "http://127.0.0.1:8091/", harness.StartEverything(t, true),
		"../../.tools/quickstart/repo", harness.Repository(t), "../../python", tools.Python,
	).Replace(config) + "\nadmin: {address: \"" + admin + "\"}\n"
	policy := map[string]string{}
	for _, name := range []string{"quickstart.rego", "quickstart_test.rego", "table_test.yaml"} {
		b, err := os.ReadFile(filepath.Join(quickstart, "policy", name))
		if err != nil {
			t.Fatal(err)
		}
		policy[name] = string(b)
	}
	g := harness.StartGateway(t, config, policy)
	mcpgw := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), harness.Mcpgw(t), args...).CombinedOutput()
		return string(out), err
	}

	file := filepath.Join(t.TempDir(), "catalog.json")
	var saved []byte
	harness.Eventually(t, 20*time.Second, "all three servers are in the saved catalog", func() bool {
		out, err := mcpgw("catalog", "--config", g.Config, "--save", file)
		if err != nil || !strings.Contains(out, " items\n") {
			t.Logf("%v: %s", err, out)
			return false
		}
		if saved, err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		d, err := catalog.ReadSaved(saved)
		return err == nil && len(d.Servers()) == 3
	})
	kept := filepath.Join(quickstart, "policy", "catalog.json")
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(kept, saved, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(kept)
	if err != nil || string(want) != string(saved) {
		t.Errorf("examples/quickstart/policy/catalog.json is not what the servers offer: UPDATE=1 writes it anew (%v)", err)
	}

	for name, args := range map[string][]string{
		"a saved catalog":       {"--catalog", file},
		"the live one":          {"--live"},
		"the live one, by name": {"--admin", admin},
	} {
		out, err := mcpgw(append([]string{"policy", "test", "--config", g.Config, "--threshold", "100"}, args...)...)
		if err != nil || !strings.Contains(out, "coverage: 100.0 % (8 of 8 rules)") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	if out, err := mcpgw("policy", "test", "--config", g.Config); err == nil || !strings.Contains(out, "there is no catalog to take git/git_status from: save one with mcpgw catalog --save FILE") {
		t.Errorf("without a catalog: %v\n%s", err, out)
	}
	if out, err := mcpgw("policy", "test", "--config", g.Config, "--admin", "127.0.0.1:1"); err == nil || !strings.Contains(out, "no gateway answers") {
		t.Errorf("without a gateway: %v\n%s", err, out)
	}
}
