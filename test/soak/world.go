package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpgw/mcpgw/pkg/envoyproc"
	"github.com/mcpgw/mcpgw/test/harness"
)

// The callers. A reader sees all but what hides says, a guest one tool.
const (
	reader  = "soak-reader"
	another = "soak-another-reader"
	writer  = "soak-writer"
	guest   = "soak-guest"
)

// rules is the policy. One of the two parts below is appended, in turn: the world has to change under load.
const rules = `package mcpgw.policy

reader if "reader" in input.subject.roles

allow if reader

allow if "writer" in input.subject.roles

allow if {
	"guest" in input.subject.roles
	input.resource.server == "alpha"
	input.resource.name == "echo"
}

deny contains "readers do not use this" if {
	reader
	input.resource.name in {"add", "greet"}
}

deny contains "that word is not for servers" if startswith(input.arguments.text, "forbidden")
`

const (
	rulesOpen   = "\n# echo_b is for everybody\n"
	rulesClosed = "\ndeny contains \"not today\" if {\n\treader\n\tinput.resource.name == \"echo_b\"\n}\n"
)

// world is the gateway under load and the servers behind it.
type world struct {
	*harness.Gateway
	base  string // URL of the listener, without a path
	dir   string // of the sockets
	idle  time.Duration
	envoy *envoyproc.Admin
	http  *http.Client // of mcpgw's admin socket

	alpha *harness.Backend // both eras; nobody touches it: every answer must be right
	beta  *harness.Backend // goes down and comes back
	gamma *harness.Backend // legacy with sessions; nobody touches it
	delta *harness.Backend // gains and loses a tool
	extra *harness.Backend // comes into the configuration and goes

	everything string // URL of the reference server: legacy, with sessions
	tools      harness.Parts
	repository string

	mu        sync.Mutex
	cancelled map[string]bool // calls of slow that alpha and gamma were told to stop
}

// start starts everything and waits until each server's tools are served.
func start(t *scope, idle time.Duration) *world {
	w := &world{idle: idle, tools: harness.Tools(t), cancelled: map[string]bool{}}
	w.repository = harness.Repository(t)
	w.alpha = harness.StartBackend(t, harness.Dual, nil)
	w.beta = harness.StartBackend(t, harness.Modern, nil)
	w.gamma = harness.StartBackend(t, harness.Legacy, nil)
	w.delta = harness.StartBackend(t, harness.Modern, nil)
	w.extra = harness.StartBackend(t, harness.Modern, nil)
	w.everything = harness.StartServerEverything(t)
	w.dir = t.TempDir()
	w.envoy = envoyproc.NewAdmin(filepath.Join(w.dir, "run", "envoy.sock"))
	t.Cleanup(w.envoy.Close)
	w.http = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(w.dir, "a.sock"))
		},
		DisableKeepAlives: true,
	}}
	w.Gateway = harness.StartGateway(t, w.config(false), map[string]string{"policy.rego": rules + rulesOpen})
	w.base = strings.TrimSuffix(w.URLs[0], "/mcp")
	return w
}

