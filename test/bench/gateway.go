package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"

	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/pkg/server"
)

const (
	key = "bench-key" // opens nothing but this benchmark

	// What a gateway leaves out, for the process that runs it.
	noGuardVariable     = "MCPGW_BENCH_NO_GUARD"
	noAccessLogVariable = "MCPGW_BENCH_NO_ACCESS_LOG"
	profileVariable     = "MCPGW_BENCH_PROFILE" // file names begin so
)

// gatewayRole is `mcpgw run`, but that parts of it can be left out and profiles be taken. A line on standard input begins a profile
// and the next one ends it; its end ends the gateway.
func gatewayRole() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		takeProfiles(os.Getenv(profileVariable))
	}()
	return server.Run(ctx, server.Options{
		Load:    func() (*config.Config, error) { return config.Load("mcpgw.yaml") },
		Version: "bench", Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Out: os.Stdout, Envoy: true,
		NoGuard: os.Getenv(noGuardVariable) != "", NoAccessLog: os.Getenv(noAccessLogVariable) != "",
	})
}

// takeProfiles returns when standard input ends. A profile's name is the line that begins it.
func takeProfiles(prefix string) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		name := prefix + lines.Text()
		var before, after runtime.MemStats
		f, err := os.Create(name + ".cpu")
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		runtime.ReadMemStats(&before)
		fmt.Println("profiling", err)
		if !lines.Scan() {
			return
		}
		runtime.ReadMemStats(&after)
		pprof.StopCPUProfile()
		if err == nil {
			err = errors.Join(f.Close(), writeAllocs(name+".allocs"))
		}
		fmt.Println("profiled", after.Mallocs-before.Mallocs, after.TotalAlloc-before.TotalAlloc, after.NumGC-before.NumGC, err)
	}
}

// writeAllocs writes what was allocated since the start.
func writeAllocs(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup("allocs").WriteTo(f, 0), f.Close())
}

// policyText lets the benchmark's caller use every tool. Of arguments it reads key alone, which only lookup's calls bring.
const policyText = `package mcpgw.policy

allow if "caller" in input.subject.roles

deny contains "this key is not yours" if {
	input.resource.name == "lookup"
	input.arguments.key == "forbidden"
}
`

// configuration is a gateway before the backend: one modern server, one legacy one, one of 20 tools, and 20 of 50 tools each.
func configuration(backend, collector string) string {
	digest := sha256.Sum256([]byte(key))
	var b strings.Builder
	fmt.Fprintf(&b, `
listeners: [{address: "127.0.0.1:0"}]
admin: {address: "unix:admin.sock"}
policy: {directory: policy}
authentication: {api_keys: [{id: caller, digest: "sha256:%s", roles: [caller]}]}
telemetry:
  log: {level: info}
`, hex.EncodeToString(digest[:]))
	if collector != "" {
		fmt.Fprintf(&b, "  otlp: {endpoint: %q, sampling_percent: 1}\n", collector)
	}
	b.WriteString("servers:\n")
	upstream := func(name, path string) {
		fmt.Fprintf(&b, "  - {name: %s, http: {url: \"http://%s%s\"}}\n", name, backend, path)
	}
	upstream("echo", pathModern)
	upstream("old", pathLegacy)
	upstream("twenty", "/modern/20")
	for n := range 20 {
		upstream(fmt.Sprintf("many-%02d", n), "/modern/50")
	}
	b.WriteString(`endpoints:
  - {name: echo, path: /mcp/echo, servers: [{server: echo}]}
  - {name: old, path: /mcp/old, servers: [{server: old}]}
  - {name: both, path: /mcp/both, servers: [{server: echo}, {server: old}]}
  - {name: twenty, path: /mcp/twenty, servers: [{server: twenty}]}
  - {name: thousand, path: /mcp/thousand, servers: [{server: "many-*"}]}
`)
	return b.String()
}

// startGateway starts one and waits until it is ready.
func (p *plant) startGateway(ctx context.Context, s subject) (*target, error) {
	dir, err := os.MkdirTemp(p.dir, s.name)
	if err != nil {
		return nil, err
	}
	collector := ""
	if s.tracing {
		collector = p.collector
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "mcpgw.yaml"), []byte(configuration(p.backend, collector)), 0o600),
		os.Mkdir(filepath.Join(dir, "policy"), 0o700),
		os.WriteFile(filepath.Join(dir, "policy", "bench.rego"), []byte(policyText), 0o600),
	)
	if err != nil {
		return nil, err
	}
	env := []string{"ENVOY=" + p.envoy}
	if !s.guard {
		env = append(env, noGuardVariable+"=1")
	}
	if !s.accessLog {
		env = append(env, noAccessLogVariable+"=1")
	}
	if p.profile != "" {
		env = append(env, profileVariable+"="+filepath.Join(p.profile, ""))
	}
	c, err := p.start(ctx, "gateway", dir, env)
	if err != nil {
		return nil, err
	}
	line, err := c.line()
	if err != nil {
		return nil, fmt.Errorf("gateway %s: %w\n%s", s.name, err, c.log)
	}
	_, address, ok := strings.Cut(line, "http://")
	if !strings.HasPrefix(line, "ready ") || !ok {
		return nil, fmt.Errorf("gateway %s says %q\n%s", s.name, line, c.log)
	}
	address, _, _ = strings.Cut(address, "/")
	t := &target{subject: s, address: address, child: c, mcpgw: c.cmd.Process.Pid}
	kids, err := children(t.mcpgw)
	if err != nil {
		return nil, err
	}
	if len(kids) != 1 {
		return nil, fmt.Errorf("gateway %s has %d children, want its Envoy alone", s.name, len(kids))
	}
	t.envoy = kids[0]
	return t, t.awaitTools(ctx)
}

// subjects are those that the cells need, each once.
func subjects(all []*cell) []subject {
	var out []subject
	for _, c := range all {
		if !slices.Contains(out, c.of) {
			out = append(out, c.of)
		}
	}
	return out
}
