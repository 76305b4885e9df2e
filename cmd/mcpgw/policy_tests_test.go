package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mcpgw/mcpgw/pkg/policytest"
)

// TestPolicyTestStatus: when the command fails, and what it says then.
func TestPolicyTestStatus(t *testing.T) {
	const allow = "package mcpgw.policy\n\nallow if \"reader\" in input.subject.roles\n\ndeny contains \"no\" if input.arguments.n == 1\n"
	const passes = "tests:\n- {who: reader, calls: s/t, expect: allow, annotations: {}}\n"
	const configuration = "listeners: [{address: 127.0.0.1:0}]\nservers: [{name: s, http: {url: http://127.0.0.1:1/}}]\nendpoints: [{name: mcp, path: /mcp}]\n" +
		"authentication: {api_keys: [{id: k, digest: \"sha256:f0699b2d67f32f4311be85e1a32622ba5a4ce8b1cadc0acf160f5c5f6ed666c4\"}]}\npolicy: {directory: policy, data_files: [grants.json], entry_point: team.ruling}\n"
	const team = "package team\n\nruling := {\"effect\": \"allow\"} if data.grants[input.resource.server][input.resource.name]\n"
	for name, tc := range map[string]struct {
		files map[string]string
		args  []string
		want  string // the error, or a part of the output where there is none
		fails bool
	}{
		"passes":            {files: map[string]string{"p/p.rego": allow, "p/p_test.yaml": passes}, args: []string{"p"}, want: "coverage: 50.0 % (1 of 2 rules)\n  not covered: p/p.rego:5 data.mcpgw.policy.deny\n1 passed in"},
		"names what it did": {files: map[string]string{"p/p.rego": allow, "p/p_test.yaml": passes}, args: []string{"p", "-v"}, want: "ok    p/p_test.yaml:2 reader calls s/t\n"},
		"at the threshold":  {files: map[string]string{"p/p.rego": allow, "p/p_test.yaml": passes}, args: []string{"p", "--threshold", "50"}, want: "1 passed"},
		"below it":          {files: map[string]string{"p/p.rego": allow, "p/p_test.yaml": passes}, args: []string{"p", "--threshold", "50.1"}, want: "50.0 % of the rules are covered, less than the threshold of 50.1 %", fails: true},
		"a failed test":     {files: map[string]string{"p/p.rego": allow, "p/p_test.rego": "package p_test\n\ntest_x if false\n"}, args: []string{"p"}, want: "1 of 1 tests did not pass", fails: true},
		"no tests":          {files: map[string]string{"p/p.rego": allow}, args: []string{"p"}, want: "there are no tests in p: write rules test_NAME", fails: true},
		"none that match":   {files: map[string]string{"p/p.rego": allow, "p/p_test.yaml": passes}, args: []string{"p", "--run", "writer"}, want: "no test of p matches --run writer", fails: true},
		"all are planned":   {files: map[string]string{"p/p.rego": allow, "p/p_test.rego": "package p_test\n\ntodo_test_x if false\n"}, args: []string{"p"}, want: "every test is skipped", fails: true},
		"no directory":      {args: []string{"p"}, want: "p: there is no such directory; mcpgw policy init p writes a first policy", fails: true},
		"nothing named":     {want: "policy: there is no such directory; mcpgw policy init", fails: true},
		"a file":            {files: map[string]string{"p/p.rego": allow}, args: []string{"p/p.rego"}, want: "name the directory of the policy, and its tests with --run", fails: true},
		"a bad expression":  {files: map[string]string{"p/p.rego": allow}, args: []string{"p", "--run", "("}, want: "--run: error parsing regexp", fails: true},
		"a bad form":        {args: []string{"p", "--output", "yaml"}, want: "--output yaml: want text, json or junit", fails: true},
		"a bad threshold":   {args: []string{"p", "--threshold", "101"}, want: "want a percentage from 0 to 100", fails: true},
		"two catalogs":      {args: []string{"p", "--no-catalog", "--live"}, want: "none of the others can be", fails: true},
		"a bad catalog":     {files: map[string]string{"p/p.rego": allow, "p/catalog.json": "{}}"}, args: []string{"p"}, want: "p/catalog.json: something follows the saved catalog", fails: true},
		"no such catalog":   {files: map[string]string{"p/p.rego": allow}, args: []string{"p", "--catalog", "c.json"}, want: "c.json: no such file", fails: true},
		"the one beside it": {
			files: map[string]string{"p/p.rego": allow, "p/p_test.yaml": "tests:\n- {who: reader, calls: s/t, expect: allow}\n", "p/catalog.json": `{"items": [{"server": "s", "type": "tool", "name": "t"}]}`},
			args:  []string{"p"}, want: "1 passed",
		},
		"what the configuration names": {
			files: map[string]string{"mcpgw.yaml": configuration, "grants.json": `{"grants": {"s": {"t": true}}}`, "policy/p.rego": team, "policy/p_test.yaml": passes + "- {who: reader, calls: s/u, expect: deny, annotations: {}}\n"},
			want:  "1 of 2 tests did not pass", fails: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			for file, text := range tc.files {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			out, err := execute(append([]string{"policy", "test"}, tc.args...)...)
			if name == "what the configuration names" { // its entry point says nothing of s/u, which is an error and no deny
				if !strings.Contains(out, "the policy gives no ruling") || !strings.Contains(out, "1 passed, 1 could not be run") {
					t.Errorf("output: %s", out)
				}
			}
			switch {
			case tc.fails && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("error %v, want %q\n%s", err, tc.want, out)
			case !tc.fails && (err != nil || !strings.Contains(out, tc.want)):
				t.Errorf("error %v, output %s\nwant %q", err, out, tc.want)
			}
		})
	}
}

// TestPolicyTestForms: the forms for machines are read back.
func TestPolicyTestForms(t *testing.T) {
	dir := filepath.Join("..", "..", "examples", "quickstart", "policy")
	out, err := execute("policy", "test", dir, "-o", "json")
	var r policytest.Report
	if err != nil || json.Unmarshal([]byte(out), &r) != nil || r.Passed < 20 || r.Coverage.Percent != 100 {
		t.Errorf("%v: %s", err, out)
	}
	out, err = execute("policy", "test", dir, "-o", "junit")
	var suites struct {
		Tests int `xml:"tests,attr"`
	}
	if err != nil || xml.Unmarshal([]byte(out), &suites) != nil || suites.Tests != r.Passed {
		t.Errorf("%v: %s", err, out)
	}
}

func execute(args ...string) (string, error) {
	c := root()
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetArgs(args)
	err := c.Execute()
	return out.String(), err
}

// TestPolicyCheckKnowsTests: tests that ask questions are checked like others, and a policy may not ask any.
func TestPolicyCheckKnowsTests(t *testing.T) {
	if out, err := execute("policy", "check", filepath.Join("..", "..", "examples", "quickstart", "policy")); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"p.rego":      "package mcpgw.policy\n\nallow if \"reader\" in input.subject.roles\n",
		"p_test.rego": "package p_test\n\nimport data.mcpgw.test as mcp\n\ntest_x if mcp.calls(\"reader\", \"s\", \"t\", {})\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := execute("policy", "check", dir); err == nil || !strings.Contains(out, "p_test.rego:5:") {
		t.Errorf("a misspelt helper: %v\n%s", err, out)
	}
}
