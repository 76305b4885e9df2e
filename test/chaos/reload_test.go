package chaos

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/pkg/config"
	"github.com/mcpgw/mcpgw/test/harness"
)

// TestServersComeAndGo: servers are added and removed under load, by a changed file and by SIGHUP, and no call notices.
func TestServersComeAndGo(t *testing.T) {
	for _, f := range []front{run, ads} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			a, b := harness.StartBackend(t, harness.Modern, nil), harness.StartBackend(t, harness.Modern, nil)
			one := mainListener + servers(map[string]string{"a": a.URL})
			two := mainListener + servers(map[string]string{"a": a.URL, "b": b.URL})
			s := start(t, f, one)
			s.await(t, "a_echo")
			calm := s.undisturbed(t)
			l := startLoad(t, s.url, "a_echo")
			l.await(t, 20, "ok")
			for range 3 {
				s.change(t, func() { s.write(t, s.settings(two)) })
				s.await(t, "b_echo")
				other := startLoad(t, s.url, "b_echo")
				other.await(t, 20, "ok")
				call := harness.NewModern(s.url, key).Stream(t, "1", "tools/call", map[string]any{
					"name": "b_slow", "arguments": map[string]any{"id": "long", "millis": 2000, "progress": true}, "_meta": progress(),
				})
				call.Until(t, "notifications/progress", patience)
				s.change(t, func() { s.write(t, s.settings(one)) })
				other.await(t, 20, "unknown")
				if got := string(call.Until(t, "", patience)); !strings.Contains(got, "long") { // a call in flight goes on
					t.Error(got)
				}
				other.stop()
				other.only(t, "ok", "denied", "unknown")
				other.agree(t, b)
				b.Forget()
			}
			s.change(t, func() { s.mcpgw.Signal(t, syscall.SIGHUP) })
			l.await(t, 20, "ok")
			l.stop()
			l.only(t, "ok", "denied")
			l.agree(t, a)
			if n := l.dials.Load(); n != workers {
				t.Errorf("%d connections were made by %d workers", n, workers)
			}
			calm()
			s.clean(t)
		})
	}
}

// TestPolicyAndKeysReload: a rule that changes holds from the next call on; a key works as long as it is in the file.
func TestPolicyAndKeysReload(t *testing.T) {
	b := harness.StartBackend(t, harness.Modern, nil)
	text := mainListener + servers(map[string]string{"a": b.URL})
	s := start(t, run, text)
	s.await(t, "a_echo")
	calm := s.undisturbed(t)
	l := startLoad(t, s.url, "a_echo")
	client := harness.NewModern(s.url, key)
	word := map[string]any{"text": "secret"}

	if got := client.Tool(t, "a_echo", word).Text(t); got != "secret" {
		t.Fatal(got)
	}
	s.change(t, func() {
		s.policy(t, rules+"\ndeny contains \"no secrets\" if input.arguments.text == \"secret\"\n")
	})
	if got := client.Tool(t, "a_echo", word).Failure(t); got.Code != 403 || !strings.Contains(got.Message, "no secrets") {
		t.Errorf("%+v", got)
	}
	s.change(t, func() { s.policy(t, rules) })
	client.Tool(t, "a_echo", word).Result(t, nil)

	second := harness.NewModern(s.url, "second-key")
	if r := second.Tool(t, "a_echo", word); r.Status != 401 {
		t.Errorf("an unknown key got %d", r.Status)
	}
	with := s.settings("    - { id: second, digest: \"" + config.KeyDigest("second-key") + "\", roles: [reader] }\n" + text)
	s.change(t, func() { s.write(t, with) })
	second.Tool(t, "a_echo", word).Result(t, nil)
	s.change(t, func() { s.write(t, s.settings(text)) })
	if r := second.Tool(t, "a_echo", word); r.Status != 401 {
		t.Errorf("a removed key got %d", r.Status)
	}
	l.await(t, 20, "ok")
	l.stop()
	l.only(t, "ok", "denied")
	calm()
}

