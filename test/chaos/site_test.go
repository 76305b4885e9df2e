// Package chaos proves what the gateway does while its world changes and on bad days, with the real Envoy and real MCP servers that
// record what reaches them: processes that die, hang or lie, files that change or break, certificates, shutdown, a thousand servers.
package chaos

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/envoyproc"
	"github.com/mcpgw/mcpgw/pkg/xds"
	"github.com/mcpgw/mcpgw/test/harness"
)

// patience bounds a wait of a failing test; a passing one does not use it up.
const patience = 30 * time.Second

const key = "chaos-reader"

// rules let a reader do everything except pass on a word, so that a call that nobody judged can be told by its arguments.
const rules = `package mcpgw.policy

allow if "reader" in input.subject.roles

deny contains "that word is not for servers" if startswith(input.arguments.text, "forbidden")
`

// front is how Envoy comes by its configuration.
type front string

const (
	run    front = "run"    // mcpgw starts Envoy
	ads    front = "ads"    // the test starts Envoy with `mcpgw render`, and mcpgw serve
	static front = "static" // the same with `mcpgw render --static`
)

var fronts = []front{run, ads, static}

// site is one gateway: its files, its processes and where it listens.
type site struct {
	front  front
	dir    string // configuration and policy
	run    string // sockets; short, since the kernel bounds the paths of sockets
	file   string // configuration file
	mcpgw  *harness.Process
	envoy  *harness.Process // nil under run
	admin  *envoyproc.Admin
	client *http.Client // of mcpgw's admin socket
	url    string       // of /mcp on the listener "main"
}

// newSite makes a place for a gateway without starting it.
func newSite(t testing.TB, f front) *site {
	t.Helper()
	short, err := os.MkdirTemp("", "c")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(short) }) // nothing needs it any more
	s := &site{front: f, dir: t.TempDir(), run: filepath.Join(short, "r")}
	s.file = filepath.Join(s.dir, "mcpgw.yaml")
	s.admin = envoyproc.NewAdmin(filepath.Join(s.run, "envoy.sock"))
	t.Cleanup(s.admin.Close)
	transport := &http.Transport{DialContext: dialUnix(filepath.Join(short, "a.sock")), DisableKeepAlives: true}
	s.client = &http.Client{Transport: transport, Timeout: patience}
	s.policy(t, rules)
	return s
}

// settings is what every configuration here has in common. extra is appended, at the left margin.
func (s *site) settings(extra string) string {
	return fmt.Sprintf(`
policy: { directory: policy }
admin: { address: "unix:%s/a.sock" }
envoy: { run_dir: %s, concurrency: 2, drain_time: 10s }
authentication:
  api_keys:
    - { id: reader, digest: "%s", roles: [reader] }
`, filepath.Dir(s.run), s.run, config.KeyDigest(key)) + extra
}

const mainListener = `
listeners: [{ name: main, address: "127.0.0.1:0" }]
`

// servers is the configuration of HTTP servers by name.
func servers(named map[string]string) string {
	var b strings.Builder
	b.WriteString("\nservers:\n")
	for _, name := range sortedKeys(named) {
		fmt.Fprintf(&b, "  - { name: %s, http: { url: %q } }\n", name, named[name])
	}
	return b.String()
}

// write replaces the configuration file in one step.
func (s *site) write(t testing.TB, text string) {
	t.Helper()
	harness.WriteFile(t, s.file, text)
}

func (s *site) policy(t testing.TB, text string) {
	t.Helper()
	harness.WriteFile(t, filepath.Join(s.dir, "policy", "p.rego"), text)
}

// start writes the configuration and starts everything.
func start(t testing.TB, f front, text string) *site {
	t.Helper()
	s := newSite(t, f)
	s.write(t, s.settings(text))
	s.startAll(t)
	return s
}

func (s *site) startAll(t testing.TB) {
	t.Helper()
	if s.front != run {
		s.startEnvoy(t)
	}
	s.startMcpgw(t)
	s.locate(t)
}

// startMcpgw starts mcpgw, once more where it runs no longer, and waits until it is ready.
func (s *site) startMcpgw(t testing.TB) {
	t.Helper()
	command := "serve"
	if s.front == run {
		command = "run"
	}
	s.mcpgw = harness.Start(t, harness.Command{
		Name: "mcpgw " + command, Path: harness.Mcpgw(t), Args: []string{command, "--config", s.file},
		Env: []string{"ENVOY=" + harness.Tools(t).Envoy}, Dir: s.dir,
	})
	s.mcpgw.Stdout.Await(t, `(?m)^ready .*$`, 2*patience)
}

// startEnvoy starts an Envoy with what mcpgw renders for it.
func (s *site) startEnvoy(t testing.TB) {
	t.Helper()
	args := []string{"render", "--config", s.file}
	if s.front == static {
		args = append(args, "--static")
	}
	r := command(t, s.dir, args...)
	if r.status != 0 {
		t.Fatalf("mcpgw render: %s", r.stderr)
	}
	file := filepath.Join(s.dir, "envoy.yaml")
	harness.WriteFile(t, file, r.stdout)
	s.envoy = harness.Start(t, harness.Command{Name: "envoy", Path: harness.Tools(t).Envoy, Args: []string{
		"-c", file, "--disable-hot-restart", "--concurrency", "2", "--log-level", "warning", "--component-log-level", "ext_proc:error", "--drain-time-s", "10", "--drain-strategy", "immediate",
	}, Dir: s.dir})
}

