package opa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// explained is the policy whose explanations the tests look at; its line numbers stand in them.
const explained = `package mcpgw.policy

import data.mcpgw.lib.readonly

reader if "reader" in input.subject.roles

writer if "writer" in input.subject.roles

allow if {
	reader
	readonly.reads_only
}

allow if {
	some role in data.grants[input.resource.server][input.resource.name]
	role in input.subject.roles
}

deny contains "only a writer changes the repository" if {
	not writer
	input.resource.name in {"git_add", "git_commit"}
}

deny contains "1 to 50 commits" if {
	not writer
	input.resource.name == "git_log"
	not small_count
}

small_count if {
	is_number(input.arguments.max_count)
	input.arguments.max_count >= 1
	input.arguments.max_count <= 50
}
`

func explain(t testing.TB, e *Engine, q *policy.Question) *Explanation {
	t.Helper()
	x, err := e.Explain(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// lines words an explanation, one line a rule.
func lines(x *Explanation) []string {
	values := func(all []ReadValue) string {
		var b strings.Builder
		for _, v := range all {
			fmt.Fprintf(&b, " [%s = %s]", v.Name, v.Value)
		}
		return b.String()
	}
	var out []string
	for _, r := range x.Fired {
		out = append(out, fmt.Sprintf("fired %s:%d %s %s%s", r.File, r.Line, r.Name, r.Message, values(r.Values)))
	}
	for _, r := range x.Near {
		word := "near"
		if r.Distant {
			word = "distant"
		}
		out = append(out, fmt.Sprintf("%s %s:%d %s %d of %d, line %d: %s%s", word, r.File, r.Line, r.Name, r.Held, r.Of, r.Failed.Line, r.Failed.Text, values(r.Values)))
	}
	return out
}

func TestExplain(t *testing.T) {
	e := load(t, explained, `grants: {git: {git_push: [boss, chief], git_stash: [reader]}}`)
	readOnly := `{"readOnlyHint":true}`
	for _, tc := range []struct {
		name      string
		item      *catalog.Item
		arguments string
		effect    policy.Effect
		hidden    string
		want      []string
	}{
		{
			"one argument too large", tool("git_log", readOnly), `{"max_count": 51}`, policy.Deny, "",
			[]string{
				`fired policy.rego:24 deny 1 to 50 commits [input.resource.name = "git_log"]`,
				`near policy.rego:7 writer 0 of 1, line 7: "writer" in input.subject.roles [input.subject.roles = ["reader"]]`,
				`near policy.rego:30 small_count 2 of 3, line 33: input.arguments.max_count <= 50 [input.arguments.max_count = 51]`,
				`near policy.rego:19 deny 1 of 2, line 21: input.resource.name in {"git_add", "git_commit"} [input.resource.name = "git_log"]`,
			},
		},
		{
			"an argument that is not there", tool("git_log", readOnly), ``, policy.Deny, "",
			[]string{
				`near policy.rego:30 small_count 0 of 3, line 31: is_number(input.arguments.max_count) [input.arguments.max_count = absent]`,
			},
		},
		{
			"nothing allows: the condition stands in the library", tool("git_push", ``), `{}`, policy.Deny, "no allow or ask rule can hold for this caller, whatever the arguments",
			[]string{
				`fired policy.rego:5 reader  [input.subject.roles = ["reader"]]`,
				`near policy.rego:9 allow 1 of 2, line 11: readonly.reads_only`,
				`near policy.rego:14 allow 1 of 2, line 16: role in input.subject.roles [data.grants.git.git_push[0] = "boss"] [role = "boss"] [input.subject.roles = ["reader"]]`,
				`near shipped/mcpgw/lib/readonly.rego`,
				`[input.resource.annotations.readOnlyHint = absent]`,
			},
		},
		{
			"refused by name, and so hidden", tool("git_commit", readOnly), `{}`, policy.Deny, "a deny rule refuses every call of it by this caller, whatever the arguments",
			[]string{`fired policy.rego:19 deny only a writer changes the repository`},
		},
		{
			"allowed by data; a deny came near", tool("git_stash", ``), `{}`, policy.Allow, "",
			[]string{
				`fired policy.rego:14 allow  [input.resource.server = "git"] [input.resource.name = "git_stash"] [data.grants.git.git_stash[0] = "reader"] [role = "reader"] [input.subject.roles = ["reader"]]`,
				`near policy.rego:24 deny 1 of 3, line 26: input.resource.name == "git_log" [input.resource.name = "git_stash"]`,
			},
		},
		{
			"no grant at all", tool("git_show", ``), `{}`, policy.Deny, "no allow or ask rule can hold for this caller, whatever the arguments",
			[]string{`near policy.rego:14 allow 0 of 2, line 15: some role in data.grants[input.resource.server][input.resource.name] [data.grants.git.git_show = undefined]`},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q := call(tc.item, tc.arguments, "reader")
			x := explain(t, e, q)
			got := strings.Join(lines(x), "\n")
			if x.Effect != tc.effect || x.Hidden != tc.hidden || x.Visible != (tc.hidden == "") || x.Revision != e.Revision() || x.Fault != nil || x.Partial != "" {
				t.Errorf("got %+v\n%s", x, got)
			}
			for _, want := range tc.want {
				if !strings.Contains(got, want) {
					t.Errorf("there is no\n%s\nin\n%s", want, got)
				}
			}
			if strings.Contains(got, "main.rego") {
				t.Errorf("the main module is told of:\n%s", got)
			}
		})
	}
}

// TestExplainShapes: other forms of rules, and where their values are found.
func TestExplainShapes(t *testing.T) {
	e := load(t, `package mcpgw.policy

allow if {
	every r in input.subject.roles {
		r != "reader"
	}
}

allow if { not startswith(input.arguments.path, "/srv") }

allow if inside(input.arguments.path, 4) else := true if input.arguments.other

inside(path, depth) if count(split(path, "/")) > depth

label contains "seen" if input.arguments.path

ask contains msg if {
	n := input.arguments.n
	n.deep > 3
	msg := sprintf("%d?", [n.deep])
}
allow if small with input.arguments.path as "x"

small if count(input.arguments.path) > 1
`)
	x := explain(t, e, call(tool("t", ""), `{"path": "/srv/a", "n": {"deep": 2}}`, "reader"))
	got := strings.Join(lines(x), "\n")
	for _, want := range []string{
		`near policy.rego:3 allow 0 of 1, line 4: every r in input.subject.roles { r != "reader" } [input.subject.roles = ["reader"]]`,
		`near policy.rego:9 allow 0 of 1, line 9: not startswith(input.arguments.path, "/srv") [input.arguments.path = "/srv/a"]`,
		`near policy.rego:11 allow 0 of 1, line 11: input.arguments.other [input.arguments.other = absent]`,
		`near policy.rego:13 inside 0 of 1, line 13: count(split(path, "/")) > depth [path = "/srv/a"] [depth = 4]`,
		`near policy.rego:17 ask 1 of 3, line 19: n.deep > 3 [input.arguments.n.deep = 2]`,
		`near policy.rego:24 small 0 of 1, line 24: count(input.arguments.path) > 1 [input.arguments.path = "x"]`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("there is no\n%s\nin\n%s", want, got)
		}
	}
	x = explain(t, e, call(tool("t", ""), `{"path": "/srv/a/b/c/d", "n": {"deep": 4}}`, "reader"))
	if x.Effect != policy.Ask || !slices.Equal(x.Obligations, []string{"label seen"}) || len(x.Reasons) != 1 {
		t.Errorf("got %+v", x)
	}
	if got := strings.Join(lines(x), "\n"); !strings.Contains(got, "fired policy.rego:17 ask 4? [input.arguments.n = ") || !strings.Contains(got, "label seen") {
		t.Errorf("got\n%s", got)
	}
}