// TestListenerCertificateRotates: a new certificate in the same files is shown to new connections; old ones stay. (Envoy reads the
// certificates of a static configuration once, at start.)
func TestListenerCertificateRotates(t *testing.T) {
	for _, f := range []front{run, ads} {
		t.Run(string(f), func(t *testing.T) {
			b := harness.StartBackend(t, harness.Modern, nil)
			authority := harness.NewAuthority(t)
			first, second := authority.Issue(t, "127.0.0.1", time.Now().Add(time.Hour)), authority.Issue(t, "127.0.0.1", time.Now().Add(time.Hour))
			dir := t.TempDir()
			cert, private := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
			put := func(c harness.Certificate) {
				harness.WriteFile(t, private, read(t, c.KeyFile))
				harness.WriteFile(t, cert, read(t, c.CertFile))
			}
			put(first)
			s := start(t, f, fmt.Sprintf("\nlisteners: [{ name: main, address: \"127.0.0.1:0\", tls: { cert_file: %q, key_file: %q } }]\n", cert, private)+
				servers(map[string]string{"a": b.URL}))
			address := s.address(t, "main")
			calm := s.undisturbed(t)

			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM([]byte(read(t, authority.CertFile)))
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
			defer client.CloseIdleConnections()
			kept := client.Transport.(*http.Transport)
			ask := func() string {
				r, err := client.Get("https://" + address + "/healthz")
				if err != nil {
					t.Fatal(err)
				}
				r.Body.Close()
				return r.TLS.PeerCertificates[0].SerialNumber.String()
			}
			fresh := func() string {
				c, err := tls.Dial("tcp", address, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
			}
			old, next := first.TLS.Leaf.SerialNumber.String(), second.TLS.Leaf.SerialNumber.String()
			if ask() != old || fresh() != old {
				t.Fatal("the first certificate is not shown")
			}
			put(second)
			harness.Eventually(t, patience, "the new certificate is shown", func() bool { return fresh() == next })
			if ask() != old {
				t.Error("a connection from before was closed")
			}
			kept.CloseIdleConnections()
			calm()
		})
	}
}

// TestCredentialRotates: a secret file that changes reaches the server with the next call, over the same connection.
func TestCredentialRotates(t *testing.T) {
	for _, f := range []front{run, ads} {
		t.Run(string(f), func(t *testing.T) {
			b := harness.StartBackend(t, harness.Modern, nil)
			secret := filepath.Join(t.TempDir(), "token")
			harness.WriteFile(t, secret, "one\n")
			s := start(t, f, mainListener+fmt.Sprintf("\nservers: [{ name: a, http: { url: %q, credential: { from: { file: %q } } } }]\n", b.URL, secret))
			s.await(t, "a_echo")
			calm := s.undisturbed(t)
			l := startLoad(t, s.url, "a_echo")
			l.await(t, 20, "ok")
			s.change(t, func() { harness.WriteFile(t, secret, "two\n") })
			b.Forget()
			harness.NewModern(s.url, key).Tool(t, "a_echo", map[string]any{"text": "now"}).Result(t, nil)
			for _, r := range b.Requests("tools/call") {
				if got := r.Header.Get("Authorization"); strings.Contains(string(r.Body), `"now"`) && got != "Bearer two" {
					t.Errorf("the server was shown %q", got)
				}
			}
			l.stop()
			l.only(t, "ok", "denied")
			calm()
			for _, out := range []string{s.mcpgw.Stderr.String(), s.ask(t, "/catalog"), s.ask(t, "/metrics")} {
				if strings.Contains(out, "Bearer two") {
					t.Error("the secret is told")
				}
			}
		})
	}
}

// TestBadChanges: whatever is wrong with a change, the world before it stays, the fault is shown, and healing is noticed.
func TestBadChanges(t *testing.T) {
	b := harness.StartBackend(t, harness.Modern, nil)
	s := newSite(t, run)
	good := s.settings(mainListener + servers(map[string]string{"a": b.URL}))
	s.write(t, good)
	s.startAll(t)
	s.await(t, "a_echo")
	calm := s.undisturbed(t)
	l := startLoad(t, s.url, "a_echo")
	rule := filepath.Join(s.dir, "policy", "p.rego")
	replace := func(path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, says string
		breaks     func()
		heals      func()
	}{
		{"not YAML", "mcpgw.yaml:2", func() { s.write(t, "listeners:\n\t- x") }, func() { s.write(t, good) }},
		{"unknown field", "sevrers", func() { s.write(t, strings.Replace(good, "servers:", "sevrers:", 1)) }, func() { s.write(t, good) }},
		{"half written", "mcpgw.yaml", func() {
			if err := os.WriteFile(s.file, []byte(good[:len(good)*2/3]), 0o600); err != nil { // in place
				t.Fatal(err)
			}
		}, func() { s.write(t, good) }},
		{"a directory", "is a directory", func() { replace(s.file) }, func() {
			if err := os.Remove(s.file); err != nil {
				t.Fatal(err)
			}
			s.write(t, good)
		}},
		{"removed", "no such file", func() {
			if err := os.Remove(s.file); err != nil {
				t.Fatal(err)
			}
		}, func() { s.write(t, good) }},
		{"bad Rego", "p.rego:3", func() { s.policy(t, "package mcpgw.policy\n\nallow if {") }, func() { s.policy(t, rules) }},
		{"a field that does not exist", "subjct", func() { s.policy(t, rules+"\nallow if input.subjct.id == \"x\"\n") }, func() { s.policy(t, rules) }},
		{"policy is a directory", "p.rego", func() { replace(rule) }, func() {
			if err := os.Remove(rule); err != nil {
				t.Fatal(err)
			}
			s.policy(t, rules)
		}},
		{"policy removed", "policy", func() {
			if err := os.RemoveAll(filepath.Dir(rule)); err != nil {
				t.Fatal(err)
			}
		}, func() { s.policy(t, rules) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.breaks()
			harness.Eventually(t, patience, "the fault is seen", func() bool { return s.metric(t, "mcpgw_config_last_reload_successful") == 0 })
			r := command(t, s.dir, "catalog", "--config", s.file, "--admin", "unix:"+filepath.Dir(s.run)+"/a.sock")
			if r.status != 0 || !strings.Contains(r.stdout, c.says) || !strings.Contains(r.stdout, "stays in force") || !strings.Contains(r.stdout, "a ") {
				t.Errorf("mcpgw catalog ends with %d and does not say %q:\n%s%s", r.status, c.says, r.stdout, r.stderr)
			}
			if !strings.Contains(s.mcpgw.Stderr.String(), "the configuration is not taken") {
				t.Error("the log does not say so")
			}
			l.await(t, 10, "ok")
			l.await(t, 3, "denied")
			c.heals()
			harness.Eventually(t, patience, "the healing is seen", func() bool { return s.metric(t, "mcpgw_config_last_reload_successful") == 1 })
			if r := command(t, s.dir, "catalog", "--config", s.file); r.status != 0 || strings.Contains(r.stdout, "stays in force") {
				t.Errorf("mcpgw catalog ends with %d and still shows a fault:\n%s%s", r.status, r.stdout, r.stderr)
			}
		})
	}
	l.stop()
	l.only(t, "ok", "denied")
	l.agree(t, b)
	calm()
}

// TestAddressTaken: a listener that Envoy cannot open keeps the old world whole, and the fault names the address.
func TestAddressTaken(t *testing.T) {
	b := harness.StartBackend(t, harness.Modern, nil)
	taken := strings.TrimPrefix(strings.TrimSuffix(b.URL, "/mcp"), "http://")
	good := mainListener + servers(map[string]string{"a": b.URL})
	s := start(t, run, good)
	s.await(t, "a_echo")
	l := startLoad(t, s.url, "a_echo")
	l.await(t, 20, "ok")
	bad := strings.Replace(good, "listeners: [{", fmt.Sprintf("listeners: [{ name: other, address: %q }, {", taken), 1)
	s.write(t, s.settings(bad))
	harness.Eventually(t, patience, "the fault is seen", func() bool { return s.metric(t, "mcpgw_config_last_reload_successful") == 0 })
	if r := command(t, s.dir, "catalog", "--config", s.file); r.status != 0 || !strings.Contains(r.stdout, taken) {
		t.Errorf("mcpgw catalog ends with %d and does not name %s:\n%s%s", r.status, taken, r.stdout, r.stderr)
	}
	s.change(t, func() { s.write(t, s.settings(good)) })
	if s.metric(t, "mcpgw_config_last_reload_successful") != 1 {
		t.Error("the healing is not seen")
	}
	l.await(t, 20, "ok")
	l.stop()
	l.only(t, "ok", "denied")
	if n := l.dials.Load(); n != workers {
		t.Errorf("%d connections were made by %d workers", n, workers)
	}
}

// TestListenerChange: a listener that changes drains, no other does, and the log names it.
func TestListenerChange(t *testing.T) {
	b := harness.StartBackend(t, harness.Modern, nil)
	text := func(more string) string {
		return fmt.Sprintf("\nlisteners:\n  - { name: main, address: \"127.0.0.1:0\" }\n%s", more) + servers(map[string]string{"a": b.URL})
	}
	at := freePort(t)
	other := fmt.Sprintf("  - { name: other, address: %q }\n", at)
	s := start(t, run, text(other))
	s.await(t, "a_echo")
	l := startLoad(t, s.url, "a_echo")
	l.await(t, 20, "ok")
	stream := harness.NewModern("http://"+at+"/mcp", key).Stream(t, "1", "tools/call", map[string]any{
		"name": "a_slow", "arguments": map[string]any{"id": "long", "millis": 3000, "progress": true}, "_meta": progress(),
	})
	stream.Next(t, patience)

	s.change(t, func() {
		s.write(t, s.settings(text(strings.Replace(other, "}", ", client_trace: link }", 1))))
	})
	s.mcpgw.Stderr.Await(t, `in force.*drained=.*other`, patience)
	if strings.Contains(s.mcpgw.Stderr.String(), "in/main") {
		t.Error("the log names the listener that did not change")
	}
	stream.Until(t, "", patience) // drain_time lets it finish
	harness.NewModern("http://"+at+"/mcp", key).Tool(t, "a_echo", map[string]any{"text": "x"}).Result(t, nil)

	s.change(t, func() { s.write(t, s.settings(text(""))) })
	harness.Eventually(t, patience, "a removed listener refuses", func() bool {
		_, err := get(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, "http://"+at+"/healthz")
		return err != nil
	})
	l.await(t, 20, "ok")
	l.stop()
	l.only(t, "ok", "denied")
	if n := l.dials.Load(); n != workers {
		t.Errorf("%d connections were made by %d workers", n, workers)
	}
	s.clean(t)
}

// progress is the _meta of a modern call that wants to hear of its progress.
func progress() map[string]any {
	return map[string]any{
		"io.modelcontextprotocol/protocolVersion": harness.R20260728, "io.modelcontextprotocol/clientCapabilities": map[string]any{},
		"io.modelcontextprotocol/clientInfo": map[string]any{"name": "chaos", "version": "1"}, "progressToken": "p",
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestEarlyChanges: a file that changes while the gateway starts, or as soon as what it was read from rules, is read again.
func TestEarlyChanges(t *testing.T) {
	b := harness.StartBackend(t, harness.Modern, nil)
	s := newSite(t, run)
	rest := mainListener + servers(map[string]string{"a": b.URL})
	s.write(t, s.settings(rest))
	s.policy(t, bundled("first"))
	s.mcpgw = harness.Start(t, harness.Command{
		Name: "mcpgw run", Path: harness.Mcpgw(t), Args: []string{"run", "--config", s.file}, Env: []string{"ENVOY=" + harness.Tools(t).Envoy}, Dir: s.dir,
	})
	s.mcpgw.Stderr.Await(t, "configuration is in force", patience)
	s.policy(t, bundled("second"))
	s.mcpgw.Stdout.Await(t, `(?m)^ready .*$`, 2*patience)
	s.locate(t)
	s.await(t, "a_echo")
	s.awaitRuledBy(t, "second")
	for n := range 5 {
		dir := fmt.Sprint("dir", n)
		file := filepath.Join(s.dir, dir, "sub", "p.rego")
		harness.WriteFile(t, file, bundled(dir))
		s.write(t, strings.Replace(s.settings(rest), "directory: policy ", "directory: "+dir+" ", 1))
		s.awaitRuledBy(t, dir)
		harness.WriteFile(t, file, bundled(dir+" again"))
		s.awaitRuledBy(t, dir+" again")
	}
}
