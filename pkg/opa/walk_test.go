package opa

import (
	"slices"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

// TestWalk has one line for every construct that reads input: which paths the walk finds in it.
func TestWalk(t *testing.T) {
	const helpers = `
f(v) if v.roles
g(v) := v
h if input.arguments.n
k(v) if v == input.arguments.k
default d(_) := false
d(v) if v == input.arguments.d
`
	for body, want := range map[string]string{
		// exact
		`input.subject.id == "a"`:                                 "subject.id",
		`not input.subject.id`:                                    "subject.id",
		`input["subject"].id == "a"`:                              "subject.id",
		`input.arguments["b.c"].d == 1`:                           "arguments.b.c.d",
		`input.arguments.list[0].a == 1`:                          "arguments.list",
		`x := input.arguments; x.a == 1`:                          "arguments.a",
		`x := input.arguments; not x.a`:                           "arguments.a",
		`x := input.subject; y := x.claims; y.org == 1`:           "subject.claims",
		`x := input.subject.claims.org; not x.b`:                  "subject.claims.org",
		`x := input.resource; not x.uri`:                          "resource.uri",
		`x := input.subject; [1 | x.id == "a"] == [1]`:            "subject.id",
		`[v | v := input.arguments.a] == [1]`:                     "arguments.a",
		`{v: w | v := input.arguments.a; w := 1} == {}`:           "arguments.a",
		`every v in input.arguments.a { v == input.subject.id }`:  "arguments.a subject.id",
		`$"{input.arguments.a}" == "1"`:                           "arguments.a",
		`{"a": input.arguments.a} == {"a": 1}`:                    "arguments.a",
		`data.g[input.subject.id]`:                                "subject.id",
		`object.get(input, ["arguments", "a"], 0) == 1`:           "arguments.a",
		`object.get(input.arguments, "a", 0) == 1`:                "arguments.a",
		`object.get(input.arguments, ["a", "b"], 0) == 1`:         "arguments.a.b",
		`object.get(input.subject.claims.org, "b", 0) == 1`:       "subject.claims.org",
		`object.get(input.arguments, "a", input.subject.id) == 1`: "arguments.a subject.id",
		`[object.get(input.arguments, "a", 0)] == [1]`:            "arguments.a",

		// cut where it stops to be constant, or used whole
		`some i; input.arguments.a[i].b == 1`:                   "arguments.a",
		`input.arguments[input.subject.id] == 1`:                "arguments subject.id",
		`some k, v in input.arguments; k == v`:                  "arguments",
		`x := input.arguments.a; count(x) > 1`:                  "arguments.a",
		`x := input.arguments; x == {"a": 1}`:                   "arguments",
		`x := input.arguments; x.a == 1; count(x) == 1`:         "arguments",
		`_ = input.arguments.a`:                                 "arguments.a",
		`x = input.subject; x = input.arguments; x.id == 1`:     "arguments subject",
		`object.get(input.arguments, input.subject.id, 0) == 1`: "arguments subject.id",
		`f(input.subject)`:                                      "subject",
		`g(input.arguments).a == 1`:                             "arguments",
		`walk(input.arguments, [_, 1])`:                         "arguments",

		// through other rules
		`h`:     "arguments.n",
		`not h`: "arguments.n",
		`k(1)`:  "arguments.k",
		`d(1)`:  "arguments.d",

		// with
		`h with input.arguments.n as input.subject.id`:     "arguments subject.id",
		`h with input as {"arguments": input.arguments.z}`: "arguments.n arguments.z",
		`data.g[1] with data.g as input.subject.id`:        "subject.id",
		`data.g[1] with input.subject.claims.org.x as 1`:   "subject.claims.org",

		`object.get(input.arguments, "a", 0) == 1; x := input.arguments; count(x) == 1`: "arguments",
		`x := input.arguments.a; object.get(x, "b", object.get(x, "c", 0)) == 1`:        "arguments.a",
		`x := input.arguments.a; object.get(x, x.k, 0) == 1`:                            "arguments.a",
		`x := input.arguments.a; object.get(x, "b", x) == 1`:                            "arguments.a",

		// everything
		`input == {}`:                              "ALL",
		`x := input; x.subject.id == "a"`:          "subject.id",
		`f(input)`:                                 "ALL",
		`some x; input[x].id == 1`:                 "ALL",
		`walk(input, [_, 1])`:                      "ALL",
		`object.get(input, [data.g], 0) == 1`:      "ALL",
		`json.filter(input, ["subject/id"]) == {}`: "ALL",
	} {
		source := "package mcpgw.entry\n\nruling if {\n\t" + body + "\n}\n" + helpers
		c := ast.NewCompiler()
		c.Compile(map[string]*ast.Module{"p.rego": ast.MustParseModule(source)})
		if c.Failed() {
			t.Errorf("%s: %v", body, c.Errors)
			continue
		}
		if got := pathsOf(walk(c, ast.MustParseRef("data.mcpgw.entry.ruling"))); got != want {
			t.Errorf("%s\n got %s\nwant %s", body, got, want)
		}
	}
}

func pathsOf(r reads) string {
	var out []string
	for _, p := range r.paths {
		if len(p) == 0 {
			return "ALL"
		}
		out = append(out, strings.Join(p, "."))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// What stands in heads, else branches, default functions, and behind dynamic references is reached too.
func TestWalkReaches(t *testing.T) {
	const source = `package p

ruling := {"effect": e} if {
	e := data.lib[input.subject.id]
} else := input.arguments.value if {
	input.arguments.else1
} else := 3 if {
	set[1]
	partial.a
	input.arguments.name == "x"
}

set contains input.arguments.member if input.arguments.set

partial[input.arguments.key] := input.arguments.of if true

unreached if input.arguments.unreached
`
	const lib = `package lib

a if input.arguments.a

b.c := input.arguments.b
`
	c := ast.NewCompiler()
	c.Compile(map[string]*ast.Module{"p.rego": ast.MustParseModule(source), "lib.rego": ast.MustParseModule(lib)})
	if c.Failed() {
		t.Fatal(c.Errors)
	}
	want := "arguments.a arguments.b arguments.else1 arguments.key arguments.member arguments.name arguments.of arguments.set arguments.value subject.id"
	if got := pathsOf(walk(c, ast.MustParseRef("data.p.ruling"))); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestUnstableBuiltins(t *testing.T) {
	for body, want := range map[string]bool{
		`time.now_ns() > 5`:          true,
		`[rand.intn("a", 5)] == [1]`: true,
		`h`:                          true,
		`count([x | x := uuid.rfc4122("a")]) > 0`:                                 true,
		`count(crypto.x509.parse_and_verify_certificates(input.arguments.a)) > 1`: true,
		`h with time.now_ns as 5`:                                                 true,
		`time.parse_rfc3339_ns("2026-01-01T00:00:00Z") > 5`:                       false,
		`startswith(input.arguments.a, "x")`:                                      false,
	} {
		e := load(t, "package mcpgw.policy\n\nallow if {\n\t"+body+"\n}\n\nh if time.now_ns() > 1\n")
		if e.reusable == want {
			t.Errorf("%s: reusable %v", body, e.reusable)
		}
	}
}

func TestVolatile(t *testing.T) {
	for body, want := range map[string]bool{
		`input.context.time != "x"`:        true,
		`input.context.request_id != "x"`:  true,
		`count(input.context) > 1`:         true,
		`input.subject.claims.exp > 5`:     true,
		`input.subject.claims.jti == "x"`:  true,
		`input.subject.claims.org == "x"`:  false,
		`input.context.endpoint == "/mcp"`: false,
		`count(input.subject.claims) > 1`:  false,
	} {
		e := load(t, "package mcpgw.policy\n\nallow if {\n\t"+body+"\n}\n")
		if e.reusable == want {
			t.Errorf("%s: reusable %v", body, e.reusable)
		}
	}
}
