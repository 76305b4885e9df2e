package opa

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Every mistake of an author or operator, and what it is told. Faults come all at once.
func TestFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		module string
		data   []string
		entry  string
		want   []string // one a fault, in order: what its text begins with and, after " … ", what is in it
	}{
		"unknown field": {
			module: "package mcpgw.policy\n\nallow if \"reader\" in input.subject.rolez\n",
			want:   []string{"policy.rego:3:22: undefined ref: input.subject.rolez … there are: claims, client, id, issuer, roles"},
		},
		"all at once": {
			module: "package mcpgw.policy\n\nallow if input.subject.rolez\n\nallow if input.action.nme == \"x\"\n\ndeny contains \"a\" if not input.context.sessions\n",
			want:   []string{"policy.rego:3:10: undefined ref: input.subject.rolez", "policy.rego:5:10: undefined ref: input.action.nme … there are: name", "policy.rego:7:26: undefined ref: input.context.sessions"},
		},
		"there is no phase": {
			module: "package mcpgw.policy\n\nallow if input.phase == \"list\"\n",
			want:   []string{"policy.rego:3:10: undefined ref: input.phase"},
		},
		"wrong type": {
			module: "package mcpgw.policy\n\nallow if input.subject.id == 5\n",
			want:   []string{"policy.rego:3:10: match error"},
		},
		"syntax": {
			module: "package mcpgw.policy\n\nallow if {\n",
			want:   []string{"policy.rego:4:"},
		},
		"old syntax": {
			module: "package mcpgw.policy\n\nallow { true }\n",
			want:   []string{"policy.rego:3:1: `if` keyword is required before rule body"},
		},
		"unused import": {
			module: "package mcpgw.policy\n\nimport data.mcpgw.lib.grants\n\nallow := true\n",
			want:   []string{"policy.rego:3:1: import data.mcpgw.lib.grants unused"},
		},
		"misspelt rule": {
			module: "package mcpgw.policy\n\nalow if input.action.name == \"tools/call\"\n\ndneies contains \"a\" if true\n\ndenny contains \"a\" if true\n\nhelper if true\n",
			want:   []string{"policy.rego:3:1: nothing reads the rule alow (is allow meant?)", "policy.rego:7:1: nothing reads the rule denny (is deny meant?)"},
		},
		"undefined reference": {
			module: "package mcpgw.policy\n\nallow if data.mcpgw.policy.helper\n\nallow if data.mcpgw.lib.grants.grantd\n",
			want:   []string{"policy.rego:3:28: there is no rule data.mcpgw.policy.helper … there are: allow", "policy.rego:5:32: there is no rule data.mcpgw.lib.grants.grantd (there are: granted)"},
		},
		"package of the gateway": {
			module: "package mcpgw.main\n\nany_deny if false\n",
			want:   []string{"policy.rego:1:1: package mcpgw.main is the gateway's own"},
		},
		"misspelt package": {
			module: "package mcpgw.polcy\n\nallow := true\n",
			want:   []string{"policy.rego:1:1: package mcpgw.polcy is the gateway's own … mcpgw.policy"},
		},
		"deny as a value": {
			module: "package mcpgw.policy\n\ndeny if true\n\nlimit := 5\n",
			want:   []string{"policy.rego:3:1: deny is a set of messages", "policy.rego:5:1: limit is a set of messages"},
		},
		"allow as a set": {
			module: "package mcpgw.policy\n\nallow contains \"a\" if true\n",
			want:   []string{"policy.rego:3:1: allow is true or false"},
		},
		"allow as text": {
			module: "package mcpgw.policy\n\nallow := \"yes\"\n",
			want:   []string{"shipped/mcpgw/main.rego:19:2: match error (in package mcpgw.policy allow is true or false"},
		},
		"entry point": {
			module: "package mcpgw.policy\n\nallow := true\n", entry: "acme/ruling",
			want: []string{"the entry point data.acme.ruling is no rule"},
		},
		"entry point that is none": {
			module: "package mcpgw.policy\n\nallow := true\n", entry: "data.acme[x]",
			want: []string{"the entry point data.acme[x] is no reference to a rule"},
		},
		"recursion": {
			module: "package mcpgw.policy\n\nallow if not data.mcpgw.main.any_deny\n\ndeny contains \"a\" if not allow\n",
			want:   []string{"policy.rego:3:1: rule data.mcpgw.policy.allow is recursive", "policy.rego:5:1: rule data.mcpgw.policy.deny is recursive", "shipped/"},
		},
		"data twice": {
			data: []string{"a: {b: 1, c: 2}", "a: {b: 2, d: 3}"},
			want: []string{"data1.yaml: data.a.b stands in data0.yaml as well"},
		},
		"data at the rules' place": {
			data: []string{"mcpgw: {policy: {allow: true}}"},
			want: []string{"data0.yaml: the name \"mcpgw\" at the top belongs to rules"},
		},
		"data that is no object": {data: []string{"- a"}, want: []string{"data0.yaml:1:1: data must be one object"}},
		"data key twice":         {data: []string{"a: 1\nb: 2\na: 3\n"}, want: []string{"data0.yaml:3:1: the key \"a\" stands there twice"}},
		"data key no text":       {data: []string{"a:\n  5: x\n"}, want: []string{"data0.yaml:2:3: the key 5 is no text"}},
		"data number":            {data: []string{"a: 0x10\n"}, want: []string{"data0.yaml:1:4: 0x10 is no number as JSON writes it"}},
		"data date":              {data: []string{"a: 2026-01-01\n"}, want: []string{"data0.yaml:1:4: a value of type !!timestamp has no JSON form"}},
		"data of two documents":  {data: []string{"a: 1\n---\nb: 2\n"}, want: []string{"data0.yaml: more than one YAML document"}},
		"data that is no YAML":   {data: []string{"a: [1\n"}, want: []string{"data0.yaml: yaml: "}},
		"data that explodes": {
			data: []string{"a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f,*f]\n"},
			want: []string{"data0.yaml:1: … aliases unfold to too much"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			opts := Options{Entrypoint: tc.entry}
			if tc.module != "" {
				opts.Modules = []File{{"policy.rego", []byte(tc.module)}}
			}
			for i, d := range tc.data {
				opts.Data = append(opts.Data, File{"data" + string(rune('0'+i)) + ".yaml", []byte(d)})
			}
			_, err := Load(opts)
			var faults Faults
			if !errors.As(err, &faults) {
				t.Fatalf("Load: %v", err)
			}
			for i, want := range tc.want {
				begin, within, _ := strings.Cut(want, " … ")
				if i >= len(faults) {
					t.Errorf("missing: %s", want)
				} else if got := faults[i].String(); !strings.HasPrefix(got, begin) || !strings.Contains(got, within) {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			}
			if len(faults) > len(tc.want) && name != "recursion" {
				t.Errorf("more than wanted: %v", faults[len(tc.want):])
			}
		})
	}
}

