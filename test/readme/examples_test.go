package readme

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jwt"

	"github.com/mcpgw/mcpgw/test/harness"
)

// example returns a copy of an example that the test may change, and its configuration.
func example(t *testing.T, name string) (dir, config string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(harness.Tools(t).Root, "examples", name))); err != nil {
		t.Fatal(err)
	}
	return dir, read(t, filepath.Join(dir, "mcpgw.yaml"))
}

// TestExamples lets mcpgw check, with the real Envoy, judge every example that needs nothing made first.
func TestExamples(t *testing.T) {
	desktop := "desktop/claude_desktop_config.json"
	for name, more := range map[string][]string{
		"quickstart": nil, "jwt": nil, "serve": nil, "ext-authz": nil, "tour": nil, "desktop": {"--mcp-config", desktop},
	} {
		out := mcpgw(t, append([]string{"check", "--config", filepath.Join(name, "mcpgw.yaml")}, more...)...)
		if !strings.Contains(out, "ok: configuration, policies, and the Envoy configuration by Envoy") {
			t.Errorf("%s:\n%s", name, out)
		}
	}
}

// TestExampleDesktop: what mcpgw config import prints is a configuration.
func TestExampleDesktop(t *testing.T) {
	dir := t.TempDir()
	harness.WriteFile(t, filepath.Join(dir, "policies", "p.rego"), "package mcpgw.policy\n\nallow := true\n")
	config := mcpgw(t, "config", "import", "desktop/claude_desktop_config.json")
	harness.WriteFile(t, filepath.Join(dir, "mcpgw.yaml"), strings.ReplaceAll(config, "../..", dir))
	if out := mcpgw(t, "check", "--config", filepath.Join(dir, "mcpgw.yaml")); !strings.Contains(out, "ok: ") {
		t.Error(out)
	}
}

// TestExampleServe shows both forms of serve's Envoy configuration to Envoy.
func TestExampleServe(t *testing.T) {
	dir, config := example(t, "serve")
	file := filepath.Join(dir, "mcpgw.yaml")
	harness.WriteFile(t, file, replace(t, config, "../../.out/serve-run", "run"))
	for _, form := range [][]string{nil, {"--static"}} {
		envoy := filepath.Join(dir, "envoy.yaml")
		harness.WriteFile(t, envoy, mcpgw(t, append([]string{"render", "--config", file}, form...)...))
		out, err := exec.Command(harness.Tools(t).Envoy, "--mode", "validate", "--disable-hot-restart", "-c", envoy).CombinedOutput()
		if err != nil {
			t.Errorf("render %v: %v\n%s", form, err, out)
		}
	}
}

// TestExampleJWT runs the example with an issuer's key of the test's own.
func TestExampleJWT(t *testing.T) {
	dir, config := example(t, "jwt")
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := jwk.Import(private)
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(map[string]any{"keys": []any{public}})
	if err != nil {
		t.Fatal(err)
	}
	harness.WriteFile(t, filepath.Join(dir, "own.json"), string(set))
	config = replace(t, config, "http://127.0.0.1:8091/", harness.StartEverything(t, true))
	config = replace(t, config, "keys.json", filepath.Join(dir, "own.json"))
	config = replace(t, config, "grants.json]", filepath.Join(dir, "grants.json")+"]")
	gateway := start(t, dir, config)

	token := func(audience, role string, more map[string]any) string {
		b := jwt.NewBuilder().Issuer("https://issuer.example.org").Subject("a").Audience([]string{audience}).
			Expiration(time.Now().Add(time.Minute)).Claim("realm_access", map[string]any{"roles": []string{role}})
		for name, value := range more {
			b = b.Claim(name, value)
		}
		claims, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		signed, err := jwt.Sign(claims, jwt.WithKey(jwa.ES256(), private))
		if err != nil {
			t.Fatal(err)
		}
		return string(signed)
	}
	const us = "https://mcp.example.org"
	acme := map[string]any{"tenant": "acme"}
	harness.AwaitItems(t, gateway, token(us, "writer", acme))
	for role, want := range map[string][]string{
		"reader": {"test_simple_text"}, "writer": {"test_image_content", "test_simple_text"}, "guest": nil,
	} {
		got := harness.NewModern(gateway, token(us, role, acme)).Call(t, "tools/list", nil).Names(t)
		if diff := cmp.Diff(want, got, cmp.Transformer("length", func(s []string) map[string]bool {
			set := map[string]bool{}
			for _, name := range s {
				set[strings.TrimPrefix(name, "everything_")] = true
			}
			return set
		})); diff != "" {
			t.Errorf("what a %s sees (-want +got):\n%s", role, diff)
		}
	}
	if got := harness.NewModern(gateway, token(us, "reader", nil)).Call(t, "tools/list", nil).Names(t); len(got) > 0 {
		t.Errorf("without a tenant: %v", got)
	}
	if got := harness.NewModern(gateway, token("https://elsewhere.example.org", "reader", acme)).Call(t, "tools/list", nil); got.Status != 401 {
		t.Errorf("with another's token: HTTP %d", got.Status)
	}
}

