package chaos

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/test/harness"
)

// TestStdioChildMisbehaves: whatever a local process does, its call ends with an error in time, it is replaced where it cannot go on,
// nobody else notices, and memory stays bounded.
func TestStdioChildMisbehaves(t *testing.T) {
	b := harness.StartBackend(t, harness.Modern, nil)
	s := start(t, run, mainListener+servers(map[string]string{"a": b.URL})+stdioServer("child", ", timeouts: { call_idle: 1s }")+stdioServer("sibling", ""))
	s.await(t, "child_echo")
	s.await(t, "sibling_echo")
	s.await(t, "a_echo")
	http, sibling := startLoad(t, s.url, "a_echo"), startLoad(t, s.url, "sibling_echo")
	http.await(t, 20, "ok")
	before := memory(t, s.mcpgw.Pid())
	for _, client := range []*harness.Client{harness.NewModern(s.url, key), harness.OpenLegacy(t, s.url, key, harness.R20251125)} {
		for _, c := range []struct {
			tool, reason string
			replaced     bool
			within       time.Duration
		}{
			{"crash", "down", true, 5 * time.Second},
			{"long", "", true, 10 * time.Second},
			{"never", "timeout", false, 3 * time.Second},
			{"flood", "ok", false, 10 * time.Second},
		} {
			t.Run(client.Revision+" "+c.tool, func(t *testing.T) {
				pid := func() string { return client.Tool(t, "child_pid", map[string]any{"text": ""}).Text(t) }
				was := pid()
				began := time.Now()
				r := client.CallID(t, "9007199254740993", "tools/call", map[string]any{"name": "child_" + c.tool, "arguments": map[string]any{"text": "x"}})
				if took := time.Since(began); took > c.within {
					t.Errorf("the call ended after %v", took)
				}
				if c.reason == "ok" {
					r.Result(t, nil)
				} else {
					var data struct{ Server, Reason string }
					got := r.Response(t)
					if got.Error == nil || got.Error.Code != -32603 || string(got.ID) != "9007199254740993" || r.Status != 200 {
						t.Fatalf("status %d: %s", r.Status, r.Body)
					}
					if err := json.Unmarshal(got.Error.Data, &data); err != nil || data.Server != "child" || (c.reason != "" && data.Reason != c.reason) {
						t.Errorf("data %s, want the reason %q", got.Error.Data, c.reason)
					}
				}
				harness.Eventually(t, patience, "the server answers again", func() bool {
					return client.Tool(t, "child_echo", map[string]any{"text": "again"}).Response(t).Error == nil
				})
				if now := pid(); (now != was) != c.replaced {
					t.Errorf("process %s, before %s; want another: %v", now, was, c.replaced)
				}
			})
		}
	}
	for _, l := range []*load{http, sibling} {
		l.await(t, 20, "ok")
		l.stop()
		l.only(t, "ok", "denied")
	}
	if grown := memory(t, s.mcpgw.Pid()) - before; grown > 96<<10 {
		t.Errorf("mcpgw grew by %d KiB", grown)
	}
	if n := len(s.mcpgw.Stderr.String()); n > 4<<20 {
		t.Errorf("the log has %d bytes", n)
	}
	if n := len(children(s.mcpgw.Pid())); n != 3 {
		t.Errorf("%d children, want Envoy and two servers", n)
	}
}

// memory is the most memory that a process has had resident, in KiB.
func memory(t testing.TB, pid int) int {
	t.Helper()
	for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/status", pid))) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
