package opa

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/identity"
)

// check checks one module and renders what is found: faults, then warnings with their kinds.
func check(modules ...File) (got []string) {
	found := Check(context.Background(), Options{Modules: modules})
	for _, f := range found.Faults {
		got = append(got, f.String())
	}
	for _, w := range found.Warnings {
		got = append(got, w.Kind.String()+" "+w.String())
	}
	return got
}

// What is told of arguments that rules trust. Each module follows "package mcpgw.policy" and "allow := true".
func TestCheckArguments(t *testing.T) {
	const head = "package mcpgw.policy\n"
	const open = "allow := true\n"
	for name, tc := range map[string]struct {
		module string
		want   []string // how each finding begins, and after " … " what is in it
	}{
		"deny": {
			open + "deny contains \"x\" if input.arguments.n > 5\n",
			[]string{"p.rego:3:22: this deny lets a call pass that has no input.arguments.n … proved harmless"},
		},
		"ask":    {open + "ask contains \"x\" if input.arguments.n > 5\n", []string{"p.rego:3:21: this ask lets a call pass"}},
		"redact": {open + "redact contains {\"pattern\": \"x\"} if startswith(input.arguments.path, \"/etc\")\n", []string{"p.rego:3:37: this redact lets a call pass"}},
		"label":  {open + "label contains \"x\" if count(input.arguments.paths) > 0\n", []string{"p.rego:3:23: this label lets a call pass"}},
		"a helper of a deny": {
			open + "deny contains \"x\" if big\nbig if input.arguments.n > 5\n",
			[]string{"p.rego:4:8: big, which deny makes use of, lets a call pass that has no input.arguments.n"},
		},
		"a function of the policy's own": {
			open + "deny contains \"x\" if big(input.arguments.n)\nbig(n) if n > 5\n",
			[]string{"p.rego:3:22: this deny lets a call pass that has no input.arguments.n"},
		},
		"a proof of the library, asked for the opposite": {
			"import data.mcpgw.lib.arguments\n" + open + "deny contains \"x\" if arguments.number_between(input.arguments.n, 5, 9)\n",
			[]string{"p.rego:4:22: this deny lets a call pass that has no input.arguments.n"},
		},
		"a helper that proves too little": {
			open + "deny contains \"x\" if not small\nsmall if input.arguments.n < 5\n",
			[]string{"p.rego:4:10: small, which deny makes use of, takes input.arguments.n of any type … is_number"},
		},
		"a helper that proves too little, else": {
			open + "deny contains \"x\" if not small\nsmall if input.subject.id == \"a\" else if input.arguments.n < 5\n",
			[]string{"p.rego:4:34: small, which deny makes use of, takes"},
		},
		"twice denied": {
			open + "deny contains \"x\" if not fine\nfine if not big\nbig if input.arguments.n > 5\n",
			[]string{"p.rego:5:8: big, which deny makes use of, lets a call pass that has no input.arguments.n"},
		},
		"an allow of any type": {
			"allow if input.arguments.n < 5\n",
			[]string{"untyped-argument p.rego:2:10: this allow takes input.arguments.n of any type"},
		},
		"an allow that denies": {
			"allow if not input.arguments.n > 5\n",
			[]string{"untyped-argument p.rego:2:10: this allow takes"},
		},
		"what proves": {
			"import data.mcpgw.lib.arguments\n" + open + `
deny contains "by a rule" if not a
a if {
	is_number(input.arguments.a)
	input.arguments.a < 5
}
deny contains "between" if not b
b if {
	n := input.arguments.b
	n > 0
	5 >= n
}
deny contains "by a value" if not c
c if arguments.number_between(input.arguments.c, 1, 5)
deny contains "by name" if not arguments.number("d", 1, 5)
deny contains "whoever proved d" if input.arguments.d > 3
deny contains "whoever proved a" if input.arguments.a > 3
deny contains "equal" if input.arguments.e == "main"
deny contains "in" if input.arguments.f in {"main", "master"}
deny contains "respelt" if lower(input.arguments.g) == "main"
deny contains "respelt in" if trim_space(input.arguments.g) in {"main"}
`, nil,
		},
		"respelt and compared by order": {
			open + "deny contains \"x\" if lower(input.arguments.g) > \"m\"\n",
			[]string{"p.rego:3:22: this deny lets a call pass that has no input.arguments.g"},
		},
		"a message that quotes": {
			open + "deny contains sprintf(\"%v is too much\", [input.arguments.n]) if not small\nsmall if {\n\tis_number(input.arguments.n)\n\tinput.arguments.n < 5\n}\n",
			[]string{"p.rego:3:42: this deny lets a call pass that has no input.arguments.n, because what it says quotes it … $\"… {input.arguments.n}\""},
		},
		"messages that quote": {
			"import data.mcpgw.lib.arguments\n" + open + `
deny contains msg if {
	not arguments.number("n", 1, 5)
	msg := sprintf("%v", [input.arguments.n])
}
deny contains input.arguments.a if not arguments.number("a", 1, 5)
redact contains {"path": input.arguments.path} if input.subject.id == "a"
`,
			[]string{"p.rego:7:24: this deny lets", "p.rego:9:", "p.rego:10:"},
		},
		"messages that hold without": {
			"import data.mcpgw.lib.arguments\n" + open + `
deny contains $"{input.arguments.n} is too much" if not arguments.number("n", 1, 5)
deny contains "none" if not input.arguments.a
deny contains sprintf("%v is not the one", [input.arguments.a]) if input.subject.id == "a"
rewrite contains {"path": "/b", "value": [input.arguments.b]} if input.subject.id == "a"
`, nil,
		},
		"a helper that demands it in one case only": {
			open + "deny contains \"x\" if not h\nh if is_number(input.arguments.n)\nh if input.subject.id == \"a\"\ndeny contains \"y\" if input.arguments.n > 5\n",
			[]string{"p.rego:6:22: this deny lets a call pass that has no input.arguments.n"},
		},
	} {
		t.Run(name, func(t *testing.T) { match(t, check(File{"p.rego", []byte(head + tc.module)}), tc.want) })
	}
}

