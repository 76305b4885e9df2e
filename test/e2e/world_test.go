package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/pkg/envoyproc"
	"github.com/mcpgw/mcpgw/test/harness"
)

// Keys of the callers; their roles stand in the configuration.
const (
	reader  = "key-of-the-reader"
	another = "key-of-another-reader"
	writer  = "key-of-the-writer"
)

// Keys of operators: one may approve, the other explain.
const (
	operator  = "key-of-the-operator"
	explainer = "key-of-who-explains"
)

// soon bounds what should happen at once; it costs time only where a test fails.
const soon = 10 * time.Second

var (
	legacies = []string{harness.R20251125, harness.R20250618, harness.R20250326}
	all      = append([]string{harness.R20260728}, legacies...)
)

// policy is what the tests' callers may do. A reader does not see add, fail, the prompt secret and test://secret; of big it gets 10 bytes.
const policy = `package mcpgw.policy

reader if "reader" in input.subject.roles

allow if reader

allow if "writer" in input.subject.roles

hidden := {"add", "fail", "secret", "test://secret"}

deny contains "readers do not use this" if {
	reader
	input.resource.name in hidden
}

deny contains "readers get 1 to 10 bytes" if {
	reader
	input.resource.name == "big"
	not few
}

few if {
	is_number(input.arguments.bytes)
	input.arguments.bytes >= 1
	input.arguments.bytes <= 10
}
`

// world is a running gateway and the sockets behind it.
type world struct {
	*harness.Gateway
	Base string // URL of the listener, without a path
	dir  string // of the sockets
}

// setting is the part of a configuration in which tests differ; it is YAML at the top level.
type setting struct {
	listener  string            // further members of the one listener
	servers   string            // the list's items
	endpoints string            // the list's items; default: mcp at /mcp with per_server
	envoy     string            // further members of envoy
	rest      string            // further top-level members
	policy    map[string]string // default: policy
	redact    string            // policy.redact_bytes; default: the gateway's
	approvals string            // members of policy.approvals
}

func start(t *testing.T, s setting) *world {
	t.Helper()
	// Not t.TempDir: the path of a socket has 107 bytes at most.
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if s.endpoints == "" {
		s.endpoints = "\n  - { name: mcp, path: /mcp, per_server: true }"
	}
	if s.policy == nil {
		s.policy = map[string]string{"policy.rego": policy}
	}
	if s.redact != "" {
		s.redact = ", redact_bytes: " + s.redact
	}
	config := fmt.Sprintf(`
listeners:
  - address: 127.0.0.1:0
%s
servers:
%s
endpoints:
%s
policy: { directory: policy, approvals: { %s }%s }
authentication:
  api_keys:
    - { id: reader, digest: %q, roles: [reader] }
    - { id: another, digest: %q, roles: [reader] }
    - { id: writer, digest: %q, roles: [writer] }
admin: { address: %q, operators: [{ id: olga, digest: %q, may: [approve] }, { id: ede, digest: %q, may: [explain] }] }
envoy:
  run_dir: %q
  drain_time: 5s
%s
%s
`, indent(s.listener), s.servers, s.endpoints, s.approvals, s.redact, digest(reader), digest(another), digest(writer),
		"unix:"+filepath.Join(dir, "admin.sock"), digest(operator), digest(explainer), filepath.Join(dir, "run"), s.envoy, s.rest)
	w := &world{Gateway: harness.StartGateway(t, config, s.policy), dir: filepath.Join(dir, "run")}
	w.Base = strings.TrimSuffix(w.URLs[0], "/mcp")
	t.Cleanup(func() { w.unharmed(t) }) // before the gateway's own end
	return w
}

func indent(s string) string { return "    " + strings.ReplaceAll(s, "\n", "\n    ") }

