package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mcpgw/mcpgw/test/harness"
)

// TestQuickStart: the quick start's servers and its policy, as each of its two callers sees them.
func TestQuickStart(t *testing.T) {
	tools := harness.Tools(t)
	rego, err := os.ReadFile(filepath.Join(tools.Root, "examples", "quickstart", "policy", "quickstart.rego"))
	if err != nil {
		t.Fatal(err)
	}
	child := func(name, module string, more ...string) string {
		args := strings.Join(append([]string{"-m", module}, more...), ", ")
		return fmt.Sprintf("  - name: %s\n    trust_annotations: true\n    stdio: { command: python3, args: [%s], env: { PYTHONPATH: { value: %q } }, cwd: %q }\n",
			name, args, tools.Python, harness.Repository(t))
	}
	w := start(t, setting{
		servers: child("time", "mcp_server_time") + child("git", "mcp_server_git", "--repository", ".") +
			server("everything", harness.StartEverything(t, true), "auto"),
		policy: map[string]string{"policy.rego": string(rego)},
	})
	for _, name := range []string{"time", "git", "everything"} {
		w.lists(t, "/mcp/"+name, harness.R20260728, 2)
	}
	each(t, all, func(t *testing.T, revision string) {
		read, write := w.client(t, "/mcp", reader, revision), w.client(t, "/mcp", writer, revision)
		t.Run("listings", func(t *testing.T) {
			seen, everything := read.List(t, "tools/list"), write.List(t, "tools/list")
			for _, name := range []string{"git_git_commit", "git_git_add", "git_git_reset"} {
				if slices.Contains(seen, name) || !slices.Contains(everything, name) {
					t.Errorf("%s: readers see %v, writers see %v", name, seen, everything)
				}
			}
			if !slices.Contains(seen, "git_git_log") || !slices.Contains(seen, "time_get_current_time") {
				t.Errorf("readers see %v", seen)
			}
		})
		t.Run("an allowed call", func(t *testing.T) {
			if got := read.Tool(t, "time_get_current_time", map[string]any{"timezone": "Europe/Berlin"}).Text(t); !strings.Contains(got, "Europe/Berlin") {
				t.Errorf("got %q", got)
			}
			if got := write.Tool(t, "everything_test_simple_text", nil).Text(t); got == "" {
				t.Error("no text")
			}
		})
		log := func(c *harness.Client, count any) *harness.Reply {
			arguments := map[string]any{"repo_path": "."}
			if count != "absent" {
				arguments["max_count"] = count
			}
			return c.CallID(t, `"q"`, "tools/call", map[string]any{"name": "git_git_log", "arguments": arguments})
		}
		t.Run("by argument", func(t *testing.T) {
			for _, count := range []any{1, 50, 2.0} {
				if got := log(read, count).Text(t); !strings.Contains(got, "Commit") {
					t.Errorf("max_count %v gets %q", count, got)
				}
			}
			for _, count := range []any{51, 0, -1, "absent"} {
				e := refused(t, log(read, count), refusal{200, 403, `"q"`, ""})
				if !strings.Contains(e.Message, "1 to 50") {
					t.Errorf("max_count %v is refused with %q", count, e.Message)
				}
			}
			for _, count := range []any{nil, false, "5", 50.5, []int{5}} { // not what the tool declares
				refused(t, log(read, count), refusal{200, -32602, `"q"`, ""})
			}
			if got := log(write, 51).Text(t); strings.Count(got, "Commit:") != 51 {
				t.Errorf("a writer gets %d commits of 51", strings.Count(got, "Commit:"))
			}
		})
		t.Run("hidden", func(t *testing.T) {
			hidden := read.CallID(t, `"q"`, "tools/call", map[string]any{"name": "git_git_commit", "arguments": map[string]any{"repo_path": ".", "message": "x"}})
			missing := read.CallID(t, `"q"`, "tools/call", map[string]any{"name": "git_git_nothin", "arguments": map[string]any{"repo_path": ".", "message": "x"}})
			if strings.ReplaceAll(string(hidden.Body), "git_git_commit", "git_git_nothin") != string(missing.Body) || hidden.Status != missing.Status {
				t.Errorf("hidden %d %s\nmissing %d %s", hidden.Status, hidden.Body, missing.Status, missing.Body)
			}
		})
	})
}
