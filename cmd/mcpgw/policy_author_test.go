package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mcpgw/mcpgw/pkg/opa"
)

// runPolicy runs mcpgw policy with arguments, as main would.
func runPolicy(t *testing.T, args ...string) (out, complaint string, err error) {
	t.Helper()
	c := root()
	var stdout, stderr bytes.Buffer
	c.SetOut(&stdout)
	c.SetErr(&stderr)
	c.SetArgs(append([]string{"policy"}, args...))
	err = c.ExecuteContext(t.Context())
	return stdout.String(), stderr.String(), err
}

// folder makes a directory of files, goes there, and returns its name.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	return dir
}

func text(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// says fails unless an error, or the lack of one, is as wanted.
func says(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("error %v, want %q", err, want)
	}
}

// TestPolicyInit: the starter's tests pass, nothing is wrong with it, and it is laid out.
func TestPolicyInit(t *testing.T) {
	folder(t, nil)
	for _, args := range [][]string{nil, {"other/place"}} {
		dir := policyDir
		if args != nil {
			dir = args[0]
		}
		out, _, err := runPolicy(t, append([]string{"init"}, args...)...)
		says(t, err, "")
		for _, want := range []string{"wrote " + dir + "/policy.rego", "wrote " + dir + "/policy_test.rego", "wrote " + dir + "/data.yaml", "directory: " + dir} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is not in\n%s", want, out)
			}
		}
		modules, err := opa.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		data, err := opa.ReadFiles(filepath.Join(dir, "data.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		results, err := opa.RunTests(t.Context(), opa.TestOptions{Modules: modules, Data: data})
		if err != nil || len(results) < 5 {
			t.Fatalf("%d tests, %v", len(results), err)
		}
		for _, r := range results {
			if !r.Passed {
				t.Errorf("%s failed: %v", r.Name, r.Err)
			}
		}
		out, _, err = runPolicy(t, "check", dir)
		says(t, err, "")
		if out != "ok: 2 files; rulings are remembered\n" {
			t.Errorf("check says\n%s", out)
		}
		_, _, err = runPolicy(t, "fmt", "--check", dir)
		says(t, err, "")
	}
}

// TestPolicyInitOverwritesNothing, and adds no rules to others.
func TestPolicyInitOverwritesNothing(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"policy.rego": {"policy/policy.rego": "mine"}, "data.yaml": {"policy/data.yaml": "mine"}, "own.rego": {"policy/own.rego": "mine"},
	} {
		folder(t, files)
		_, _, err := runPolicy(t, "init")
		says(t, err, "policy holds "+name+" already")
		if have, err := os.ReadDir(policyDir); err != nil || len(have) != 1 || text(t, "policy/"+name) != "mine" {
			t.Errorf("%v, %v", have, err)
		}
	}
	folder(t, map[string]string{"policy": "a file"})
	_, _, err := runPolicy(t, "init")
	says(t, err, "policy: not a directory")
	folder(t, nil)
	if err := os.MkdirAll("policy", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere", "policy/data.yaml"); err != nil {
		t.Fatal(err)
	}
	_, _, err = runPolicy(t, "init")
	says(t, err, "policy holds data.yaml already")
}

const goodPolicy = "package mcpgw.policy\n\nallow if input.subject.id == \"a\"\n"

