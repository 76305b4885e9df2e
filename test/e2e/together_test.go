package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/mcpgw/mcpgw/test/harness"
)

const together = `package mcpgw.policy

allow if count(input.subject.roles) > 0

ask contains "echo wants a human" if input.resource.name == "echo"

rewrite contains {"pattern": "^draft:", "with": "final:"} if input.resource.name == "echo"

redact contains {"pattern": "[0-9]{16}"} if input.resource.name == "echo"

label contains "spoken" if input.resource.name == "echo"

deny contains "whoever has spoken adds nothing" if {
	input.resource.name == "add"
	"spoken" in input.context.session.labels
}
`

// TestTogether: one ruling asks, rewrites, redacts and labels. Before the human's yes nothing of it has happened; with it all of it has.
func TestTogether(t *testing.T) {
	const card = "4111111111111111"
	call := echo("draft: pay with " + card)
	sum := map[string]any{"name": "add", "arguments": map[string]any{"a": 1, "b": 2}}
	for _, era := range []struct {
		name string
		era  harness.Era
	}{{"dual", harness.Dual}, {"modern", harness.Modern}} {
		b := harness.StartBackend(t, era.era, nil)
		w := start(t, setting{
			servers: server("s", b.URL, "auto"), policy: map[string]string{"policy.rego": together},
			redact: "1Mi, labels: { file: labels }", // without a file every caller counts as labelled
		})
		w.lists(t, "/mcp/s", harness.R20251125, 4)
		each(t, []string{harness.R20260728, harness.R20251125}, func(t *testing.T, revision string) {
			c := w.asker(t, "/mcp/s", reader, revision)
			try := func(answer any) harness.Response {
				t.Helper()
				if c.Modern() {
					var asked input
					c.Call(t, "tools/call", call).Result(t, &asked)
					b.Untouched(t)
					return c.Call(t, "tools/call", back(call, asked.RequestState, answer)).Response(t)
				}
				s := c.Stream(t, "5", "tools/call", call)
				var q question
				if err := json.Unmarshal(s.Until(t, "elicitation/create", soon), &q); err != nil {
					t.Fatal(err)
				}
				b.Untouched(t)
				c.Respond(t, string(q.ID), answer)
				var r harness.Response
				if err := json.Unmarshal(s.Until(t, "", soon), &r); err != nil {
					t.Fatal(err)
				}
				return r
			}
			b.Forget()
			if r := try(decline); r.Error == nil || r.Error.Code != 403 {
				t.Fatalf("declined, and got %s %+v", r.Result, r.Error)
			}
			b.Untouched(t)
			if got := c.Call(t, "tools/call", sum).Text(t); got != "3" {
				t.Fatalf("nothing was said, and add says %q", got)
			}
			b.Forget()
			r := try(accept)
			if text := string(r.Result); r.Error != nil || !strings.Contains(text, "final: pay with [redacted]") || strings.Contains(text, card) {
				t.Errorf("confirmed, and got %s %+v", text, r.Error)
			}
			sent := b.Requests("tools/call")
			if len(sent) != 1 || !strings.Contains(string(sent[0].Body), `"final: pay with `+card+`"`) || strings.Contains(string(sent[0].Body), "requestState") {
				t.Errorf("the server received %d: %s", len(sent), sent[0].Body)
			}
			b.Forget()
			if e := c.Call(t, "tools/call", sum).Failure(t); e.Code != -32602 { // no argument would help: the tool is hidden now
				t.Errorf("labelled, and add says %+v", e)
			}
			b.Untouched(t)
		})
	}
}
