package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/test/harness"
)

// TestStarter goes a new author's way: policy init, check, a mistake that check finds, fmt, and a gateway that rules by it.
func TestStarter(t *testing.T) {
	dir := t.TempDir()
	mcpgw := func(wantFailure bool, args ...string) string {
		t.Helper()
		c := exec.Command(harness.Mcpgw(t), args...)
		c.Dir = dir
		out, err := c.CombinedOutput()
		if (err != nil) != wantFailure {
			t.Fatalf("mcpgw %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	mcpgw(false, "policy", "init", "policy")
	mcpgw(true, "policy", "init", "policy")
	tools := harness.Tools(t)
	conf := fmt.Sprintf(`
listeners: [{address: 127.0.0.1:0}]
servers:
  - name: git
    stdio: {command: python3, args: [-m, mcp_server_git, --repository, .], env: {PYTHONPATH: {value: %q}}, cwd: %q}
policy: {directory: policy, data_files: [policy/data.yaml]}
authentication:
  api_keys:
    - {id: reader, digest: %q, roles: [reader]}
    - {id: writer, digest: %q, roles: [writer]}
`, tools.Python, harness.Repository(t), config.KeyDigest(reader), config.KeyDigest(writer))
	harness.WriteFile(t, filepath.Join(dir, "mcpgw.yaml"), conf)
	if out := mcpgw(false, "policy", "check"); !strings.HasPrefix(out, "ok: 2 files; rulings are remembered") {
		t.Errorf("check: %s", out)
	}

	// A mistake: found with its place, and the status says so.
	rules := filepath.Join(dir, "policy", "policy.rego")
	good, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	harness.WriteFile(t, rules, string(good)+"\nalow if   input.subject.id == \"x\"\n")
	if out := mcpgw(true, "policy", "check", "policy"); !strings.Contains(out, "policy/policy.rego:") || !strings.Contains(out, "nothing reads the rule alow (is allow meant?)") {
		t.Errorf("check: %s", out)
	}
	if out := mcpgw(true, "policy", "fmt", "--check", "policy"); !strings.Contains(out, "policy/policy.rego\n") {
		t.Errorf("fmt: %s", out)
	}
	harness.WriteFile(t, rules, string(good))
	mcpgw(false, "policy", "fmt", "--check", "policy")

	policy := map[string]string{"policy.rego": string(good)}
	data, err := os.ReadFile(filepath.Join(dir, "policy", "data.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	policy["data.yaml"] = string(data)
	g := harness.StartGateway(t, conf, policy)
	harness.AwaitItems(t, g.URLs[0], reader)
	read, write := harness.NewModern(g.URLs[0], reader), harness.NewModern(g.URLs[0], writer)
	for c, want := range map[*harness.Client][]string{read: {"git_git_log", "git_git_status"}, write: {"git_git_commit", "git_git_log", "git_git_status"}} {
		got := c.Call(t, "tools/list", nil).Names(t)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("listed: %v, want %v", got, want)
		}
	}
	if got := read.Tool(t, "git_git_log", map[string]any{"repo_path": ".", "max_count": 2}).Text(t); !strings.Contains(got, "Commit") {
		t.Errorf("git_log: %q", got)
	}
	for _, arguments := range []map[string]any{{"repo_path": "."}, {"repo_path": ".", "max_count": 51}} {
		e := refused(t, read.CallID(t, `"q"`, "tools/call", map[string]any{"name": "git_git_log", "arguments": arguments}), refusal{200, 403, `"q"`, ""})
		if !strings.Contains(e.Message, "1 to 50") {
			t.Errorf("refused with %q", e.Message)
		}
	}
}
