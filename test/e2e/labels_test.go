package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/test/harness"
)

// flow lets nobody carry out what was read inside: whoever has called echo there says "public" alone outside, and does not see add there.
const flow = `package mcpgw.policy

allow := true

label contains "inside" if {
	input.resource.server == "inside"
	input.resource.name == "echo"
}

deny contains "what was read inside stays there" if {
	input.resource.server == "outside"
	input.resource.name == "echo"
	"inside" in input.context.session.labels
	not public
}

deny contains "what was read inside stays there" if {
	input.resource.server == "outside"
	input.resource.name == "add"
	"inside" in input.context.session.labels
}

public if input.arguments.text == "public"
`

// startFlow runs a gateway between an inside and an outside; labels is the member of policy.
func startFlow(t *testing.T, inside, outside *harness.Backend, labels string) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e") // the path of a socket has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	config := fmt.Sprintf(`
listeners:
  - address: 127.0.0.1:0
servers:
%sendpoints:
  - { name: mcp, path: /mcp }
policy: { directory: policy, labels: { %s } }
authentication:
  api_keys:
    - { id: reader, digest: %q, roles: [reader] }
    - { id: writer, digest: %q, roles: [writer] }
admin: { address: %q }
envoy: { run_dir: %q, drain_time: 5s }
`, server("inside", inside.URL, "auto")+server("outside", outside.URL, "auto"), labels, digest(reader), digest(writer), "unix:"+filepath.Join(dir, "admin.sock"), filepath.Join(dir, "run"))
	w := &world{Gateway: harness.StartGateway(t, config, map[string]string{"policy.rego": flow}), dir: filepath.Join(dir, "run")}
	w.Base = strings.TrimSuffix(w.URLs[0], "/mcp")
	w.lists(t, "/mcp", harness.R20251125, 12)
	return w
}

// stays checks that a caller says outside what is public, and nothing else.
func stays(t *testing.T, c *harness.Client, outside *harness.Backend) {
	t.Helper()
	outside.Forget()
	got := c.CallID(t, `"q"`, "tools/call", map[string]any{"name": "outside_echo", "arguments": map[string]any{"text": "the secret"}})
	if refused(t, got, refusal{200, 403, `"q"`, ""}); !strings.Contains(string(got.Body), "stays there") {
		t.Errorf("got %s", got.Body)
	}
	outside.Untouched(t)
	if got := c.Tool(t, "outside_echo", map[string]any{"text": "public"}).Text(t); got != "public" {
		t.Errorf("what is public: %q", got)
	}
}

func free(t *testing.T, c *harness.Client) {
	t.Helper()
	if got := c.Tool(t, "outside_echo", map[string]any{"text": "anything"}).Text(t); got != "anything" {
		t.Errorf("got %q", got)
	}
}

// TestLabels: whoever has read what is inside carries nothing out, in both eras; labels outlive a kill where they have a file, and where
// they have none everybody counts as marked after a start.
func TestLabels(t *testing.T) {
	inside, outside := harness.StartBackend(t, harness.Dual, nil), harness.StartBackend(t, harness.Dual, nil)
	file := filepath.Join(t.TempDir(), "labels")
	read := func(t *testing.T, c *harness.Client) {
		t.Helper()
		if got := c.Tool(t, "inside_echo", map[string]any{"text": "the secret"}).Text(t); got != "the secret" {
			t.Errorf("inside: %q", got)
		}
	}

	w := startFlow(t, inside, outside, fmt.Sprintf("file: %q", file))
	each(t, legacies, func(t *testing.T, revision string) {
		c := w.client(t, "/mcp", reader, revision)
		told := c.Listen(t)
		free(t, c)
		read(t, c)
		told.Until(t, "notifications/tools/list_changed", soon)
		told.Close()
		stays(t, c, outside)
		if got := strings.Join(c.List(t, "tools/list"), " "); strings.Contains(got, "outside_add") || !strings.Contains(got, "inside_add") {
			t.Errorf("sees %s", got)
		}
		free(t, w.client(t, "/mcp", reader, revision)) // another session begins clean
	})
	modern := w.client(t, "/mcp", reader, harness.R20260728)
	told := modern.Stream(t, `"s"`, "subscriptions/listen", map[string]any{"notifications": map[string]any{"toolsListChanged": true}})
	told.Next(t, soon)
	free(t, modern) // no session has marked the principal
	read(t, modern)
	told.Until(t, "notifications/tools/list_changed", soon)
	told.Close()
	stays(t, modern, outside)
	stays(t, w.client(t, "/mcp", reader, harness.R20260728), outside) // another connection of the same
	free(t, w.client(t, "/mcp", writer, harness.R20260728))
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", st, err)
	}

	t.Run("after a kill, with a file", func(t *testing.T) {
		w.Kill(t)
		w := startFlow(t, inside, outside, fmt.Sprintf("file: %q", file))
		stays(t, w.client(t, "/mcp", reader, harness.R20260728), outside)
		free(t, w.client(t, "/mcp", writer, harness.R20260728))
		free(t, w.client(t, "/mcp", reader, harness.R20251125))
		w.Stop(t)
	})
	t.Run("without a file", func(t *testing.T) {
		w := startFlow(t, inside, outside, "expiry: 15s")
		stays(t, w.client(t, "/mcp", writer, harness.R20260728), outside)
		free(t, w.client(t, "/mcp", writer, harness.R20251125))
		c := w.client(t, "/mcp", writer, harness.R20260728)
		harness.Eventually(t, 30*time.Second, "the expiry is over", func() bool {
			return c.CallID(t, `"q"`, "tools/call", map[string]any{"name": "outside_echo", "arguments": map[string]any{"text": "x"}}).Response(t).Error == nil
		})
		read(t, c)
		stays(t, c, outside)
	})
	t.Run("a file that is none of labels", func(t *testing.T) {
		harness.WriteFile(t, file, "something else\n")
		out, status := runMcpgw(t, "run", "--config", w.Config)
		if status == 0 || !strings.Contains(out, "this is no file of labels") {
			t.Errorf("%d: %s", status, out)
		}
		if b, _ := os.ReadFile(file); string(b) != "something else\n" {
			t.Errorf("it was changed: %q", b)
		}
	})
}
