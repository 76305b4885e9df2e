package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/pkg/admin"
	"github.com/mcpgw/mcpgw/test/harness"
)

// decisionLogs is a server of OPA's /logs interface.
type decisionLogs struct {
	*httptest.Server
	mu     sync.Mutex
	events []json.RawMessage
}

func startDecisionLogs(t *testing.T) *decisionLogs {
	l := &decisionLogs{}
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var events []json.RawMessage
		z, err := gzip.NewReader(r.Body)
		if err == nil {
			err = json.NewDecoder(z).Decode(&events)
		}
		if err != nil || r.URL.Path != "/logs" || r.Header.Get("authorization") != "Bearer log-token" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.events = append(l.events, events...)
	}))
	t.Cleanup(l.Close)
	return l
}

func (l *decisionLogs) text() (n int, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.events), fmt.Sprintf("%s", l.events)
}

// nextPolicy is policy with fewer bytes for readers.
var nextPolicy = strings.NewReplacer("1 to 10 bytes", "1 to 3 bytes", "bytes <= 10", "bytes <= 3").Replace(policy)

const logRules = `package system.log

mask contains "/input/arguments/text" if input.input.resource.name == "echo_b"
`

// TestShadowPromoteReplay: calls are logged, masked, and compared with a shadow; the log replayed under the new policy changes what the
// shadow said; promoting makes it rule from the next call on, and no call fails meanwhile.
func TestShadowPromoteReplay(t *testing.T) {
	b, logs := harness.StartBackend(t, harness.Dual, nil), startDecisionLogs(t)
	dir, err := os.MkdirTemp("", "e2e") // the path of a socket has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	next, log, socket := filepath.Join(dir, "next"), filepath.Join(dir, "decisions.log"), filepath.Join(dir, "admin.sock")
	harness.WriteFile(t, filepath.Join(next, "policy.rego"), nextPolicy)
	harness.WriteFile(t, filepath.Join(dir, "token"), "log-token")
	config := fmt.Sprintf(`# kept: the first line
listeners: [{ address: "127.0.0.1:0" }]
servers:
%s
endpoints: [{ name: mcp, path: /mcp, per_server: true }]
policy:
  directory: policy # kept: of the directory
  # kept: what is written
  decision_log:
    console: true
    file: %q
    url: %q
    token: { file: %q }
  # what comes next
  shadow:
    directory: %q
    samples: 20
authentication: # kept: of the keys
  api_keys:
    - { id: reader, digest: %q, roles: [reader] }
    - { id: writer, digest: %q, roles: [writer] }
admin: { address: %q }
envoy: { run_dir: %q, drain_time: 2s }
`, server("s", b.URL, "auto"), log, logs.URL, filepath.Join(dir, "token"), next, digest(reader), digest(writer), "unix:"+socket, filepath.Join(dir, "run"))
	w := &world{Gateway: harness.StartGateway(t, config, map[string]string{"policy.rego": policy, "log.rego": logRules}), dir: filepath.Join(dir, "run")}
	w.Base = strings.TrimSuffix(w.URLs[0], "/mcp")
	t.Cleanup(func() { w.unharmed(t) })
	w.lists(t, "/mcp/s", harness.R20260728, 6)
	get := func(path string) string {
		client := http.Client{Transport: admin.Transport("unix", socket)}
		resp, err := client.Get("http://mcpgw" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}

	const big, secret = 12, "hunter2-planted"
	c := w.client(t, "/mcp/s", reader, harness.R20260728)
	for n := 1; n <= big; n++ {
		if got := c.Tool(t, "big", map[string]any{"bytes": n}); n <= 10 {
			got.Result(t, nil)
		} else if f := got.Failure(t); !strings.Contains(f.Message, "1 to 10") {
			t.Errorf("the live policy says %q", f.Message)
		}
	}
	const changed = 7 // 4 to 10 bytes
	c.Tool(t, "echo_b", map[string]any{"text": secret}).Result(t, nil)
	w.client(t, "/mcp/s", writer, harness.R20251125).Tool(t, "add", map[string]any{"a": 1, "b": 2}).Result(t, nil)
	const calls = big + 2

	type shadowReport struct {
		Shadow, Live, Policy        string
		Compared, Disagreed, Failed int
		Rows                        []struct {
			Action, Server, Item, Live, Shadow string
			Count                              int
			Callers, Roles                     []struct {
				Name  string
				Count int
			}
			Samples []struct {
				DecisionID string `json:"decision_id"`
				Shadow     json.RawMessage
			}
		}
	}
	var r shadowReport
	harness.Eventually(t, soon, "the shadow has compared every call", func() bool {
		out, errs, status := command(t, "policy", "shadow", "--config", w.Config, "--output", "json")
		if status != 0 {
			t.Fatal(errs)
		}
		r = shadowReport{}
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		return r.Compared == calls
	})
	if r.Disagreed != changed || r.Failed != 0 || len(r.Rows) != 1 || r.Live != r.Policy || r.Shadow == r.Live {
		t.Fatalf("%+v", r)
	}
	row := r.Rows[0]
	if row.Action != "tools/call" || row.Server != "s" || row.Item != "big" || row.Live != "allow" || row.Shadow != "deny" || row.Count != changed ||
		row.Callers[0].Count != changed || row.Roles[0].Name != "reader" || len(row.Samples) == 0 || !strings.Contains(string(row.Samples[0].Shadow), "1 to 3 bytes") {
		t.Errorf("%+v", row)
	}
	if out, _, _ := command(t, "policy", "shadow", "--config", w.Config); !strings.Contains(out, "7 would change") || !strings.Contains(out, "1 to 3 bytes") || !strings.Contains(out, `"bytes":`) {
		t.Errorf("mcpgw policy shadow says\n%s", out)
	}
	if m := get("/metrics"); !strings.Contains(m, `mcpgw_shadow_disagreements_total{action="tools/call",item="big",live="allow",server="s",shadow="deny"} 7`) ||
		!strings.Contains(m, "mcpgw_decision_log_lost_total 0") || !strings.Contains(m, "mcpgw_shadow_loaded 1") {
		t.Errorf("metrics:\n%s", m)
	}

	t.Run("log", func(t *testing.T) {
		harness.Eventually(t, soon, "the log's server has every entry", func() bool { n, _ := logs.text(); return n == calls })
		_, sent := logs.text()
		file, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for where, text := range map[string]string{"file": string(file), "server": sent, "gateway's log": w.Stderr.String()} {
			if strings.Contains(text, secret) {
				t.Errorf("the secret is in the %s", where)
			}
		}
		if n := bytes.Count(file, []byte("\n")); n != calls || bytes.Count(file, []byte(`"erased":["/input/arguments/text"]`)) != 1 || !strings.Contains(string(file), r.Live) {
			t.Errorf("%d entries:\n%s", n, file)
		}
	})
	t.Run("replay", func(t *testing.T) {
		out, errs, status := command(t, "policy", "replay", "--log", log, "--policy", next, "--output", "json")
		var got struct {
			Entries, Compared, Changed int
			Causes                     []struct {
				Before, After struct{ Ruling, Because string }
				Count         int
				Where         []struct{ Item, Roles string }
			}
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err, errs)
		}
		if status != 1 || !strings.Contains(errs, "more than the budget of 0") {
			t.Errorf("status %d: %s", status, errs)
		}
		if got.Entries != calls || got.Compared != calls || got.Changed != changed || len(got.Causes) != 1 || got.Causes[0].Count != changed ||
			got.Causes[0].Before.Ruling != "allow" || got.Causes[0].After.Because != "deny: readers get 1 to 3 bytes" || got.Causes[0].Where[0].Item != "big" {
			t.Errorf("%+v", got)
		}
		mixed := filepath.Join(dir, "stderr.log") // entries among the lines of the gateway's own log
		harness.WriteFile(t, mixed, w.Stderr.String())
		if out, errs, status := command(t, "policy", "replay", "--log", mixed, "--policy", next, "--budget", "7"); status != 0 || !strings.Contains(out, "7 of 14 rulings change") || !strings.Contains(out, "lines are no decisions") {
			t.Errorf("standard error: %d %s %s", status, errs, out)
		}
		for _, budget := range []string{"7", "50%"} {
			if out, errs, status := command(t, "policy", "replay", "--log", dir+"/decisions.log", "--policy", next, "--budget", budget); status != 0 || !strings.Contains(out, "7 of 14 rulings change") {
				t.Errorf("with a budget of %s: %d %s %s", budget, status, errs, out)
			}
		}
		if _, errs, status := command(t, "policy", "replay", "--log", next, "--policy", next, "--budget", "100%"); status != 1 || !strings.Contains(errs, "no ruling could be compared") {
			t.Errorf("a log without entries: %d %s", status, errs)
		}
	})
	t.Run("bad shadow", func(t *testing.T) {
		harness.WriteFile(t, filepath.Join(next, "policy.rego"), "package mcpgw.policy\nallow if input.sabject.id == \"x\"\n")
		harness.Eventually(t, soon, "the catalog tells the shadow's fault", func() bool {
			var told struct {
				Shadow, Policy, Fault string
				ShadowFault           string `json:"shadow_fault"`
			}
			if err := json.Unmarshal([]byte(get("/catalog")), &told); err != nil {
				t.Fatal(err)
			}
			return strings.Contains(told.ShadowFault, "sabject") && told.Shadow == r.Shadow && told.Policy == r.Live && told.Fault == ""
		})
		if out, _, _ := command(t, "policy", "shadow", "--config", w.Config); !strings.Contains(out, "sabject") || !strings.Contains(out, "7 would change") {
			t.Errorf("mcpgw policy shadow says\n%s", out)
		}
		if _, errs, status := command(t, "policy", "promote", "--config", w.Config); status == 0 || !strings.Contains(errs, "sabject") {
			t.Errorf("a shadow that does not compile was promoted: %s", errs)
		}
		c.Tool(t, "big", map[string]any{"bytes": 9}).Result(t, nil)
		harness.WriteFile(t, filepath.Join(next, "policy.rego"), nextPolicy)
		harness.Eventually(t, soon, "the shadow is mended", func() bool { return !strings.Contains(get("/catalog"), "shadow_fault") })
	})

	if _, errs, status := command(t, "policy", "promote", "--config", w.Config); status == 0 || !strings.Contains(errs, "masks its decision log") {
		t.Errorf("a shadow without the mask was promoted: %s", errs)
	}
	harness.WriteFile(t, filepath.Join(next, "log.rego"), logRules)
	harness.Eventually(t, soon, "the shadow is another one", func() bool {
		var told struct{ Shadow string }
		if err := json.Unmarshal([]byte(get("/catalog")), &told); err != nil {
			t.Fatal(err)
		}
		changed := told.Shadow != r.Shadow
		r.Shadow = told.Shadow
		return changed
	})

	packed := filepath.Join(dir, "next.tar.gz")
	if _, errs, status := command(t, "policy", "bundle", next, "-o", packed); status != 0 {
		t.Errorf("making a bundle: %s", errs)
	}
	if out, errs, status := command(t, "policy", "replay", "--log", log, "--bundle", packed, "--budget", "8"); status != 0 || !strings.Contains(out, "8 of 15 rulings change") {
		t.Errorf("replay with a bundle: %d %s %s", status, errs, out)
	}

	before, err := os.ReadFile(w.Config)
	if err != nil {
		t.Fatal(err)
	}
	if out, errs, status := command(t, "policy", "promote", "--config", w.Config, "--dry-run"); status != 0 || !strings.Contains(out, "-  directory: policy # kept") || !strings.Contains(out, "+  directory: ") {
		t.Errorf("--dry-run: %d %s %s", status, errs, out)
	}
	if now, err := os.ReadFile(w.Config); err != nil || !bytes.Equal(now, before) {
		t.Errorf("--dry-run changed the file: %v", err)
	}

	// Load while it is promoted: each call must end as a policy says, old or new.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	var mu sync.Mutex
	count, bad := map[string]int{}, []string{}
	for i := range 4 {
		load.Go(func() {
			c := harness.NewModern(w.Base+"/mcp/s", reader)
			for n := 0; ctx.Err() == nil; n++ {
				bytes := 1 + n%5 // 4 and 5 change
				reply, err := c.TryCall(context.Background(), fmt.Sprintf("%d%06d", i+1, n), "tools/call", map[string]any{"name": "big", "arguments": map[string]any{"bytes": bytes}})
				text := fmt.Sprint(err)
				if err == nil {
					text = string(reply.Body)
				}
				mu.Lock()
				switch {
				case err == nil && strings.Contains(text, `"text":"`+strings.Repeat("x", bytes)+`"`):
					count["ok"]++
				case err == nil && bytes > 3 && strings.Contains(text, "readers get 1 to 3 bytes"):
					count["denied"]++
				default:
					bad = append(bad, text)
				}
				mu.Unlock()
				time.Sleep(3 * time.Millisecond)
			}
		})
	}
	ended := func(kind string) int {
		mu.Lock()
		defer mu.Unlock()
		return count[kind]
	}
	harness.Eventually(t, soon, "the load runs", func() bool { return ended("ok") > 100 })
	out, errs, status := command(t, "policy", "promote", "--config", w.Config)
	if status != 0 || !strings.Contains(out, "is in force") || !strings.Contains(out, r.Shadow) || !strings.Contains(out, r.Live) {
		t.Fatalf("promote: %d %s %s", status, errs, out)
	}
	if f := c.Tool(t, "big", map[string]any{"bytes": 5}).Failure(t); !strings.Contains(f.Message, "1 to 3 bytes") {
		t.Errorf("after promoting, the policy says %q", f.Message)
	}
	denied := ended("denied")
	harness.Eventually(t, soon, "the load goes on", func() bool { return ended("denied") > denied+20 })
	stop()
	load.Wait()
	if len(bad) > 0 {
		t.Errorf("%d calls failed while the policy was promoted (%v ended well): %s", len(bad), count, bad[0])
	}

	after, err := os.ReadFile(w.Config)
	if err != nil {
		t.Fatal(err)
	}
	for _, kept := range []string{"# kept: the first line", "# kept: what is written", "# kept: of the keys"} {
		if !strings.Contains(string(after), kept) {
			t.Errorf("%q is gone:\n%s", kept, after)
		}
	}
	if strings.Contains(string(after), "shadow") || strings.Contains(string(after), "what comes next") {
		t.Errorf("the shadow is still there:\n%s", after)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(w.Config), ".mcpgw*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if out, _, _ := command(t, "policy", "shadow", "--config", w.Config); !strings.Contains(out, "No shadow policy is configured") {
		t.Errorf("mcpgw policy shadow says\n%s", out)
	}
	if _, errs, status := command(t, "policy", "promote", "--config", w.Config); status == 0 || !strings.Contains(errs, "no policy.shadow; add") {
		t.Errorf("promoting twice: %d %s", status, errs)
	}

	// The log goes on under the new policy, and what waits is written at the end.
	c.Tool(t, "echo_b", map[string]any{"text": secret}).Result(t, nil)
	c.Tool(t, "echo", map[string]any{"text": "the-last-words"}).Result(t, nil)
	w.unharmed(t)
	w.Stop(t)
	file, err := os.ReadFile(log)
	if err != nil || bytes.Contains(file, []byte(secret)) || !bytes.Contains(file, []byte("the-last-words")) || !bytes.Contains(file, []byte(r.Shadow)) {
		t.Errorf("the last call is not in the log: %v", err)
	}
	if n, sent := logs.text(); n != bytes.Count(file, []byte("\n")) || !strings.Contains(sent, "the-last-words") {
		t.Errorf("the server has %d entries of %d", n, bytes.Count(file, []byte("\n")))
	}
}