func match(t *testing.T, got, want []string) {
	t.Helper()
	ok := slices.EqualFunc(got, want, func(got, want string) bool {
		begin, within, _ := strings.Cut(want, " … ")
		return strings.HasPrefix(got, begin) && strings.Contains(got, within)
	})
	if !ok {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A gateway starts with a policy that trusts an argument, and says so.
func TestUnguardedLoads(t *testing.T) {
	e := load(t, "package mcpgw.policy\nallow := true\ndeny contains \"x\" if input.arguments.n > 5\n")
	if w := e.Warnings(); len(w) != 1 || w[0].Kind != Unguarded {
		t.Errorf("%v", w)
	}
	if found := Check(t.Context(), Options{Modules: []File{{"p.rego", []byte("package mcpgw.policy\nallow := true\ndeny contains \"x\" if input.arguments.n > 5\n")}}}); len(found.Faults) != 1 || found.Engine == nil {
		t.Errorf("%+v", found)
	}
}

func TestCheckEnums(t *testing.T) {
	for expression, want := range map[string]string{
		`input.subject.type == "usr"`:                                          `input.subject.type is never "usr" (known: "user", "service" or "anonymous")`,
		`"usr" == input.subject.type`:                                          `input.subject.type is never "usr"`,
		`input.subject.type != "usr"`:                                          `input.subject.type is never "usr"`,
		`not input.subject.type == "usr"`:                                      `input.subject.type is never "usr"`,
		`input.subject.type in {"user", "usr"}`:                                `input.subject.type is never "usr"`,
		`input.subject.type in ["user", "usr"]`:                                `input.subject.type is never "usr"`,
		"{\n\tt := input.subject.type\n\tt == \"usr\"\n}":                      `input.subject.type is never "usr"`,
		"{\n\ts := input.subject\n\ts.type == \"usr\"\n}":                      `input.subject.type is never "usr"`,
		`count([1 | input.subject.type == "usr"]) > 0`:                         `input.subject.type is never "usr"`,
		`input.resource.type == "tools"`:                                       `input.resource.type is never "tools"`,
		`input.resource.drift == "drifted"`:                                    `input.resource.drift is never "drifted" (known: "", "new" or "changed")`,
		`input.action.name == "tools/list"`:                                    `input.action.name is never "tools/list" (known: "tools/call", "resources/read" or "prompts/get")`,
		`input.context.era == "Modern"`:                                        `input.context.era is never "Modern"`,
		`"invisible" in input.resource.findings`:                               `input.resource.findings never holds "invisible" (known: "confusable_name", "hidden_text", `,
		`"hidden_text" in input.resource.findings`:                             "",
		`"x" in input.subject.roles`:                                           "",
		`input.subject.type == "user"`:                                         "",
		`input.subject.type in {"user", "service"}`:                            "",
		`input.resource.drift == ""`:                                           "",
		`input.subject.id == "usr"`:                                            "",
		`input.subject.claims.type == "usr"`:                                   "",
		`input.subject.type == input.subject.id`:                               "",
		"{\n\tsome t in [\"user\"]\n\tinput.subject.type == t\n}":              "",
		"{\n\tinput.subject.id == \"a\"\n} else if input.action.name == \"x\"": `input.action.name is never "x"`,
	} {
		t.Run(expression, func(t *testing.T) {
			got := check(File{"p.rego", []byte("package mcpgw.policy\n\nallow if " + expression + "\n")})
			if want == "" {
				match(t, got, nil)
				return
			}
			match(t, got, []string{"outside-enum p.rego: … " + want})
		})
	}
}

// The schema lists what the gateway can find, and no more.
func TestEnumsAreTheGateways(t *testing.T) {
	known := enums()
	if got := known["input.resource.findings[]"]; !slices.Equal(got, catalog.Findings) {
		t.Errorf("findings %v, want %v", got, catalog.Findings)
	}
	var kinds []string
	for _, k := range catalog.Kinds {
		kinds = append(kinds, k.String())
	}
	if got := slices.Sorted(slices.Values(known["input.resource.type"])); !slices.Equal(got, slices.Sorted(slices.Values(kinds))) {
		t.Errorf("types %v, want %v", got, kinds)
	}
	if got, want := known["input.subject.type"], []string{identity.User, identity.Service, identity.Anonymous}; !slices.Equal(got, want) {
		t.Errorf("subjects %v, want %v", got, want)
	}
}

// Tests are checked as well, and each fault is told once.
func TestCheckTests(t *testing.T) {
	policy := File{"p.rego", []byte("package mcpgw.policy\n\nallow if input.subject.id == \"a\"\n")}
	for text, want := range map[string][]string{
		"package mcpgw.policy_test\n\nimport data.mcpgw.policy\n\ntest_a if policy.allow with input as {\"subject\": {\"id\": \"a\"}}\n": nil,
		"package mcpgw.policy_test\n\nimport data.mcpgw.policy\n\ntest_a if policy.alow\n":                                               {"p_test.rego:5:18: there is no rule data.mcpgw.policy.alow (there are: allow)"},
		"package mcpgw.policy_test\n\nimport data.mcpgw.policy\n\ntest_a if true\n":                                                      {"p_test.rego:3:1: import data.mcpgw.policy unused"},
		"package mcpgw.policy_test\n\ntest_a if {\n":                                                                                     {"p_test.rego:4:"},
	} {
		match(t, check(policy, File{"p_test.rego", []byte(text)}), want)
	}
	// What only tests may use is there for them.
	const asks = "import data.mcpgw.policy\nimport data.mcpgw.test as mcp\n\ntest_a if policy.allow with input as mcp.call(\"a\", \"git\", \"git_log\", {})\n"
	match(t, check(policy, File{"p_test.rego", []byte("package mcpgw.policy_test\n\n" + asks)}), nil)
	match(t, check(policy, File{"p_test.rego", []byte("package mcpgw.policy_test\n\n" + strings.ReplaceAll(asks, "mcp.call", "mcp.cal"))}),
		[]string{"p_test.rego:6:"})
	// A rule that only a test reads is misspelt all the same.
	match(t, check(File{"p.rego", []byte("package mcpgw.policy\n\nalow if input.subject.id == \"a\"\n\nallow if false\n")},
		File{"p_test.rego", []byte("package mcpgw.policy_test\n\ntest_a if data.mcpgw.policy.alow\n")}),
		[]string{"p.rego:3:1: nothing reads the rule alow (is allow meant?)"})
	// Faults of both, by place.
	match(t, check(File{"p.rego", []byte("package mcpgw.policy\n\nallow if {\n")}, File{"p_test.rego", []byte("package\n")}, File{"q.rego", []byte("package q\n\nx {\n")}),
		[]string{"p.rego:4:", "p_test.rego:2:", "q.rego:4:"})
}

func TestCheckOtherPackages(t *testing.T) {
	match(t, check(File{"p.rego", []byte("package policy\n\nallow if input.subject.id == \"a\"\n")}, File{"q.rego", []byte("package a.b\n\nx := 1\n")}),
		[]string{"no-allow there is no package mcpgw.policy: every call is refused … there are: a.b, policy"})
	match(t, check(File{"p.rego", nil}), []string{"p.rego: empty module … begins with a package"})
	match(t, check(), []string{"no-allow package mcpgw.policy has no allow rule"})
}

// What is found is bounded, however much is wrong.
func TestCheckIsBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("package mcpgw.policy\n\nallow := true\n")
	for i := range 3000 {
		fmt.Fprintf(&b, "deny contains \"x\" if input.arguments.a%d > 5\nh%d if input.action.name == \"x\"\n", i, i)
	}
	found := Check(t.Context(), Options{Modules: []File{{"p.rego", []byte(b.String())}}})
	if len(found.Faults) != maxFindings+1 || len(found.Warnings) != maxFindings {
		t.Errorf("%d faults, %d warnings", len(found.Faults), len(found.Warnings))
	}
}

func TestUnremembered(t *testing.T) {
	for module, want := range map[string][]string{
		`allow if input.subject.id == "a"`:                                                   nil,
		`allow if input.context.time < "2027"`:                                               {"input.context.time"},
		"allow if {\n\tinput.context.request_id == \"a\"\n\tinput.subject.claims.exp > 5\n}": {"input.subject.claims.exp", "input.context.request_id"},
		`allow if rand.intn("x", 2) == 1`:                                                    {"rand.intn"},
	} {
		if got := load(t, "package mcpgw.policy\n\n"+module+"\n").Unremembered(); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", module, got, want)
		}
	}
}