// TestPolicyCheck: what is told of every kind of directory, good or bad.
func TestPolicyCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		args  []string
		out   []string // lines, how each begins
		err   string
	}{
		"good":            {files: map[string]string{"policy/a.rego": goodPolicy}, out: []string{"ok: 1 files; rulings are remembered"}},
		"one file":        {files: map[string]string{"policy/a.rego": goodPolicy, "policy/b.rego": "x"}, args: []string{"policy/a.rego"}, out: []string{"ok: 1 files"}},
		"missing":         {err: "policy: there is no such directory; mcpgw policy init policy writes a first policy"},
		"missing, named":  {args: []string{"p"}, err: "mcpgw policy init p"},
		"empty":           {files: map[string]string{"policy/README": ""}, err: "policy: policy: holds no .rego file"},
		"two directories": {args: []string{"a", "b"}, err: "2 arguments, want at most 1: mcpgw policy check [DIR | FILE.rego]"},
		"other output":    {files: map[string]string{"policy/a.rego": goodPolicy}, args: []string{"-o", "yaml"}, err: "want text or json"},
		"entry point":     {files: map[string]string{"policy/a.rego": "package acme\n\nruling := {\"effect\": \"deny\"}\n"}, args: []string{"--entry-point", "acme.ruling"}, out: []string{"ok: 1 files"}},
		"no entry point":  {files: map[string]string{"policy/a.rego": goodPolicy}, args: []string{"--entry-point", "acme.ruling"}, out: []string{"fault: the entry point data.acme.ruling is no rule"}, err: "the policy has faults"},
		"own data":        {files: map[string]string{"policy/a.rego": goodPolicy, "policy/data.yaml": "mcpgw: {}"}, out: []string{"fault: policy/data.yaml: the name \"mcpgw\""}, err: "the policy has faults"},
		"data elsewhere":  {files: map[string]string{"policy/a.rego": goodPolicy, "d.json": "[]"}, args: []string{"--data", "d.json"}, out: []string{"fault: d.json:1:1: data must be one object"}, err: "the policy has faults"},
		"data missing":    {files: map[string]string{"policy/a.rego": goodPolicy}, args: []string{"--data", "d.json"}, err: "policy data: open d.json: no such file"},
		"a file of data":  {files: map[string]string{"policy/data.yaml": "a: 1\n"}, args: []string{"policy/data.yaml"}, err: "policy/data.yaml: is no .rego file; name the policy's directory"},
		"all that is wrong": {
			files: map[string]string{
				"policy/a.rego": "package mcpgw.policy\n\nalow if input.subject.id == \"a\"\n\nallow if data.mcpgw.lib.grants.grantd\n",
				"policy/b.rego": "package mcpgw.policy\n\ndeny contains \"x\" if data.mcpgw.policy.nothing\n",
			},
			out: []string{"fault: policy/a.rego:3:1: nothing reads the rule alow (is allow meant?)", "fault: policy/a.rego:5:32: there is no rule data.mcpgw.lib.grants.grantd", "fault: policy/b.rego:3:40: there is no rule data.mcpgw.policy.nothing"},
			err: "the policy has faults",
		},
		"fields and types": {
			files: map[string]string{"policy/a.rego": "package mcpgw.policy\n\nallow if input.subject.rolez\n\nallow if input.subject.id == 5\n"},
			out:   []string{"fault: policy/a.rego:3:10: undefined ref: input.subject.rolez", "fault: policy/a.rego:5:10: match error"},
			err:   "the policy has faults",
		},
		"an unguarded argument": {
			files: map[string]string{"policy/a.rego": goodPolicy + "\ndeny contains \"x\" if input.arguments.n > 5\n"},
			out:   []string{"fault: policy/a.rego:5:22: this deny lets a call pass that has no input.arguments.n"},
			err:   "the policy has faults",
		},
		"only warnings": {
			files: map[string]string{"policy/a.rego": "package mcpgw.policy\n\nallow if input.subject.type == \"usr\"\n\nallow if count(input) > 5\n"},
			out:   []string{"warning: policy/a.rego:3:10: input.subject.type is never \"usr\"", "warning: policy/a.rego:5:1: rule allow reads the question as a whole", "ok: 1 files; no ruling is remembered, because rules read input."},
		},
		"syntax errors in several": {
			files: map[string]string{"policy/a.rego": "package mcpgw.policy\n\nallow if {\n", "policy/b.rego": "package b\n\nx { true }\n", "policy/c_test.rego": "pakage c\n"},
			out:   []string{"fault: policy/a.rego:4:0: unexpected eof", "fault: policy/b.rego:3:1: `if` keyword is required", "fault: policy/c_test.rego:1:"},
			err:   "the policy has faults",
		},
		"no text":           {files: map[string]string{"policy/a.rego": "\x7fELF\x02\x01\x01\x00\xff\xfe\x00"}, out: []string{"fault: policy/a.rego:1:"}, err: "the policy has faults"},
		"an empty file":     {files: map[string]string{"policy/a.rego": goodPolicy, "policy/b.rego": "# nothing\n"}, out: []string{"fault: policy/b.rego: empty module"}, err: "the policy has faults"},
		"deep":              {files: map[string]string{"policy/a.rego": "package a\n\nx := " + strings.Repeat("[", 1<<20)}, out: []string{"fault: policy/a.rego:3:"}, err: "the policy has faults"},
		"another's package": {files: map[string]string{"policy/a.rego": "package mcpgw.lib.grants\n\ngranted := true\n"}, out: []string{"fault: policy/a.rego:1:1: package mcpgw.lib.grants is the gateway's own"}, err: "the policy has faults"},
		"writing on the terminal": {
			files: map[string]string{"policy/\x1b[2J.rego": "package mcpgw.policy\n\nallow if input.subject[\"\\u001b[2J\"]\n"},
			out:   []string{"fault: policy/\uFFFD[2J.rego:3:10: undefined ref: "},
			err:   "the policy has faults",
		},
	} {
		t.Run(name, func(t *testing.T) {
			folder(t, tc.files)
			out, _, err := runPolicy(t, append([]string{"check"}, tc.args...)...)
			says(t, err, tc.err)
			var lines []string
			if out != "" {
				lines = strings.Split(strings.TrimSuffix(out, "\n"), "\n")
			}
			if len(lines) < len(tc.out) || len(tc.out) == 0 && out != "" {
				t.Fatalf("got\n%s\nwant\n%s", out, strings.Join(tc.out, "\n"))
			}
			for i, want := range tc.out {
				if !strings.HasPrefix(lines[i], want) {
					t.Errorf("got  %s\nwant %s", lines[i], want)
				}
			}
			if strings.ContainsRune(out, '\x1b') {
				t.Errorf("%q", out)
			}
		})
	}
}

