package opa

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/mcpgw/mcpgw/pkg/policy"
)

// TestObligations: what rules demand arrives whole and in order; what is not understood refuses.
func TestObligations(t *testing.T) {
	for name, tc := range map[string]struct{ rules, want, fault string }{
		"none": {rules: ``, want: `null`},
		"all": {
			rules: `rewrite contains {"path": "/n", "value": 9007199254740993}
rewrite contains {"path": "/old", "remove": true}
redact contains {"pattern": "[0-9]{16}"}
redact contains {"path": "/structuredContent/rows/*/ssn", "with": null}
label contains "b"
label contains "a"`,
			want: `{"Rewrite":[{"Path":"/n","Pattern":"","Value":"OTAwNzE5OTI1NDc0MDk5Mw==","With":""},{"Path":"/old","Pattern":"","Value":null,"With":""}],` +
				`"Redact":[{"Path":"","Pattern":"[0-9]{16}","Value":null,"With":"[redacted]"},{"Path":"/structuredContent/rows/*/ssn","Pattern":"","Value":"bnVsbA==","With":""}],` +
				`"Label":["a","b"]}`,
		},
		"two values for one place": {
			rules: `rewrite contains {"path": "/n", "value": 1}` + "\n" + `rewrite contains {"path": "/n", "value": 2}`, fault: "two rules rewrite /n",
		},
		"a part of what another replaces": {
			rules: `rewrite contains {"path": "/n", "value": 1}` + "\n" + `rewrite contains {"path": "/n/a", "value": 2}`, fault: "part of it",
		},
		"a broken pattern":        {rules: `redact contains {"pattern": "("}`, fault: "missing closing"},
		"no pointer":              {rules: `redact contains {"path": "a"}`, fault: "no JSON pointer"},
		"the whole document":      {rules: `redact contains {"path": ""}`, fault: "neither is empty"},
		"both":                    {rules: `redact contains {"path": "/a", "pattern": "b"}`, fault: "either a path or a pattern"},
		"unknown member":          {rules: `redact contains {"path": "/a", "mode": "hash"}`, fault: "not understood"},
		"nothing to put":          {rules: `rewrite contains {"path": "/a"}`, fault: "what to put there"},
		"a label that is no text": {rules: `label contains 7`, fault: "a label is a text"},
		"too many":                {rules: `label contains sprintf("l%d", [n]) if some n in numbers.range(1, 40)`, fault: "at most 32"},
	} {
		t.Run(name, func(t *testing.T) {
			e := load(t, "package mcpgw.policy\n\nallow := true\n\n"+tc.rules, "{}")
			for range 2 { // the second time from memory
				r := e.Decide(t.Context(), call(tool("x", ""), "{}"))
				if tc.fault != "" {
					if r.Effect != policy.Deny || r.Err == nil || !strings.Contains(r.Err.Error(), tc.fault) || r.Obligations != nil {
						t.Fatalf("got %+v, want a refusal for %q", r, tc.fault)
					}
					continue
				}
				got, err := json.Marshal(r.Obligations)
				if err != nil {
					t.Fatal(err)
				}
				if r.Effect != policy.Allow || string(got) != tc.want {
					t.Errorf("got %s %v %s\nwant %s", r.Effect, r.Err, got, tc.want)
				}
			}
		})
	}
}