// config is the configuration, with the server extra or without it.
func (w *world) config(extra bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
listeners: [{ address: "127.0.0.1:0" }]
endpoints: [{ name: mcp, path: /mcp, per_server: true }]
policy: { directory: policy }
admin: { address: "unix:%s/a.sock" }
envoy: { run_dir: %s/run, concurrency: 2, drain_time: 5s }
limits: { session_idle: %s, failed_credentials_per_minute: 1000000, stream_keepalive: 1s, park: 5s }
authentication:
  api_keys:
`, w.dir, w.dir, w.idle)
	for _, who := range [][2]string{{reader, "reader"}, {another, "reader"}, {writer, "writer"}, {guest, "guest"}} {
		sum := sha256.Sum256([]byte(who[0]))
		fmt.Fprintf(&b, "    - { id: %s, digest: \"sha256:%s\", roles: [%s] }\n", who[0], hex.EncodeToString(sum[:]), who[1])
	}
	b.WriteString("servers:\n")
	web := func(name, url string) { fmt.Fprintf(&b, "  - { name: %s, http: { url: %q } }\n", name, url) }
	web("alpha", w.alpha.URL)
	web("beta", w.beta.URL)
	web("gamma", w.gamma.URL)
	web("delta", w.delta.URL)
	web("every", w.everything)
	child := func(name string, args ...string) {
		fmt.Fprintf(&b, "  - { name: %s, stdio: { command: python3, args: [%s], cwd: %q, env: { PYTHONPATH: { value: %q } } } }\n",
			name, strings.Join(args, ", "), w.repository, w.tools.Python)
	}
	child("time", "-m", "mcp_server_time")
	child("git", "-m", "mcp_server_git", "--repository", ".")
	if extra {
		web("extra", w.extra.URL)
	}
	return b.String()
}

// listens keeps what servers were told to stop, and drops what they have recorded: nobody reads it here. It ends with ctx.
func (w *world) listen(ctx context.Context) {
	forget := time.NewTicker(time.Second)
	defer forget.Stop()
	note := func(id string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.cancelled) > 10_000 {
			clear(w.cancelled)
		}
		w.cancelled[id] = true
	}
	for {
		select {
		case id := <-w.alpha.Cancelled():
			note(id)
		case id := <-w.gamma.Cancelled():
			note(id)
		case <-w.beta.Cancelled():
		case <-forget.C:
			for _, b := range []*harness.Backend{w.alpha, w.beta, w.gamma, w.delta, w.extra} {
				b.Forget()
			}
		case <-ctx.Done():
			return
		}
	}
}

// told says whether a server was told to stop a call of slow.
func (w *world) told(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cancelled[id]
}

// sessions counts the sessions that the gateway holds on gamma.
func (w *world) sessions() int {
	n := 0
	for range w.gamma.Server.Sessions() {
		n++
	}
	return n
}

// blink adds a tool to delta, or takes it away.
func (w *world) blink(on bool) {
	if !on {
		w.delta.Server.RemoveTools("blink")
		return
	}
	mcp.AddTool(w.delta.Server, &mcp.Tool{Name: "blink", Description: "is here now and then"},
		func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "blink"}}}, nil, nil
		})
}

// metrics are mcpgw's own, by name with labels.
func (w *world) metrics() (map[string]float64, error) {
	r, err := w.http.Get("http://mcpgw/metrics")
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(io.LimitReader(r.Body, 8<<20))
	if err != nil {
		return nil, err
	}
	found := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			if v, err := strconv.ParseFloat(line[i+1:], 64); err == nil {
				found[line[:i]] = v
			}
		}
	}
	return found, nil
}

// process is one process as the kernel shows it.
type process struct {
	pid, parent int
	command     string
	rss         int64 // bytes
	files       int
}

// family is a process with all that descend from it, itself first. Those that have ended do not count.
func family(pid int) []process {
	all, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good
	found := map[int]process{}
	for _, file := range all {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // gone since
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) < 22 || fields[0] == "Z" {
			continue
		}
		p := process{}
		p.pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(file))) // the pattern admits digits only
		p.parent, _ = strconv.Atoi(fields[1])                      // proc(5): numbers
		pages, _ := strconv.ParseInt(fields[21], 10, 64)
		p.rss = pages * int64(os.Getpagesize())
		found[p.pid] = p
	}
	out := []process{}
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		p, ok := found[queue[0]]
		if !ok {
			continue
		}
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid)) // empty where it is gone
		p.command = strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
		if files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid)); err == nil {
			p.files = len(files)
		}
		out = append(out, p)
		for _, q := range found {
			if q.parent == p.pid {
				queue = append(queue, q.pid)
			}
		}
	}
	return out
}

// isEnvoy tells Envoy from the servers that run as children.
func (p process) isEnvoy() bool { return strings.Contains(p.command, "envoy.yaml") }

// children are the processes of the stdio servers.
func (w *world) children() []process {
	var out []process
	for _, p := range family(w.Pid())[1:] {
		if strings.Contains(p.command, "mcp_server_") {
			out = append(out, p)
		}
	}
	return out
}

// alive tells whether a process runs.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	return len(family(pid)) > 0
}