// TestPolicyCheckOddFiles: nothing is waited for, and what is too large is refused before it is parsed.
func TestPolicyCheckOddFiles(t *testing.T) {
	folder(t, map[string]string{"policy/a.rego": goodPolicy})
	if err := syscall.Mkfifo("policy/pipe.rego", 0o644); err != nil {
		t.Fatal(err)
	}
	_, _, err := runPolicy(t, "check")
	says(t, err, "policy/pipe.rego: is no regular file")

	folder(t, map[string]string{"policy/a.rego": goodPolicy})
	if err := os.Truncate("policy/a.rego", 65<<20); err != nil {
		t.Fatal(err)
	}
	_, _, err = runPolicy(t, "check")
	says(t, err, "policy: holds more than 8 MiB of Rego")
	_, _, err = runPolicy(t, "check", "policy/a.rego")
	says(t, err, "policy/a.rego: larger than 64 MiB")

	folder(t, map[string]string{"real/a.rego": goodPolicy})
	if err := os.Symlink("real", "policy"); err != nil {
		t.Fatal(err)
	}
	out, _, err := runPolicy(t, "check")
	says(t, err, "")
	if !strings.HasPrefix(out, "ok: 1 files") {
		t.Errorf("a link to a directory: %s", out)
	}
}

const checkedConfig = `listeners: [{address: "127.0.0.1:8080", anonymous: {roles: [local]}}]
servers: [{name: docs, http: {url: "https://mcp.example.org/mcp"}%s}]
policy: {directory: rules, data_files: [more.yaml], entry_point: mcpgw.main.ruling}
`