// TestExampleTLSUpstream runs the example before a server that wants a client certificate, and looks at what reached it.
func TestExampleTLSUpstream(t *testing.T) {
	authority := harness.NewAuthority(t)
	inAnHour := time.Now().Add(time.Hour)
	backend := harness.StartSecureBackend(t, harness.Modern, authority.Issue(t, "mcp.internal.example.org", inAnHour), authority)
	address, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	dir, config := example(t, "tls-upstream")
	own := authority.Issue(t, "gateway.example.org", inAnHour)
	for name, file := range map[string]string{"ca.pem": authority.CertFile, "client.pem": own.CertFile, "client-key.pem": own.KeyFile} {
		config = replace(t, config, " "+name, " "+file)
	}
	config = replace(t, config, "127.0.0.1:8443/mcp", address.Host+address.Path)
	t.Setenv("UPSTREAM_TOKEN", "the-gateways-own")
	gateway := start(t, dir, config)
	harness.AwaitItems(t, gateway, "")
	if got := harness.NewModern(gateway, "").Tool(t, "internal_echo", map[string]any{"text": "hello"}); got.Status != 200 {
		t.Errorf("HTTP %d: %s", got.Status, got.Body)
	}
	calls := backend.Await(t, 1, "tools/call", 5*time.Second)
	if got := calls[0].Header.Get("Authorization"); got != "Bearer the-gateways-own" {
		t.Errorf("the server was shown %q", got)
	}
}

// start runs an example on a free port and returns the URL of its endpoint.
func start(t *testing.T, dir, config string) string {
	t.Helper()
	config = replace(t, config, "127.0.0.1:8080", "127.0.0.1:0")
	config += "\nadmin: {address: \"unix:admin.sock\"}\n"
	policy := map[string]string{"policy.rego": read(t, filepath.Join(dir, "policy", "policy.rego"))}
	return harness.StartGateway(t, config, policy).URLs[0]
}

// replace is fatal where there is nothing to replace: the example has changed, and the test would run something else.
func replace(t *testing.T, text, old, by string) string {
	t.Helper()
	if !strings.Contains(text, old) {
		t.Fatalf("the configuration has no %q any more", old)
	}
	return strings.ReplaceAll(text, old, by)
}

// mcpgw runs the command in the folder of the examples and returns what it prints.
func mcpgw(t *testing.T, args ...string) string {
	t.Helper()
	command := exec.Command(harness.Mcpgw(t), args...)
	command.Dir = filepath.Join(harness.Tools(t).Root, "examples")
	command.Env = append(os.Environ(), "ENVOY="+harness.Tools(t).Envoy, "DOCS_TOKEN=x")
	var complaint strings.Builder
	command.Stderr = &complaint
	out, err := command.Output()
	if err != nil {
		t.Fatalf("mcpgw %v: %v\n%s%s", args, err, out, complaint.String())
	}
	return string(out)
}