// TestExplainFaults: a policy that cannot rule is explained, too.
func TestExplainFaults(t *testing.T) {
	for _, tc := range []struct {
		name, policy, arguments string
		want                    Trouble
	}{
		{
			"a built-in", "allow if true\n\ndeny contains \"x\" if {\n\tto_number(input.arguments.amount) > 1000\n}\n", `{"amount": "a lot"}`,
			Trouble{
				Code: "eval_builtin_error", Message: "to_number cannot work on this value", File: "policy.rego", Line: 6, Text: "to_number(input.arguments.amount)",
				Builtin: "to_number", Values: []ReadValue{{"input.arguments.amount", `"a lot"`}},
			},
		},
		{
			"a type", "allow if true\n\ndeny contains \"x\" if {\n\tceil(input.arguments.amount) > 1000\n}\n", `{"amount": "a lot"}`,
			Trouble{
				Code: "eval_type_error", Message: "ceil: operand 1 must be number but got string", File: "policy.rego", Line: 6, Text: "ceil(input.arguments.amount)",
				Builtin: "ceil", Values: []ReadValue{{"input.arguments.amount", `"a lot"`}},
			},
		},
		{"a conflict", "allow if input.subject.id\nallow := false if input.action.name\n", `{}`, Trouble{Code: "eval_conflict_error", Message: "rules give different values for the same thing"}},
		{"time", "allow if { numbers.range(1, 100000)[a]; numbers.range(1, 100000)[b]; a + b < 0 }\n", `{}`, Trouble{Code: "timeout", Message: "the policy had no time to rule: policy.timeout is 100ms"}},
		{"an obligation without sense", "allow if true\nrewrite contains {\"path\": \"nowhere\"}\n", `{}`, Trouble{Code: "invalid"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			patience := time.Minute
			if tc.name == "time" {
				patience = 100 * time.Millisecond
			}
			e, err := Load(Options{Modules: []File{{"policy.rego", []byte("package mcpgw.policy\n\n" + tc.policy)}}, Timeout: patience})
			if err != nil {
				t.Fatal(err)
			}
			x := explain(t, e, call(tool("t", ""), tc.arguments))
			got := Trouble{}
			if x.Fault != nil {
				got = *x.Fault
			}
			switch tc.name {
			case "a conflict":
				got.File, got.Line, got.Text = "", 0, "" // OPA's choice of the two
			case "an obligation without sense":
				got.Message = ""
			}
			if x.Effect != policy.Deny || x.Ruling.Err == nil || !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
	if _, err := load(t, explained).Explain(t.Context(), &policy.Question{}); err == nil {
		t.Error("nothing was asked, and explained")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if x, err := load(t, explained).Explain(ctx, call(tool("t", ""), "{}")); err != nil || x.Fault == nil || !errors.Is(x.Ruling.Err, policy.ErrTimeout) {
		t.Errorf("got %+v, %v", x, err)
	}
}

// TestExplainHidesSecrets plants secrets in every place from which a condition can take them.
func TestExplainHidesSecrets(t *testing.T) {
	const secret = "hunter2-Zq9"
	e := load(t, `package mcpgw.policy

allow if input.arguments.password == "p1"

allow if input.arguments.deep.headers["X-Api-Key"] == "p2"

allow if { x := input.arguments; x.password == "p3" }

allow if { some v in input.arguments; v == 4 }

allow if same(input.arguments.password)

same(p) if p == "p5"

allow if lower(input.arguments.password) == "p6"

allow if { parts := split(input.arguments.password, "-"); parts[1] == "p7" }

allow if { u := upper(input.arguments.password); u == "p8" }

allow if input.subject.claims.session_token == "p9"

allow if whole(input.subject.claims)

allow if whole(input.subject)

whole(c) if c.nothing == 1

allow if input.arguments.list[0].value == "p10"

allow if input.arguments.uri == "p11"

allow if input.arguments.note == "p12"

allow if { o := {"a": input.arguments.password}; o.a == "p13" }

allow if data.vault[input.arguments.password] == 1

allow if data.vault[hex.encode(input.arguments.password)] == 1

allow if { k := base64.encode(input.arguments.password); data.vault[k].x == 1 }

allow if input.arguments[input.arguments.password] == 1

allow if to_hex(input.arguments.password) == "p14"

to_hex(x) := hex.encode(x)

allow if input.arguments.plain == "p15"

allow if input.arguments.deep == 1

deny contains "nobody" if to_number(input.arguments.password) == input.arguments.amount
`, "vault: {a: 1}")
	q := call(tool("t", ""), `{"password": "`+secret+`", "deep": {"headers": {"X-Api-Key": "`+secret+`", "Cookie": "sid=c00kie-value"}, "max_tokens": 5}, "amount": 1,
		"list": [{"name": "Authorization", "value": "`+secret+`9"}], "uri": "https://h/p?access_token=t0ken-in-url&x=1", "note": "use Bearer abcdefgh12345678", "plain": "not at all", "copy": "`+secret+`"}`)
	p := *q.Subject
	p.Claims = []byte(`{"session_token": "cl4im-secret", "org": "acme", "address": "claim-of-no-use"}`)
	q.Subject = &p
	strict := explain(t, e, q)
	if strict.Fault == nil || strict.Fault.Builtin != "to_number" {
		t.Errorf("got %+v", strict.Fault)
	}
	// A number makes the deny that fails pass, so that all is followed.
	for _, hide := range []bool{false, true} {
		x := strict
		if hide {
			q.Arguments = []byte(strings.Replace(string(q.Arguments), `"password": "`+secret+`"`, `"password": 77123477`, 1))
			x = explain(t, e, q)
		}
		b, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ToLower(string(b) + strings.Join(lines(x), "\n"))
		for _, planted := range []string{secret, "zq9", "hunter2", "c00kie", "t0ken-in-url", "abcdefgh12345678", "cl4im", "claim-of-no-use", "68756e746572", "aHVudGVyMi1acTk", "77123477"} {
			if strings.Contains(text, strings.ToLower(planted)) {
				t.Errorf("%s is told:\n%s", planted, strings.Join(lines(x), "\n"))
			}
		}
		if !strings.Contains(text, Masked) || !hide && !strings.Contains(text, "password = "+Masked) {
			t.Errorf("nothing is masked:\n%s", text)
		}
		if hide && !strings.Contains(text, `input.arguments.plain = "not at all"`) {
			t.Errorf("what is no secret is not told:\n%s", strings.Join(lines(x), "\n"))
		}
	}
}

// TestExplainHidesSecretsProperty plants secrets where random policies read: the argument a is called api_token, and of the claims org
// is called client_secret. Messages are the policy's own words to the caller, and left out.
func TestExplainHidesSecretsProperty(t *testing.T) {
	items := someItems()
	rename := strings.NewReplacer("arguments.a ", "arguments.api_token ", "arguments.a\n", "arguments.api_token\n", "arguments.a;", "arguments.api_token;", "arguments.a)", "arguments.api_token)",
		"arguments.a]", "arguments.api_token]", "arguments.a}", "arguments.api_token}", "claims.org", "claims.client_secret")
	shown, masked := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		e, err := Load(Options{
			Modules: []File{{"p.rego", []byte(rename.Replace((&author{t: t}).policy()))}, {"lib.rego", []byte(rename.Replace(library))}},
			Data:    []File{{"d.json", []byte(`{"grants":{"s1":{"n1":["r1"],"n2":["r1","r2"]},"s2":{"n1":["r2"]}},"one":1}`)}},
			Timeout: 10 * time.Second,
		})
		if err != nil {
			return
		}
		for range 5 {
			q := someQuestion(t, items)
			secret := pick(t, "Xk9pQ7", "Zz-81jw", "qqqqqq", "81264537")
			value := pick(t, `"`+secret+`"`, secretNumber(secret), `{"d":"`+secret+`"}`, `["`+secret+`",1]`, `{"b":"`+secret+`"}`)
			q.Arguments = []byte(`{"api_token":` + value + `,"b":` + pick(t, value, `1`, `"x`+secret+`y"`) + `,"c":{"d":"` + secret + `"},"list":[` + value + `],"s":"plain text"}`)
			q.Subject.Claims = []byte(`{"client_secret":"` + secret + `"}`)
			x, err := e.Explain(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			x.Reasons = nil
			for i := range x.Fired {
				x.Fired[i].Message = ""
			}
			b, err := json.Marshal(x)
			if err != nil {
				t.Fatal(err)
			}
			if text := string(b); strings.Contains(text, secret) || strings.Contains(strings.ToLower(text), strings.ToLower(secret)) {
				t.Fatalf("%s is told:\n%s\n%s", secret, strings.Join(lines(x), "\n"), q.Arguments)
			}
			shown += strings.Count(string(b), `plain text`)
			masked += strings.Count(string(b), Masked)
		}
	})
	if shown == 0 || masked == 0 {
		t.Errorf("%d are shown, %d masked", shown, masked)
	}
}

// secretNumber is the secret as a number, if it is one.
func secretNumber(secret string) string {
	if json.Valid([]byte(secret)) {
		return secret
	}
	return `"` + secret + `"`
}

// TestExplainHidesLiterals: what a policy compares a credential with is a credential.
func TestExplainHidesLiterals(t *testing.T) {
	e := load(t, `package mcpgw.policy

allow if input.arguments.password == "in-the-policy"

allow if input.arguments.headers["X-Api-Key"] == `+"`in-the-policy`"+`

allow if {
	input.resource.name == "t"
	input.arguments["token"] in {"in-the-policy", "in-the-policy-2"}
}

deny contains "no such thing" if input.arguments.plain == "public"
`)
	x := explain(t, e, call(tool("t", ""), `{"password": "p", "plain": "public"}`))
	got, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(got), "in-the-policy") || !strings.Contains(string(got), `== \"public\"`) {
		t.Errorf("got %s", got)
	}
	x = explain(t, e, call(tool("t", ""), `{"password": "p"}`))
	if got := strings.Join(lines(x), "\n"); strings.Contains(got, "in-the-policy") || !strings.Contains(got, `input.arguments.password == "…"`) || !strings.Contains(got, `input.arguments.headers["X-Api-Key"] == "…"`) {
		t.Errorf("got %s", got)
	}
}

// TestExplainIsBounded: long values are cut, and so are many rules.
func TestExplainIsBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("package mcpgw.policy\n\nallow if input.arguments.long == \"x\"\n")
	for i := range 500 {
		fmt.Fprintf(&b, "\ndeny contains \"d%d\" if { input.action.name; input.arguments.n == %d }\n", i, i)
	}
	e, err := Load(Options{Modules: []File{{"policy.rego", []byte(b.String())}}, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	q := call(tool("t", ""), `{"n": 1000, "long": "`+strings.Repeat("long ", 100_000)+`"}`)
	x := explain(t, e, q)
	text, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	if len(x.Near) != maxExplained || x.Omitted != 501-maxExplained || len(text) > 100_000 {
		t.Errorf("%d rules, %d left out, %d bytes", len(x.Near), x.Omitted, len(text))
	}
	for _, r := range x.Near {
		for _, v := range r.Values {
			if len(v.Value) > maxShown+8 {
				t.Errorf("%s has %d bytes", v.Name, len(v.Value))
			}
		}
	}
}

// TestExplainManySecrets: no number or length of secrets makes explaining slow, or tells one.
func TestExplainManySecrets(t *testing.T) {
	e := load(t, "package mcpgw.policy\n\nallow if input.arguments.text == \"x\"\n\nallow if input.arguments.other == 1\n")
	long := strings.Repeat("secret beginning ", 10_000)
	x := explain(t, e, call(tool("t", ""), `{"password": "`+long+`", "text": "`+strings.Repeat(".", 100)+long+`", "other": "seen"}`))
	if got := strings.Join(lines(x), "\n"); strings.Contains(got, "beginning") || !strings.Contains(got, `input.arguments.other = "seen"`) {
		t.Errorf("got %s", got)
	}
	many := strings.Repeat(`"abc",`, 500_000) + `"xyz"`
	start := time.Now()
	x = explain(t, e, call(tool("t", ""), `{"password": [`+many+`], "text": "of no use", "other": "seen"}`))
	if got := strings.Join(lines(x), "\n"); strings.Contains(got, "seen") || strings.Contains(got, "of no use") {
		t.Errorf("got %s", got)
	}
	t.Log(time.Since(start))
}

// TestExplainRulesAsDecide: random policies and questions; the explanation's ruling is the decision, and following the rules comes to the
// same. With -rapid.checks=N for more.
func TestExplainRulesAsDecide(t *testing.T) {
	items := someItems()
	count := struct{ rulings, faults, fired, near, partial int }{}
	rapid.Check(t, func(t *rapid.T) {
		source := (&author{t: t}).policy()
		if pick(t, 0, 1) == 1 { // a fault that no other rule hides, in half of the calls
			source += "deny contains \"fails\" if to_number(input.arguments.s) == 5\n"
		}
		e, err := Load(Options{
			Modules: []File{{"p.rego", []byte(source)}, {"lib.rego", []byte(library)}},
			Data:    []File{{"d.json", []byte(`{"grants":{"s1":{"n1":["r1"],"n2":["r1","r2"]},"s2":{"n1":["r2"]}},"one":1}`)}},
			Timeout: 10 * time.Second,
		})
		if err != nil {
			return // the author does not check types
		}
		for range 10 {
			q := someQuestion(t, items)
			someArguments(t, q)
			want := e.Decide(t.Context(), q)
			x, err := e.Explain(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			got := x.Ruling
			if got.Effect != want.Effect || !sameReasons(got.Reasons, want.Reasons) || (got.Err != nil) != (want.Err != nil) || (x.Fault != nil) != (want.Err != nil) ||
				!reflect.DeepEqual(got.Obligations, want.Obligations) || got.Revision != want.Revision {
				t.Fatalf("got %+v\nwant %+v\n%s\n%s", got, want, source, fullInput(t, q))
			}
			if x.Partial != "" {
				t.Fatalf("%s\n%s\n%s", x.Partial, source, fullInput(t, q))
			}
			visible, err := e.Visible(t.Context(), q)
			if visible != x.Visible || (x.Hidden == "") != visible {
				t.Fatalf("visible %v (%v), told %v %q\n%s\n%s", visible, err, x.Visible, x.Hidden, source, fullInput(t, q))
			}
			denies := slices.ContainsFunc(x.Fired, func(r Rule) bool { return r.Name == "deny" })
			allows := slices.ContainsFunc(x.Fired, func(r Rule) bool { return r.Name == "allow" })
			switch {
			case x.Fault != nil:
				count.faults++
			case x.Effect == policy.Allow && (denies || !allows), x.Effect == policy.Ask && denies, len(x.Reasons) > 0 && len(x.Fired) == 0:
				t.Fatalf("%s, and the rules are\n%s\n%s\n%s", x.Effect, strings.Join(lines(x), "\n"), source, fullInput(t, q))
			}
			count.rulings++
			count.fired += len(x.Fired)
			count.near += len(x.Near)
		}
	})
	t.Logf("%+v", count)
	if count.rulings == 0 || count.faults == 0 || count.fired == 0 || count.near == 0 {
		t.Error("the random policies do not reach everything")
	}
}

func BenchmarkExplain(b *testing.B) {
	e := load(b, explained, `grants: {git: {git_push: [boss]}}`)
	q := call(tool("git_log", `{"readOnlyHint":true}`), `{"max_count": 51}`, "reader")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Explain(b.Context(), q); err != nil {
			b.Fatal(err)
		}
	}
}