// TestPolicyCheckConfig: directory, data and entry point are the configuration's, and it knows whether annotations can count.
func TestPolicyCheckConfig(t *testing.T) {
	const reads = "package mcpgw.policy\n\nallow if input.resource.annotations.readOnlyHint == true\n"
	for trust, want := range map[string]string{"": "warning: ", ", trust_annotations: true": "ok: "} {
		folder(t, map[string]string{"etc/m.yaml": fmt.Sprintf(checkedConfig, trust), "etc/rules/a.rego": reads, "etc/more.yaml": "a: 1\n"})
		out, _, err := runPolicy(t, "check", "--config", "etc/m.yaml")
		says(t, err, "")
		if !strings.HasPrefix(out, want) {
			t.Errorf("%q: %s", trust, out)
		}
	}
	folder(t, map[string]string{"m.yaml": fmt.Sprintf(checkedConfig, ""), "rules/a.rego": reads, "more.yaml": "[]\n"})
	out, _, err := runPolicy(t, "check", "--config", "m.yaml")
	says(t, err, "the policy has faults")
	if !strings.Contains(out, "more.yaml:1:1: data must be one object") {
		t.Error(out)
	}
	_, _, err = runPolicy(t, "check", "--config", "none.yaml")
	says(t, err, "none.yaml")

	// Data that the gateway would not read: only where its own directory is checked.
	folder(t, map[string]string{"m.yaml": fmt.Sprintf(checkedConfig, ", trust_annotations: true"), "rules/a.rego": reads, "rules/data.yaml": "b: 1\n", "more.yaml": "a: 1\n"})
	for _, args := range [][]string{{"check", "--config", "m.yaml"}, {"check", "--config", "m.yaml", "rules"}, {"check", "rules"}} {
		out, _, err := runPolicy(t, args...)
		says(t, err, "")
		if strings.Contains(out, "m.yaml:3:21: policy.directory: data.yaml lies in it, and no rule sees it") != (len(args) == 3) {
			t.Errorf("%s: %s", args, out)
		}
	}
	// A bundle's gateway is not known.
	if out, _, err := runPolicy(t, "bundle", "rules", "-o", "b.tar.gz"); err != nil || strings.Contains(out, "annotations") {
		t.Errorf("%v: %s", err, out)
	}

	// Without a word mcpgw.yaml is read; a directory that is named is another one.
	folder(t, map[string]string{"mcpgw.yaml": fmt.Sprintf(checkedConfig, ""), "rules/a.rego": reads, "rules/b.rego": "package b\n\nx := 1\n", "more.yaml": "a: 1\n", "policy/a.rego": reads})
	for args, want := range map[string]string{"": "ok: 2 files", "policy": "ok: 1 files"} {
		out, _, err := runPolicy(t, append([]string{"check"}, strings.Fields(args)...)...)
		says(t, err, "")
		if !strings.Contains(out, want) {
			t.Errorf("%q: %s", args, out)
		}
	}
}

// TestSameSource: check, test and replay read the same data of the same directory, so that what a test shows is what a check has looked at
// and what replay asks.
func TestSameSource(t *testing.T) {
	const grants = "package mcpgw.policy\n\nimport data.mcpgw.lib.grants\n\nallow if grants.granted\n"
	const table = "tests:\n- {who: reader, calls: git/git_log, expect: allow, annotations: {}}\n"
	const data = "grants: {git: {git_log: [reader]}}\n"
	files := map[string]string{
		"own/p.rego": grants, "own/p_test.yaml": table, "own/data.yaml": data,
		"bare/p.rego": grants, "bare/p_test.yaml": table, "policy/p.rego": grants, "policy/p_test.yaml": table, "policy/data.yml": data,
		"bad/p.rego": grants, "bad/p_test.yaml": table, "bad/data.json": "[]",
		"rules/p.rego": grants, "more.yaml": data, "m.yaml": fmt.Sprintf(checkedConfig, ""), "log": loggedAllow,
	}
	folder(t, files)
	const granted, refused, faulty = "granted", "refused", "faulty"
	for _, tc := range []struct{ args, want string }{
		{"own", granted},
		{"bare", refused},
		{"bare --data more.yaml", granted},
		{"own --data log", faulty}, // JSON, but no data that grants would fit to
		{"bad", faulty},
		{"", granted},                       // ./policy
		{"bare --config m.yaml", granted},   // its data
		{"own --config m.yaml", granted},    // own/data.yaml is not read, or grants would stand in two files
		{"own --entry-point mcpgw", faulty}, // no rule
	} {
		args := strings.Fields(tc.args)
		if out, _, err := runPolicy(t, append([]string{"test"}, args...)...); (err == nil) != (tc.want == granted) {
			t.Errorf("test %s: %v\n%s", tc.args, err, out)
		}
		if tc.args != "own --data log" {
			if out, _, err := runPolicy(t, append([]string{"check"}, args...)...); (err == nil) != (tc.want != faulty) {
				t.Errorf("check %s: %v\n%s", tc.args, err, out)
			}
		}
		if len(args) == 0 || strings.Contains(tc.args, "--config") {
			continue
		}
		if out, _, err := runPolicy(t, append([]string{"replay", "--log", "log", "--policy"}, args...)...); (err == nil) != (tc.want == granted) {
			t.Errorf("replay %s: %v\n%s", tc.args, err, out)
		}
	}
}

