package readme

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/test/harness"
)

// TestCommands runs the README's commands in order against the quick start on free ports, and holds their output against what the
// README shows. The tour has a shell of its own, since its reader may not have followed the quick start.
func TestCommands(t *testing.T) {
	root := harness.Tools(t).Root
	site := startQuickStart(t)
	quick, tour := startShell(t, root), startShell(t, root)
	blocks := Blocks(read(t, filepath.Join(root, "README.md")))
	ran := 0
	for i, b := range blocks {
		if !b.Is("sh", "run") {
			continue
		}
		ran++
		if strings.Contains(b.Text, "traces.log") {
			harness.Eventually(t, 20*time.Second, "the collector has the refused call", func() bool {
				return slices.ContainsFunc(strings.Split(read(t, site.traces), "\n\n"), func(trace string) bool {
					return strings.Contains(trace, "mcpgw-envoy server") && strings.Contains(trace, "rule_ids=deny: git_log")
				})
			})
		}
		sh := quick
		if strings.Contains(b.Text, ".out/tour") {
			sh = tour
		}
		output := sh.run(t, site.own.Replace(b.Text))
		if i+1 < len(blocks) && len(blocks[i+1].Info) == 2 && blocks[i+1].Info[1] == "output" {
			if line := Differs(blocks[i+1].Text, output); line != "" {
				t.Errorf("README.md:%d: the commands print another thing than line %d shows\nwant %s\ngot\n%s", b.Line, blocks[i+1].Line, line, output)
			}
		} else if output != "" {
			t.Errorf("README.md:%d: the commands print what the README does not show:\n%s", b.Line, output)
		}
	}
	if ran < 6 {
		t.Errorf("only %d blocks of commands were found", ran)
	}
}

// site is a running quick start.
type site struct {
	traces string            // what the collector prints
	own    *strings.Replacer // turns the README's addresses and paths into those of this one
}

func startQuickStart(t *testing.T) site {
	t.Helper()
	tools := harness.Tools(t)
	dir := t.TempDir()
	program, traces, admin := filepath.Join(dir, "collector"), filepath.Join(dir, "traces.log"), filepath.Join(dir, "admin.sock")
	build := exec.Command("go", "build", "-o", program, "./test/cmd/collector")
	build.Dir = tools.Root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the collector: %v\n%s", err, out)
	}
	// exec: the shell becomes the collector, so that signals and the question for its port reach it.
	collector := harness.Start(t, harness.Command{Name: "collector", Path: "sh", Args: []string{"-c", `exec "$0" -listen 127.0.0.1:0 >"$1"`, program, traces}})

	quickstart := filepath.Join(tools.Root, "examples", "quickstart")
	config := read(t, filepath.Join(quickstart, "mcpgw.yaml"))
	for _, change := range [][2]string{
		{"127.0.0.1:8080", "127.0.0.1:0"},
		{"http://127.0.0.1:8091/", harness.StartEverything(t, true)},
		{"127.0.0.1:4317", collector.Listening(t)},
		{"address: 127.0.0.1:9900", fmt.Sprintf("address: %q", "unix:"+admin)},
		{"../../.tools/", filepath.Join(tools.Root, ".tools") + "/"},
		{"../../python", tools.Python},
	} {
		if !strings.Contains(config, change[0]) {
			t.Fatalf("the quick start's configuration has no %s any more", change[0])
		}
		config = strings.ReplaceAll(config, change[0], change[1])
	}
	policy := map[string]string{}
	files, err := filepath.Glob(filepath.Join(quickstart, "policy", "*.rego"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the quick start has no policy: %v", err)
	}
	for _, file := range files {
		policy[filepath.Base(file)] = read(t, file)
	}
	gateway := harness.StartGateway(t, config, policy)
	url := gateway.URLs[0]
	client := harness.NewModern(url, "quickstart-writer")
	harness.Eventually(t, 20*time.Second, "all three servers are in the catalog", func() bool {
		names := client.Call(t, "tools/list", nil).Names(t)
		has := func(prefix string) bool {
			return slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, prefix) })
		}
		return has("time_") && has("git_") && has("everything_")
	})
	tour, port := filepath.Join(dir, "mcpgw.yaml"), freePort(t)
	harness.WriteFile(t, tour, strings.Replace(read(t, filepath.Join(tools.Root, "examples", "tour", "mcpgw.yaml")), "127.0.0.1:8090", port, 1))
	return site{traces: traces, own: strings.NewReplacer(
		"examples/tour/mcpgw.yaml", tour,
		"http://127.0.0.1:8090/mcp", "http://"+port+"/mcp",
		"http://127.0.0.1:8080/mcp", url,
		"http://127.0.0.1:9900/", "--unix-socket "+admin+" http://localhost/",
		"examples/quickstart/mcpgw.yaml", gateway.Config,
		".out/traces.log", traces,
		"client.mjs", "client.mjs --url "+url,
	)}
}

// freePort is an address that nobody listens on: the tour's gateway must be where its commands call it.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// shell is one bash that keeps its functions from block to block.
type shell struct {
	in  io.WriteCloser
	out *bufio.Reader
}

func startShell(t *testing.T, dir string) *shell {
	t.Helper()
	cmd := exec.Command("bash", "--noprofile", "--norc")
	cmd.Dir = dir
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // bash ends with its input
		_ = cmd.Wait() // its status is that of the last command, which may be a refusal
	})
	return &shell{in, bufio.NewReader(out)}
}

// run returns what commands print, on both streams.
func (s *shell) run(t *testing.T, commands string) string {
	t.Helper()
	const end = "--- end of block ---"
	if _, err := fmt.Fprintf(s.in, "%s\nprintf '%%s\\n' '%s'\n", commands, end); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			t.Fatalf("the shell ended: %v\n%s", err, out.String())
		}
		if line == end+"\n" {
			return out.String()
		}
		out.WriteString(line)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