func TestJSONDataFaults(t *testing.T) {
	for text, want := range map[string]string{
		"{\"a\": 1,\n \"a\": 2}": "d.json:2:",
		"{\"a\": 1e400}":         "d.json:1:12: a number has too large an exponent",
		"{\"a\": 1} x":           "d.json:1:",
		"[1]":                    "d.json:1:1: data must be one object",
		"{\"a\": ":               "d.json:1:",
	} {
		_, err := Load(Options{Data: []File{{"d.json", []byte(text)}}})
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// A name that something reads is a helper, however close it is to a known one; so is a test.
func TestCloseNamesThatAreMeant(t *testing.T) {
	load(t, "package mcpgw.policy\n\nallow if allowed\n\nallowed if input.action.name in masks\n\nmasks := {\"a\"}\n")
	for name, want := range map[string]string{
		"alow": "allow", "Allow": "allow", "allwo": "allow", "allows": "allow", "dney": "deny", "denny": "deny", "aks": "ask",
		"redct": "redact", "labels": "label", "require_scopes": "require_scope",
		"allow": "", "helper": "", "fallow_ground": "", "git": "", "small_count": "",
	} {
		if got := nearest(name); got != want {
			t.Errorf("nearest(%s) = %q, want %q", name, got, want)
		}
	}
}

func TestWarnings(t *testing.T) {
	for name, tc := range map[string]struct {
		module string
		want   []string
	}{
		"none": {
			"package mcpgw.policy\nallow if input.subject.id == \"a\"\ndeny contains \"x\" if not small\nsmall if {\n\tis_number(input.arguments.n)\n\tinput.arguments.n < 5\n}\n", nil,
		},
		"whole": {
			"package mcpgw.policy\nallow if {\n\tx := input\n\tcount(x) > 5\n}\nallow if count(input) > 5\n",
			[]string{"1 policy.rego:2:1: rule allow reads the question as a whole, so that no ruling can be remembered (name the fields)", "1 policy.rego:6:1: "},
		},
		"annotations": {
			"package mcpgw.policy\nallow if input.resource.annotations.readOnlyHint\n",
			[]string{"2 policy.rego:2:1: rule allow reads input.resource.annotations"},
		},
		"no allow": {
			"package mcpgw.policy\ndeny contains \"x\" if input.subject.id == \"a\"\n",
			[]string{"4 package mcpgw.policy has no allow rule: every call is refused"},
		},
		"unguarded comparison": {
			"package mcpgw.policy\nallow := true\ndeny contains \"x\" if input.arguments.n > 5\n",
			[]string{"3 policy.rego:3:22: this deny lets a call pass that has no input.arguments.n"},
		},
		"unguarded through a local": {
			"package mcpgw.policy\nallow := true\ndeny contains \"x\" if {\n\tn := input.arguments.n\n\tn > 5\n}\n",
			[]string{"3 policy.rego:5:2: this deny lets a call pass that has no input.arguments.n"},
		},
		"unguarded built-in": {
			"package mcpgw.policy\nallow := true\ndeny contains \"x\" if startswith(input.arguments.path, \"/etc\")\n",
			[]string{"3 policy.rego:3:22: this deny lets a call pass that has no input.arguments.path"},
		},
		"a denied call is no guard": {
			"package mcpgw.policy\nimport data.mcpgw.lib.arguments\nallow := true\ndeny contains \"x\" if not arguments.number_between(input.arguments.n, 1, 5)\n",
			[]string{"3 policy.rego:4:"},
		},
		"equality needs none": {
			"package mcpgw.policy\nallow := true\ndeny contains \"x\" if input.arguments.branch == \"main\"\n", nil,
		},
		"there but of any type": {
			"package mcpgw.policy\nallow := true\ndeny contains \"x\" if input.arguments.n > 5\ndeny contains \"y\" if not input.arguments.n\n",
			[]string{"3 policy.rego:3:22: this deny lets a call pass whose input.arguments.n is of a type it does not expect"},
		},
		"there and of its type": {
			"package mcpgw.policy\nallow := true\ndeny contains \"x\" if input.arguments.n > 5\ndeny contains \"y\" if not input.arguments.n\ndeny contains \"z\" if not is_number(input.arguments.n)\n", nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, w := range load(t, tc.module).Warnings() {
				got = append(got, string(rune('0'+w.Kind))+" "+w.String())
			}
			if !slices.EqualFunc(got, tc.want, strings.HasPrefix) {
				t.Errorf("got %q\nwant %q", got, tc.want)
			}
		})
	}
}

func TestReadDir(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.rego":            "package mcpgw.policy\n\nallow := data.limits.most == 5",
		"a_test.rego":       "package mcpgw.policy_test\n\nimport data.mcpgw.policy\n\ntest_allow if policy.allow\n\ntest_wrong if not policy.allow\n",
		"sub/b.rego":        "package acme\n\nx := 1",
		"..data/a.rego":     "package mcpgw.policy\n\nallow := false",
		".hidden.rego":      "nonsense",
		"README.md":         "nonsense",
		"data/limits.json":  `{"limits": {"most": 5}}`,
		"data/others.yaml":  "limits:\n  least: 1\n",
		"data/nothing.yaml": "# nothing\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	modules, err := ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range modules {
		names = append(names, strings.TrimPrefix(f.Name, dir+"/"))
	}
	if want := []string{"a.rego", "a_test.rego", "sub/b.rego"}; !slices.Equal(names, want) {
		t.Fatalf("ReadDir = %v, want %v", names, want)
	}
	data, err := ReadFiles(filepath.Join(dir, "data/limits.json"), filepath.Join(dir, "data/others.yaml"), filepath.Join(dir, "data/nothing.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	e, err := Load(Options{Modules: modules, Data: data})
	if err != nil {
		t.Fatal(err)
	}
	if r := e.Decide(t.Context(), call(tool("x", ""), "")); r.Effect != "allow" {
		t.Errorf("%+v", r)
	}
	results, err := RunTests(t.Context(), TestOptions{Modules: modules, Data: data})
	if err != nil || len(results) != 2 {
		t.Fatalf("Test = %+v, %v", results, err)
	}
	for _, r := range results {
		if r.Passed != (r.Name == "test_allow") || !strings.HasSuffix(r.File, "a_test.rego") || r.Line == 0 {
			t.Errorf("%+v", r)
		}
	}
	if _, err := ReadDir(filepath.Join(dir, "missing")); err == nil {
		t.Error("a missing directory is no error")
	}
	if _, err := ReadFiles(filepath.Join(dir, "missing")); err == nil {
		t.Error("a missing file is no error")
	}
}

// Tests are compiled as strictly as what they test.
func TestTestFaults(t *testing.T) {
	_, err := RunTests(t.Context(), TestOptions{Modules: []File{{"p_test.rego", []byte("package mcpgw.policy_test\n\ntest_a if data.mcpgw.policy.alow\n")}}})
	if err == nil || !strings.Contains(err.Error(), "p_test.rego:3:22: there is no rule data.mcpgw.policy") {
		t.Errorf("Test: %v", err)
	}
	_, err = RunTests(t.Context(), TestOptions{Modules: []File{{"p_test.rego", []byte("package mcpgw.policy_test\n\ntest_a if input.subject.rolez\n")}}})
	if err == nil || !strings.HasPrefix(err.Error(), "p_test.rego:3:11: undefined ref: input.subject.rolez") {
		t.Errorf("Test: %v", err)
	}
}

func TestRevision(t *testing.T) {
	const module = "package mcpgw.policy\n\nallow := true\n"
	base := load(t, module, "a: 1").Revision()
	if again := load(t, module, "a: 1").Revision(); again != base {
		t.Error("the same policy has two revisions")
	}
	for name, e := range map[string]*Engine{"module": load(t, module+"\n", "a: 1"), "data": load(t, module, "a: 2"), "no data": load(t, module)} {
		if e.Revision() == base {
			t.Errorf("another %s, but the same revision", name)
		}
	}
}