// loggedAllow is a decision log of one entry, in the form of an array.
const loggedAllow = `[{"decision_id": "VTGD5OCGDM5H523F7YWDP3UWRF", "path": "mcpgw/main/ruling", "timestamp": "2026-01-01T12:00:00Z",
"input": {"subject": {"type": "user", "id": "reader", "issuer": "mcpgw:key", "client": "", "tenant": "", "roles": ["reader"],
"scopes": [], "claims": {}}, "action": {"name": "tools/call"}, "resource": {"type": "tool", "id": "git/git_log", "server": "git",
"name": "git_log", "title": "", "annotations": {}, "claimed": {}, "tags": [], "digest": "d", "drift": "", "findings": []},
"arguments": {"repo_path": "."}, "context": {"endpoint": "mcp", "era": "modern", "revision": "2026-07-28",
"session": {"labels": [], "lost": false}, "client_address": "127.0.0.1", "request_id": "r", "round": 0, "time": "2026-01-01T12:00:00Z"}},
"result": {"effect": "allow", "reasons": []}}]`

// TestReplayOfSignedBundle: the key is named as bundle verify names it, scope and all.
func TestReplayOfSignedBundle(t *testing.T) {
	folder(t, map[string]string{
		"p/p.rego": goodPolicy, "log": loggedAllow, "secret": strings.Repeat("k", 32),
	})
	build := []string{"bundle", "p", "-o", "b.tar.gz", "--signing-key", "secret", "--signing-alg", "HS256", "--scope", "live"}
	if out, _, err := runPolicy(t, build...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for args, want := range map[string]string{
		"--key secret --alg HS256 --scope live": "",
		"--key secret --alg HS256":              "scope mismatch",
		"--key secret --alg HS1 --scope live":   `there is no algorithm "HS1"`,
		"--scope live":                          "--alg, --key-id and --scope need a --key",
		"":                                      "the bundle is signed: name the public key with --key",
	} {
		for _, command := range [][]string{{"bundle", "verify", "b.tar.gz"}, {"replay", "--log", "log", "--budget", "1", "--bundle", "b.tar.gz"}} {
			_, _, err := runPolicy(t, append(command, strings.Fields(args)...)...)
			says(t, err, want)
		}
	}
	_, _, err := runPolicy(t, "replay", "--log", "log", "--policy", "p", "--key", "secret")
	says(t, err, "none of the others can be")
	_, _, err = runPolicy(t, "replay", "--log", "none", "--policy", "p")
	says(t, err, "none: there is no such file or directory")
	for _, args := range [][]string{{"bundle", "p", "-o", "p"}, {"bundle", "verify", "p"}} {
		_, _, err = runPolicy(t, args...)
		says(t, err, "p is a directory; name ")
	}
}

func TestPolicyCheckJSON(t *testing.T) {
	folder(t, map[string]string{"policy/a.rego": "package mcpgw.policy\n\nallow if input.action.name == \"tools\"\n\ndeny contains \"x\" if input.arguments.n > 5\n"})
	out, _, err := runPolicy(t, "check", "--output", "json")
	says(t, err, "the policy has faults")
	var got policyReport
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(got.Faults) != 1 || len(got.Warnings) != 1 || got.Modules != 1 || got.Revision == "" || got.Unremembered == nil {
		t.Fatalf("%+v", got)
	}
	if f := got.Faults[0]; f.File != "policy/a.rego" || f.Line != 5 || f.Column != 22 || f.Message == "" || f.Remedy == "" {
		t.Errorf("%+v", f)
	}
	if w := got.Warnings[0]; w.Kind != "outside-enum" || w.Line != 3 {
		t.Errorf("%+v", w)
	}
}

const (
	ugly   = "package mcpgw.policy\n# why\nallow if {input.subject.id==\"a\"\n input.subject.issuer\n}\n"
	pretty = "package mcpgw.policy\n\n# why\nallow if {\n\tinput.subject.id == \"a\"\n\tinput.subject.issuer\n}\n"
)

func TestPolicyFmt(t *testing.T) {
	files := map[string]string{"policy/ugly.rego": ugly, "policy/sub/pretty.rego": pretty, "elsewhere.txt": ugly}
	for name, tc := range map[string]struct {
		args []string
		out  string
		err  string
	}{
		"list":     {[]string{"--list"}, "policy/ugly.rego\n", ""},
		"check":    {[]string{"--check"}, "policy/ugly.rego\n", "1 of 2 files are not formatted"},
		"diff":     {[]string{"--diff", "policy/ugly.rego"}, "--- policy/ugly.rego\n+++ policy/ugly.rego (formatted)\n@@ -1,5 +1,7 @@\n package mcpgw.policy\n+\n # why\n-allow if {input.subject.id==\"a\"\n- input.subject.issuer\n+allow if {\n+\tinput.subject.id == \"a\"\n+\tinput.subject.issuer\n }\n", "1 of 1 files are not formatted"},
		"none":     {[]string{"--check", "--diff", "policy/sub"}, "", ""},
		"missing":  {[]string{"nowhere"}, "", "no such file"},
		"any name": {[]string{"--list", "elsewhere.txt"}, "elsewhere.txt\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			folder(t, files)
			out, _, err := runPolicy(t, append([]string{"fmt"}, tc.args...)...)
			says(t, err, tc.err)
			if out != tc.out {
				t.Errorf("got\n%s\nwant\n%s", out, tc.out)
			}
			for file, want := range files {
				if text(t, file) != want {
					t.Errorf("%s was changed", file)
				}
			}
		})
	}
}