// locate waits until Envoy serves and learns where.
func (s *site) locate(t testing.TB) {
	t.Helper()
	s.live(t)
	s.url = "http://" + s.address(t, "main") + "/mcp"
}

func (s *site) live(t testing.TB) {
	t.Helper()
	harness.Eventually(t, patience, "Envoy serves", func() bool {
		state, err := s.admin.State(context.Background())
		return err == nil && state == "LIVE"
	})
}

// address is where Envoy really listens.
func (s *site) address(t testing.TB, listener string) string {
	t.Helper()
	at, err := s.admin.Listeners(context.Background())
	if err != nil || at[xds.ListenerName(listener)] == "" {
		t.Fatalf("Envoy has no listener %s: %v %v", listener, at, err)
	}
	return at[xds.ListenerName(listener)]
}

// stat is one of Envoy's counters or gauges, 0 where it has none of that name yet.
func (s *site) stat(t testing.TB, name string) uint64 {
	t.Helper()
	all, err := s.admin.Stats(context.Background(), "^"+regexp.QuoteMeta(name)+"$")
	if err != nil {
		t.Fatal(err)
	}
	return all[name]
}

// undisturbed notes the counters that move when a listener is touched, and returns a check that they did not.
func (s *site) undisturbed(t testing.TB) func() {
	t.Helper()
	names := []string{
		"listener_manager.listener_added", "listener_manager.listener_modified", "listener_manager.listener_removed", "listener_manager.listener_in_place_updated",
		"listener_manager.total_listeners_draining", "listener_manager.total_filter_chains_draining",
		"listener_manager.lds.update_rejected", "cluster_manager.cds.update_rejected", "http.ingress.rds.ingress.update_rejected",
	}
	before := map[string]uint64{}
	for _, n := range names {
		before[n] = s.stat(t, n)
	}
	return func() {
		t.Helper()
		for _, n := range names {
			if now := s.stat(t, n); now != before[n] {
				t.Errorf("%s went from %d to %d", n, before[n], now)
			}
		}
	}
}

// clean checks the counters that stay 0 as long as Envoy and mcpgw understand each other.
func (s *site) clean(t testing.TB) {
	t.Helper()
	all, err := s.admin.Stats(context.Background(), `spurious_msgs_received|rejected_header_mutations|failure_mode_allowed|update_rejected|lua.*errors`)
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range all {
		if n != 0 {
			t.Errorf("%s is %d", name, n)
		}
	}
}

// metric is one sample of mcpgw's metrics, by its name with labels as it is exposed; -1 where there is none.
func (s *site) metric(t testing.TB, name string) float64 {
	t.Helper()
	body := s.ask(t, "/metrics")
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			return v
		}
	}
	return -1
}

// ask gets a page of mcpgw's admin socket.
func (s *site) ask(t testing.TB, path string) string {
	t.Helper()
	reply, err := get(s.client, "http://mcpgw"+path)
	if err != nil {
		t.Fatal(err)
	}
	return string(reply.body)
}

// inForce counts the configurations that the log says were put in force.
func (s *site) inForce(t testing.TB) int {
	t.Helper()
	return strings.Count(s.mcpgw.Stderr.String(), "configuration is in force")
}

// change makes a change and waits until the gateway has taken it.
func (s *site) change(t testing.TB, how func()) {
	t.Helper()
	before := s.inForce(t)
	how()
	harness.Eventually(t, patience, "the change is in force", func() bool { return s.inForce(t) > before })
}

// await waits until the endpoint lists a tool.
func (s *site) await(t testing.TB, tool string) {
	t.Helper()
	awaitTool(t, s.url, key, tool)
}

func awaitTool(t testing.TB, url, key, tool string) {
	t.Helper()
	client := harness.NewModern(url, key)
	harness.Eventually(t, patience, url+" lists "+tool, func() bool {
		for _, name := range client.Call(t, "tools/list", nil).Names(t) {
			if name == tool {
				return true
			}
		}
		return false
	})
}

// children are the processes that were started by a process, with their command lines.
func children(pid int) map[int]string {
	all := processes()
	for child := range all {
		if parent(child) != pid {
			delete(all, child)
		}
	}
	return all
}

// processes are all that run on this machine, with their command lines.
func processes() map[int]string {
	found := map[int]string{}
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is good
	for _, file := range all {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		line, gone := os.ReadFile(file)
		if err == nil && gone == nil && len(line) > 0 { // a zombie has no command line
			found[pid] = strings.ReplaceAll(string(line), "\x00", " ")
		}
	}
	return found
}

// parent is who started a process; 0 where it is gone.
func parent(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// "pid (name) state parent ...", and the name may hold anything
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(fields[1]) // the kernel writes a number
	return n
}

// envoyChild is the pid of the Envoy that mcpgw run has started, 0 where there is none.
func (s *site) envoyChild() int {
	for pid, line := range children(s.mcpgw.Pid()) {
		if strings.Contains(line, "envoy.yaml") {
			return pid
		}
	}
	return 0
}

// gone tells that a process has ended, were it only that nobody has waited for it yet.
func gone(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.HasPrefix(string(text[strings.LastIndexByte(string(text), ')')+1:]), " Z")
}
