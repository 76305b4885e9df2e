package chaos

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/envoy"
	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/test/harness"
)

// result is how a command ended.
type result struct {
	status         int
	stdout, stderr string
}

// command runs mcpgw to its end.
func command(t testing.TB, dir string, args ...string) result {
	t.Helper()
	return commandWith(t, dir, []string{"ENVOY=" + harness.Tools(t).Envoy}, args...)
}

func commandWith(t testing.TB, dir string, env []string, args ...string) result {
	t.Helper()
	c := exec.CommandContext(t.Context(), harness.Mcpgw(t), args...)
	c.Dir, c.Env = dir, append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("mcpgw %v: %v", args, err)
	}
	return result{c.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// TestCheck: every fault at once, each with file and line, and status 1; nothing to say of what is right.
func TestCheck(t *testing.T) {
	s := newSite(t, run)
	good := s.settings(mainListener + servers(map[string]string{"a": "http://127.0.0.1:1/mcp"}))
	s.write(t, good)
	if r := command(t, s.dir, "check", "--config", s.file); r.status != 0 || !strings.Contains(r.stdout, "ok: ") || !strings.Contains(r.stdout, "by Envoy") {
		t.Errorf("exit status %d\n%s%s", r.status, r.stdout, r.stderr)
	}
	bad := strings.NewReplacer("name: a,", "name: A_b,", "concurrency: 2", "concurency: 2", "127.0.0.1:0", "127.0.0.1:99999").Replace(good)
	s.write(t, bad)
	s.policy(t, "package mcpgw.policy\n\nallow if input.subjct.id == \"x\"\n\ndeny contains 1 if {\n")
	r := command(t, s.dir, "check", "--config", s.file)
	if r.status != 1 {
		t.Errorf("exit status %d", r.status)
	}
	for _, want := range []string{"A_b", "concurency", "99999"} {
		if !regexp.MustCompile(`(?m)^fault: \S*mcpgw\.yaml:\d+:\d+: .*` + want).MatchString(r.stdout) {
			t.Errorf("no fault with file and line about %s:\n%s", want, r.stdout)
		}
	}
	s.write(t, good)
	r = command(t, s.dir, "check", "--config", s.file, "--output", "json")
	var report struct{ Faults []string }
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || r.status != 1 || len(report.Faults) == 0 || !strings.Contains(report.Faults[0], "p.rego:") {
		t.Errorf("exit status %d, %v\n%s%s", r.status, err, r.stdout, r.stderr)
	}
	s.policy(t, "package mcpgw.policy\n\nallow if input.subjct.id == \"x\"\n\nallow if input.resorce.name == \"x\"\n")
	r = command(t, s.dir, "check", "--config", s.file)
	for _, want := range []string{`p.rego:3.*subjct`, `p.rego:5.*resorce`} {
		if !regexp.MustCompile(want).MatchString(r.stdout) || r.status != 1 {
			t.Errorf("exit status %d, no %s in\n%s", r.status, want, r.stdout)
		}
	}
	if r := command(t, s.dir, "check", "--config", "nowhere.yaml"); r.status != 1 || !strings.Contains(r.stdout+r.stderr, "nowhere.yaml") {
		t.Errorf("exit status %d\n%s%s", r.status, r.stdout, r.stderr)
	}
}

// TestExamplesAreRight: every example configuration passes its own check, once what examples/README.md asks for is there.
func TestExamplesAreRight(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(harness.Tools(t).Root, "examples", "*", "mcpgw.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		env := []string{"ENVOY=" + harness.Tools(t).Envoy}
		if filepath.Base(filepath.Dir(file)) == "tls-upstream" {
			file = supplied(t, file)
			env = append(env, "UPSTREAM_TOKEN=token")
		}
		if r := commandWith(t, filepath.Dir(file), env, "check", "--config", file); r.status != 0 || !strings.Contains(r.stdout, "by Envoy") {
			t.Errorf("%s: exit status %d\n%s%s", file, r.status, r.stdout, r.stderr)
		}
	}
}

// supplied is a copy of an example with the certificates that its reader has to bring.
func supplied(t testing.TB, file string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Dir(file))); err != nil {
		t.Fatal(err)
	}
	authority := harness.NewAuthority(t)
	own := authority.Issue(t, "gateway", time.Now().Add(time.Hour))
	for name, from := range map[string]string{"ca.pem": authority.CertFile, "client.pem": own.CertFile, "client-key.pem": own.KeyFile} {
		harness.WriteFile(t, filepath.Join(dir, name), read(t, from))
	}
	return filepath.Join(dir, filepath.Base(file))
}