// TestPolicyFmtWrites: modes and links stay, what cannot be read stays and is told, and the rest is written all the same.
func TestPolicyFmtWrites(t *testing.T) {
	folder(t, map[string]string{"policy/a.rego": ugly, "policy/broken.rego": "package x\n\nallow {\n", "other/b.rego": ugly})
	if err := os.Chmod("policy/a.rego", 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../other/b.rego", "policy/b.rego"); err != nil {
		t.Fatal(err)
	}
	out, complaint, err := runPolicy(t, "fmt")
	says(t, err, "some files cannot be formatted")
	if out != "" || !strings.HasPrefix(complaint, "fault: policy/broken.rego:4:0: ") {
		t.Errorf("%q, %q", out, complaint)
	}
	if text(t, "policy/a.rego") != pretty || text(t, "other/b.rego") != pretty || text(t, "policy/broken.rego") != "package x\n\nallow {\n" {
		t.Error("what was written is not what was wanted")
	}
	if i, err := os.Stat("policy/a.rego"); err != nil || i.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", i.Mode(), err)
	}
	if i, err := os.Lstat("policy/b.rego"); err != nil || i.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link became %v, %v", i.Mode(), err)
	}
	if have, err := filepath.Glob("policy/.*"); err != nil || len(have) > 0 {
		t.Errorf("left behind: %v, %v", have, err)
	}
	if err := os.Remove("policy/broken.rego"); err != nil {
		t.Fatal(err)
	}
	_, _, err = runPolicy(t, "fmt", "--check")
	says(t, err, "")
}

// A difference turns one text into the other, whatever the two are.
func TestEdit(t *testing.T) {
	long := make([]string, 3000)
	for i := range long {
		long[i] = fmt.Sprint(i, "\n")
	}
	other := append([]string{"x\n"}, long[1:]...)
	other = append(other, "y\n")
	for _, pair := range [][2][]string{
		{nil, nil}, {{"a"}, nil}, {nil, {"a"}}, {{"a", "b", "c"}, {"a", "x", "c"}}, {{"a", "b"}, {"b", "a"}}, {{"a", "a", "b"}, {"a", "b", "b"}}, {long, other},
	} {
		var before, after []string
		for _, e := range edit(pair[0], pair[1]) {
			if e.kind != '+' {
				before = append(before, e.line)
			}
			if e.kind != '-' {
				after = append(after, e.line)
			}
		}
		if fmt.Sprint(before) != fmt.Sprint(pair[0]) || fmt.Sprint(after) != fmt.Sprint(pair[1]) {
			t.Errorf("%.80v to %.80v gives %.80v to %.80v", pair[0], pair[1], before, after)
		}
	}
}