func digest(key string) string {
	sum := sha256.Sum256([]byte(key))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// stats reads Envoy's counters.
func (w *world) stats(t *testing.T, filter string) map[string]uint64 {
	t.Helper()
	admin := envoyproc.NewAdmin(filepath.Join(w.dir, "envoy.sock"))
	defer admin.Close()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	stats, err := admin.Stats(ctx, filter)
	if err != nil {
		t.Fatalf("reading Envoy's counters: %v", err)
	}
	return stats
}

// unharmed fails the test if Envoy counted what must never happen.
func (w *world) unharmed(t *testing.T) {
	t.Helper()
	select {
	case <-w.Ended():
		return // the test has ended it
	default:
	}
	const never = `(spurious_msgs_received|rejected_header_mutations|update_rejected|^cluster\.refuse\.upstream_cx_none_healthy)$`
	stats := w.stats(t, never)
	if len(stats) < 4 {
		t.Errorf("Envoy has not the counters that this test looks at: %v", stats)
	}
	for name, n := range stats {
		if n != 0 {
			t.Errorf("Envoy counts %s: %d", name, n)
		}
	}
}

// client returns a client of a revision; a legacy one has opened its session.
func (w *world) client(t *testing.T, path, key, revision string) *harness.Client {
	t.Helper()
	if revision == harness.R20260728 {
		return harness.NewModern(w.Base+path, key)
	}
	return harness.OpenLegacy(t, w.Base+path, key, revision)
}

// lists waits until an endpoint lists n tools to a writer.
func (w *world) lists(t *testing.T, path, revision string, n int) {
	t.Helper()
	c := w.client(t, path, writer, revision)
	harness.Eventually(t, 20*time.Second, fmt.Sprintf("%s lists %d tools", path, n), func() bool {
		return len(c.List(t, "tools/list")) >= n
	})
}

// each runs a test for each revision.
func each(t *testing.T, revisions []string, test func(t *testing.T, revision string)) {
	t.Helper()
	for _, r := range revisions {
		t.Run(r, func(t *testing.T) { test(t, r) })
	}
}

// refusal is an answer that says why not.
type refusal struct {
	status int
	code   int
	id     string // JSON text; "" is not looked at
	header string // "name: value", must be there
}

// refused checks an answer, and that it names nobody's address.
func refused(t *testing.T, got *harness.Reply, want refusal) harness.RPCError {
	t.Helper()
	response := got.Response(t)
	if response.Error == nil {
		t.Fatalf("status %d, want a refusal, got the result %.300s", got.Status, response.Result)
	}
	if got.Status != want.status || response.Error.Code != want.code {
		t.Errorf("got %d with code %d, want %d with %d: %s", got.Status, response.Error.Code, want.status, want.code, got.Body)
	}
	id := string(response.ID)
	if id == "" {
		id = "null" // encoding/json leaves a RawMessage of null as it is, an absent member empty
		if !strings.Contains(string(got.Body), `"id":null`) {
			t.Errorf("the answer has no id: %s", got.Body)
		}
	}
	if want.id != "" && id != want.id {
		t.Errorf("the answer's id is %s, want %s", id, want.id)
	}
	if name, value, ok := strings.Cut(want.header, ": "); ok && got.Header.Get(name) != value {
		t.Errorf("header %s is %q, want %q", name, got.Header.Get(name), value)
	}
	if got.Events == nil && got.Header.Get("Content-Type") != "application/json" {
		t.Errorf("a refusal of content type %q", got.Header.Get("Content-Type"))
	}
	return *response.Error
}

// object decodes JSON for a look at one member.
func object(t *testing.T, raw []byte) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%v: %.300s", err, raw)
	}
	return v
}

// http is the configuration of a server over HTTP; more holds further members, in YAML flow style.
func server(name, url, era string, more ...string) string {
	s := fmt.Sprintf("  - name: %s\n    era: %s\n    trust_annotations: true\n    http: { url: %q%s }\n", name, era, url, strings.Join(more, ""))
	return s
}

// command runs mcpgw to its end.
func command(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, harness.Mcpgw(t), args...)
	c.Env = append(os.Environ(), "ENVOY="+harness.Tools(t).Envoy)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("mcpgw %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}

// runMcpgw is command for what says the same wherever it says it.
func runMcpgw(t *testing.T, args ...string) (said string, status int) {
	t.Helper()
	stdout, stderr, status := command(t, args...)
	return stdout + stderr, status
}