// TestRender: what is rendered is what the real Envoy takes, the same each time, and holds no secret.
func TestRender(t *testing.T) {
	s := newSite(t, ads)
	secret, authority := filepath.Join(s.dir, "token"), harness.NewAuthority(t)
	harness.WriteFile(t, secret, "hush-in-a-file\n")
	shown := authority.Issue(t, "127.0.0.1", time.Now().Add(time.Hour))
	s.write(t, s.settings(fmt.Sprintf(`
listeners: [{ name: main, address: "127.0.0.1:0", tls: { cert_file: %q, key_file: %q } }]
servers:
  - { name: a, http: { url: "https://127.0.0.1:1/mcp", tls: { ca_file: %q, client_cert_file: %q, client_key_file: %q }, credential: { from: { file: %q } } } }
  - { name: b, http: { url: "http://127.0.0.1:1/mcp", headers: { x-token: { env: CHAOS_SECRET } }, credential: { header: x-key, from: { env: CHAOS_SECRET } } } }
telemetry: { otlp: { endpoint: "127.0.0.1:4317", sampling_percent: 1 } }
`, shown.CertFile, shown.KeyFile, authority.CertFile, shown.CertFile, shown.KeyFile, secret)))
	env := []string{"ENVOY=" + harness.Tools(t).Envoy, "CHAOS_SECRET=hush-in-the-environment"}
	for _, args := range [][]string{{"render"}, {"render", "--static"}} {
		r := commandWith(t, s.dir, env, append(args, "--config", s.file)...)
		if r.status != 0 {
			t.Fatalf("%v: %s", args, r.stderr)
		}
		if again := commandWith(t, s.dir, env, append(args, "--config", s.file)...); again.stdout != r.stdout {
			t.Errorf("%v: not the same twice", args)
		}
		for _, hidden := range []string{"hush", "PRIVATE KEY", strings.TrimSpace(read(t, shown.KeyFile))} {
			if strings.Contains(r.stdout, hidden) {
				t.Errorf("%v shows a secret: %.20s", args, hidden)
			}
		}
		file := filepath.Join(s.dir, "envoy.yaml")
		harness.WriteFile(t, file, r.stdout)
		c := exec.CommandContext(t.Context(), harness.Tools(t).Envoy, "--mode", "validate", "--disable-hot-restart", "-l", "error", "-c", file)
		c.Env = append(os.Environ(), env...)
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%v: Envoy refuses it: %v\n%s", args, err, out)
		}
	}
	s.write(t, strings.Replace(read(t, s.file), "run_dir:", "node_id: x } #", 1))
	if r := commandWith(t, s.dir, env, "render", "--config", s.file); r.status != 1 || !strings.Contains(r.stderr, "run_dir") {
		t.Errorf("without a run_dir: exit status %d: %s", r.status, r.stderr)
	}
}

// TestSmallCommands: version, key new, config import, help.
func TestSmallCommands(t *testing.T) {
	dir := t.TempDir()
	var v struct{ Version, Envoy string }
	if r := command(t, dir, "version", "--output", "json"); r.status != 0 || json.Unmarshal([]byte(r.stdout), &v) != nil || v.Version == "" || v.Envoy != envoy.Version() {
		t.Errorf("version: %d %s%s", r.status, r.stdout, r.stderr)
	}
	if r := command(t, dir, "version"); !strings.Contains(r.stdout, "Envoy "+envoy.Version()) {
		t.Error(r.stdout)
	}
	keys := map[string]bool{}
	for range 2 {
		var k struct{ Key, Digest string }
		r := command(t, dir, "key", "new", "--output", "json")
		if err := json.Unmarshal([]byte(r.stdout), &k); err != nil || k.Key == "" || config.KeyDigest(k.Key) != k.Digest && config.KeyDigest(k.Key) != "sha256:"+k.Digest || keys[k.Key] {
			t.Errorf("key new: %v %+v", err, k)
		}
		if !strings.HasPrefix(k.Digest, "sha256:") {
			t.Errorf("key new: %q is not what the configuration takes", k.Digest)
		}
		keys[k.Key] = true
	}
	harness.WriteFile(t, filepath.Join(dir, "desktop.json"), `{"mcpServers":{"Time Server":{"command":"python3","args":["-m","mcp_server_time"],"env":{"TZ":"UTC"}},"web":{"url":"https://mcp.example.org/mcp"}},"theme":"dark"}`)
	r := command(t, dir, "config", "import", "desktop.json")
	if r.status != 0 || !strings.Contains(r.stdout, "mcp_server_time") || !strings.Contains(r.stdout, "https://mcp.example.org/mcp") {
		t.Errorf("config import: %d %s%s", r.status, r.stdout, r.stderr)
	}
	harness.WriteFile(t, filepath.Join(dir, "policies", "p.rego"), rules)
	harness.WriteFile(t, filepath.Join(dir, "mcpgw.yaml"), r.stdout)
	if r := command(t, dir, "check"); r.status != 0 {
		t.Errorf("what was imported is refused: %s%s", r.stdout, r.stderr)
	}
	for _, c := range [][]string{{}, {"run"}, {"serve"}, {"render"}, {"check"}, {"catalog"}, {"key", "new"}, {"config", "import"}, {"version"}} {
		r := command(t, dir, append(c, "--help")...)
		if r.status != 0 || (len(c) > 0 && !strings.Contains(r.stdout, "Examples:")) {
			t.Errorf("mcpgw %v --help: %d, no example:\n%s", c, r.status, r.stdout)
		}
	}
	for _, c := range [][]string{{"no-such"}, {"key", "no-such"}, {"config", "no-such"}, {"run", "no-such"}} {
		if r := command(t, dir, c...); r.status != 1 || !strings.Contains(r.stderr, "no-such") {
			t.Errorf("mcpgw %v: %d %s", c, r.status, r.stderr)
		}
	}
}
