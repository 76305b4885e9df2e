package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/pkg/policy"
	"github.com/mcpgw/mcpgw/pkg/server"
)

// run is what a command line prints.
func run(t *testing.T, in string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c := root()
	c.SetArgs(args)
	c.SetIn(strings.NewReader(in))
	c.SetOut(&out)
	c.SetErr(&out)
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

const quickstart = "../../examples/quickstart/mcpgw.yaml"

func TestExplainText(t *testing.T) {
	out, err := run(t, `{"max_count": 51}`, "explain", "--offline", "--config", quickstart, "--as", "reader", "--server", "git", "tools/call", "git_log", "-")
	if err != nil {
		t.Fatal(err)
	}
	policyLine, rest, _ := strings.Cut(out, "  policy    ")
	_, rest, _ = strings.Cut(rest, "\n")
	got := policyLine + rest
	const want = `Refused: git_log shows readers 1 to 50 commits: max_count must be a number from 1 to 50

  caller    reader (user), roles reader
  call      tools/call of tool git/git_log, endpoint mcp at /mcp/git, modern client
  in lists  hidden from this caller, to whom a call says that it is unknown: no allow or ask rule can hold for this caller, whatever the arguments

Rules that held:
  ../../examples/quickstart/policy/quickstart.rego:29  deny contains "git_log shows readers 1 to 50 commits: max_count must be a number from 1 to 50"
      input.resource.name = "git_log"

Rules that did not hold, each with the condition that failed:
  ../../examples/quickstart/policy/quickstart.rego:6  writer: 0 of 1 condition held
      line 6: "writer" in input.subject.roles
      input.subject.roles = ["reader"]
  ../../examples/quickstart/policy/quickstart.rego:37  small_count: 2 of 3 conditions held
      line 40: input.arguments.max_count <= 50
      input.arguments.max_count = 51
  ../../examples/quickstart/policy/quickstart.rego:23  deny contains "only a writer changes the repository": 1 of 2 conditions held
      line 25: input.resource.name in {"git_add", "git_commit", "git_reset"}
      input.resource.name = "git_log"
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	out, err = run(t, "", "explain", "--offline", "--config", quickstart, "--as", "reader", "--server", "git", "--annotation", "readOnlyHint=true", "tools/call", "git_log", `{"max_count": 5}`, "--output", "json")
	var r server.ExplainReport
	if err != nil || json.Unmarshal([]byte(out), &r) != nil || r.Explanation.Effect != policy.Allow || !r.Explanation.Visible {
		t.Errorf("%v: %s", err, out)
	}
}

func TestExplainMistakes(t *testing.T) {
	offline := []string{"explain", "--offline", "--config", quickstart, "--as", "reader", "tools/call", "git_log"}
	offline = offline[:len(offline):len(offline)] // each append below is of its own
	for want, args := range map[string][]string{
		"who calls?":                                    {"explain", "tools/call", "git_log"},
		"what is called?":                               {"explain", "--as", "reader", "tools/call"},
		"a decision id is known to":                     {"explain", "--offline", "ABC"},
		"go with --offline":                             {"explain", "--as", "reader", "--server", "git", "tools/call", "git_log"},
		"--offline wants the item":                      offline,
		"name one of them":                              append(offline, "--server", "git", "--catalog", "x"),
		"no such file":                                  append(offline, "--catalog", "nowhere.json"),
		"no saved catalog":                              append(offline, "--catalog", quickstart),
		"--claim wants NAME=VALUE":                      append(offline, "--server", "git", "--claim", "hunter2"),
		"the arguments are no JSON":                     append(offline, `[1]`),
		"the configuration has no ser":                  append(offline, "--server", "gti"),
		"no gateway answers at":                         {"explain", "--admin", "127.0.0.1:1", "ABC"},
		"0 arguments, want 1 to 3: mcpgw explain {ID |": {"explain"},
	} {
		out, err := run(t, "", args...)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: got %v, want %s\n%s", args, err, want, out)
		}
	}
}

// TestExplainWords: what no call of the quick start comes to.
func TestExplainWords(t *testing.T) {
	for _, tc := range []struct {
		name   string
		report server.ExplainReport
		want   []string
	}{
		{
			"kept, and replaced",
			server.ExplainReport{
				ID: "ABC", At: time.Unix(0, 0).UTC(), Replaced: true, Ruled: &server.ExplainedRuling{Effect: policy.Ask, Reasons: []policy.Reason{{Rule: "ask", Message: "sure?"}}, Revision: "r1"},
				Caller: server.ExplainedCaller{ID: "ann", Type: "user", Scopes: []string{"a", "b"}, Tenant: "t", Client: "c"}, Note: "the arguments were not kept",
			},
			[]string{"A human is asked: sure?", "decision  ABC, 1970-01-01T00:00:00Z", "ann (user), scopes a b, tenant t, client c", "r1, which another has replaced since", "Note: the arguments were not kept."},
		},
		{
			"a policy that failed",
			server.ExplainReport{
				Before: "max_count must be of type integer",
				Explanation: &opa.Explanation{
					Effect: policy.Deny, Fault: &opa.Trouble{Message: "to_number cannot work on this value", File: "p.rego", Line: 3, Text: "to_number(x)", Values: []opa.ReadValue{{Name: "x", Value: `"a"`}}},
					Omitted: 1, Partial: "following the rules took too long",
				},
			},
			[]string{
				"Refused: the policy could not be evaluated", "refused before policy is asked: max_count must be of type integer.",
				"The policy could not rule, so the call is refused: to_number cannot work on this value", "p.rego:3  to_number(x)", `x = "a"`, "1 more rule was far", "Rules may be missing: following",
			},
		},
		{
			"obligations",
			server.ExplainReport{Explanation: &opa.Explanation{
				Effect: policy.Allow, Visible: true, Obligations: []string{"label secret", "redact /a"},
				Fired: []opa.Rule{{Place: opa.Place{File: "p.rego", Line: 1, Name: "deny", Text: "deny contains msg if"}, Message: "made at run time"}},
				Near:  []opa.NearMiss{{Distant: true}, {Distant: true}},
			}},
			[]string{"Allowed.\n", "with it   label secret, redact /a", "deny contains msg\n      message: made at run time", "2 more rules were far"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var b bytes.Buffer
			if err := printExplanation(&b, &tc.report); err != nil {
				t.Fatal(err)
			}
			for _, want := range tc.want {
				if !strings.Contains(b.String(), want) {
					t.Errorf("there is no %q in\n%s", want, b.String())
				}
			}
			if err := printExplanation(broken{}, &tc.report); err == nil {
				t.Error("an output that fails goes unnoticed")
			}
		})
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken") }
