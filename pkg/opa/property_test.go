package opa

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"pgregory.net/rapid"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// TestProperties makes random policies and asks random questions of them. Four things must hold:
//
//   - an answer, from the cache or not, is what Rego says to the whole question, built by OPA's own reader;
//   - hidden: no call is allowed or asked about;
//   - shown, by a policy that reads nothing unknown: no call is refused;
//   - deny wins: where any deny holds, nothing is allowed, asked or demanded.
//
// One check is 5 policies of 5 questions with 8 calls each, so the default of 100 checks is more than 2,000 questions and 16,000
// calls, though a policy in eight has the wrong types; for more: go test ./pkg/opa -run TestProperties -rapid.checks=4000.
func TestProperties(t *testing.T) {
	items := someItems()
	count := struct{ policies, refusedToLoad, hidden, shown, hits, refused, faults, partial, obliged, denied int }{}
	rapid.Check(t, func(t *rapid.T) {
		for range 5 {
			source := (&author{t: t}).policy()
			e, err := Load(Options{
				Modules: []File{{"p.rego", []byte(source)}, {"lib.rego", []byte(library)}},
				Data:    []File{{"d.json", []byte(`{"grants":{"s1":{"n1":["r1"],"n2":["r1","r2"]},"s2":{"n1":["r2"]}},"one":1}`)}},
				Timeout: 10 * time.Second,
			})
			if err != nil { // the author does not check types
				count.refusedToLoad++
				continue
			}
			count.policies++
			for range 5 {
				q := someQuestion(t, items)
				visible := see(t, e, q)
				input, err := e.selection.input(q, new(scratch), true)
				if err != nil {
					t.Fatal(err)
				}
				fresh, err := e.visible(t.Context(), q.Item.Kind, input)
				if err != nil {
					fresh = false
				}
				if again := see(t, e, q); visible != fresh || again != visible {
					t.Fatalf("visible: first %v, again %v, without cache %v\n%s\n%s", visible, again, fresh, source, fullInput(t, q))
				}
				what := withArguments
				if q.Item.Kind == catalog.Template {
					what = withURI
				}
				plain := !e.ruling.unknown[what]
				if !plain {
					count.partial++
				}
				if visible {
					count.shown++
				} else {
					count.hidden++
				}
				for range 8 {
					someArguments(t, q)
					got := e.Decide(t.Context(), q)
					want := reference(t, e, q)
					if got.Cached {
						count.hits++
					}
					if got.Err != nil {
						count.faults++
					}
					if got.Effect != want.Effect || !sameReasons(got.Reasons, want.Reasons) || (got.Err != nil) != (want.Err != nil) || !reflect.DeepEqual(got.Obligations, want.Obligations) {
						t.Fatalf("got %+v\nwant %+v\n%s\n%s", got, want, source, fullInput(t, q))
					}
					if got.Obligations != nil {
						count.obliged++
					}
					whole, err := ast.ValueFromReader(bytes.NewReader(fullInput(t, q)))
					if err != nil {
						t.Fatal(err)
					}
					if denied, err := e.evaluate(t.Context(), e.deny, ast.NewTerm(whole)); err == nil && denied != nil {
						count.denied++
						if got.Effect != policy.Deny || got.Obligations != nil {
							t.Fatalf("a deny holds, and the ruling is %+v\n%s\n%s", got, source, fullInput(t, q))
						}
					}
					switch {
					case got.Effect == policy.Deny:
						count.refused++
						if visible && plain {
							t.Fatalf("shown, and refused: %+v\n%s\n%s", got, source, fullInput(t, q))
						}
					case !visible:
						t.Fatalf("hidden, but a call gets %s\n%s\n%s", got.Effect, source, fullInput(t, q))
					}
				}
			}
		}
	})
	t.Logf("%+v", count)
	if count.hidden == 0 || count.shown == 0 || count.hits == 0 || count.partial == 0 || count.faults == 0 || count.obliged == 0 || count.denied == 0 || count.policies < 2*count.refusedToLoad {
		t.Error("the random policies do not reach everything")
	}
}

// reference is what Rego says to the whole question.
func reference(t *rapid.T, e *Engine, q *policy.Question) policy.Ruling {
	v, err := ast.ValueFromReader(bytes.NewReader(fullInput(t, q)))
	if err != nil {
		t.Fatal(err)
	}
	m, err := e.rule(t.Context(), ast.NewTerm(v))
	if err != nil {
		return refuse(err)
	}
	return policy.Ruling{Effect: m.effect, Reasons: m.reasons, Obligations: m.obligations}
}

func sameReasons(a, b []policy.Reason) bool {
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b)
}

func someItems() (items []*catalog.Item) {
	for _, k := range catalog.Kinds {
		for _, server := range []string{"s1", "s2"} {
			for i, annotations := range []string{``, `{"readOnlyHint":true}`, `{"readOnlyHint":false,"x":{"y":1}}`} {
				item := &catalog.Item{Server: server, Kind: k, Name: fmt.Sprint("n", i+1), Claimed: []byte(`{"title":"T"}`), Tags: []string{"g", server}}
				if annotations != "" {
					item.Annotations = []byte(annotations)
				}
				items = append(items, item)
			}
		}
	}
	return items
}

func pick[T any](t *rapid.T, from ...T) T { return rapid.SampledFrom(from).Draw(t, "") }

func someQuestion(t *rapid.T, items []*catalog.Item) *policy.Question {
	q := &policy.Question{
		Subject: &identity.Principal{
			Type: pick(t, "user", "service"), ID: pick(t, "a", "b"), Tenant: pick(t, "", "t1"),
			Roles: pick(t, nil, []string{"r1"}, []string{"r2"}, []string{"r1", "r2"}),
		},
		Action: "tools/call",
		Item:   rapid.SampledFrom(items).Draw(t, "item"),
		Context: policy.Context{
			Endpoint: pick(t, "/a", "/b"), Round: pick(t, 0, 1), Labels: pick(t, nil, []string{"l1"}),
			RequestID: fmt.Sprint(rapid.Int().Draw(t, "")), Time: time.Unix(int64(rapid.IntRange(0, 1e9).Draw(t, "")), 0),
		},
	}
	if c := pick(t, "", `{}`, `{"org":"o1"}`, `{"org": {"b": 1}, "sub": "z"}`, `{"org":{}}`); c != "" {
		q.Subject.Claims = []byte(c)
	}
	return q
}

func someArguments(t *rapid.T, q *policy.Question) {
	q.URI = ""
	if q.Item.Kind == catalog.Template {
		q.URI = pick(t, "", "file:///srv/a", "file:///etc/a")
	}
	if q.Arguments = nil; pick(t, 0, 1, 1, 1, 1) == 0 {
		return
	}
	values := []string{`1`, `1.0`, `2`, `7`, `-1`, `"x"`, `"1"`, `"n1"`, `null`, `false`, `true`, `[]`, `[1,2]`, `["x", {"a": 1}]`, `{}`, `{"d":"x"}`, `{"a":1,"d":[1]}`, `9007199254740993`}
	var members []string
	for _, name := range []string{"a", "b", "c", "list", "s", "unread"} {
		if v := rapid.IntRange(0, len(values)*3/2).Draw(t, name); v < len(values) {
			members = append(members, fmt.Sprintf("%q:%s", name, values[v]))
		}
	}
	q.Arguments = []byte("{" + strings.Join(members, ",") + "}")
}

// library is what random policies find below data.lib.
const library = `package lib

n1 if input.arguments.a == 1

n2 if input.subject.tenant == "t1"

x if "r1" in input.subject.roles

small(v) if v != input.arguments.b

text(v) := "yes" if v > 3

text(v) := "no" if v <= 3
`

// author writes random policies.
type author struct {
	t     *rapid.T
	local int
	level int // of the helper that is being written; it may use those of higher levels
}

const helpers = 4

func (a *author) fresh() string { a.local++; return fmt.Sprint("x", a.local) }

func (a *author) policy() string {
	var b strings.Builder
	b.WriteString("package mcpgw.policy\n\n")
	a.level = -1
	switch pick(a.t, 0, 0, 0, 1, 2, 3) {
	case 1:
		b.WriteString("default allow := false\n\n")
	case 2:
		fmt.Fprintf(&b, "allow := %s if {\n%s}\n\n", pick(a.t, "true", "false", "v0"), a.body())
	case 3:
		fmt.Fprintf(&b, "allow if {\n%s} else := %s if {\n%s}\n\n", a.body(), pick(a.t, "true", "false"), a.body())
	}
	if !strings.Contains(b.String(), "allow :=") && !strings.Contains(b.String(), "else") {
		for range pick(a.t, 1, 2) {
			fmt.Fprintf(&b, "allow if {\n%s}\n\n", a.body())
		}
	}
	for i := range pick(a.t, 0, 1, 2) {
		fmt.Fprintf(&b, "deny contains %s if {\n%s}\n\n", pick(a.t, fmt.Sprintf(`"d%d"`, i), "input.subject.id", "input.arguments.s", `sprintf("%v", [input.arguments.a])`), a.body())
	}
	if pick(a.t, 0, 0, 0, 1) == 1 {
		fmt.Fprintf(&b, "%s if {\n%s}\n\n", pick(a.t, `ask contains "q"`, `label contains "q"`, `rewrite contains {"path": "/a", "value": input.arguments.b}`, `redact contains {"pattern": "x+"}`, `redact contains {"path": "/a", "with": input.subject.id}`, `limit contains {"bucket": "q"}`), a.body())
	}
	for i := range helpers {
		a.level = i
		switch pick(a.t, 0, 1, 2, 3) {
		case 0:
			fmt.Fprintf(&b, "h%d if {\n%s}\n\n", i, a.body())
		case 1:
			fmt.Fprintf(&b, "h%d if {\n%s}\n\nh%d if {\n%s}\n\n", i, a.body(), i, a.body())
		case 2:
			fmt.Fprintf(&b, "default h%d := false\n\nh%d if {\n%s}\n\n", i, i, a.body())
		case 3:
			fmt.Fprintf(&b, "h%d := false if {\n%s} else := true if {\n%s}\n\n", i, a.body(), a.body())
		}
		fmt.Fprintf(&b, "v%d := 1 if {\n%s} else := %s if {\n%s}\n\n", i, a.body(), pick(a.t, "2", "input.arguments.a", "input.subject.id"), a.body())
		fmt.Fprintf(&b, "s%d contains %s if {\n%s}\n\n", i, pick(a.t, "1", "input.arguments.b", "input.resource.server"), a.body())
		fmt.Fprintf(&b, "f%d(x) if {\n\t%s\n%s}\n\n", i, pick(a.t, "x == 1", "is_number(x)", "x.d == \"x\"", "x > 3", "not x.b", "count(x) > 0", "input.arguments.a == x"), a.body())
		fmt.Fprintf(&b, "default g%d(_) := false\n\ng%d(x) if {\n\tx != %s\n%s}\n\n", i, i, pick(a.t, "1", "input.arguments.b", "input.subject.id"), a.body())
		fmt.Fprintf(&b, "m%d[input.resource.name] := %s if {\n%s}\n\n", i, pick(a.t, "1", "input.arguments.b"), a.body())
	}
	return b.String()
}

func (a *author) body() string {
	var b strings.Builder
	for range pick(a.t, 1, 1, 2, 3) {
		b.WriteString("\t" + a.expr() + "\n")
	}
	return b.String()
}

func (a *author) value() string {
	return pick(a.t, "1", `"x"`, "5", "true", "null", "data.one", "input.arguments.a", "input.arguments.b", "input.arguments.c.d", "input.subject.id", "input.subject.claims.org", "input.resource.server")
}

// open is a value of a type that nobody declares.
func (a *author) open() string {
	return pick(a.t, "data.one", "input.arguments.a", "input.arguments.b", "input.arguments.c.d", "input.subject.claims.org")
}

func (a *author) expr() string {
	x, y := a.fresh(), a.fresh()
	known := []string{
		`"r1" in input.subject.roles`,
		`input.subject.tenant == "t1"`,
		`not input.subject.tenant == "t1"`,
		`input.subject.claims.org == "o1"`,
		`not input.subject.claims.org`,
		fmt.Sprintf(`%s := input.subject.claims; not %s.org`, x, x),
		fmt.Sprintf(`%s := input.subject.claims.org; not %s.b`, x, x),
		fmt.Sprintf(`some %s in data.grants[input.resource.server][input.resource.name]; %s in input.subject.roles`, x, x),
		`input.resource.name == "n1"`,
		`input.resource.annotations.readOnlyHint`,
		`not input.resource.annotations.readOnlyHint`,
		fmt.Sprintf(`%s := input.resource.annotations; not %s.x.y`, x, x),
		`input.resource.type in {"tool", "template"}`,
		`startswith(input.resource.uri, "file:///srv")`,
		`not input.resource.uri`,
		fmt.Sprintf(`%s := input.resource; not %s.uri`, x, x),
		`input.resource.tags[_] == "s1"`,
		`input.context.endpoint == "/a"`,
		`"l1" in input.context.session.labels`,
		`input.context.round > 0`,
		fmt.Sprintf(`every %s in input.subject.roles { %s != "r2" }`, x, x),
		fmt.Sprintf(`%s := input.subject; %s.id == "a"`, x, x),
		`count(input.subject.roles) > 1`,
		`true`,
		`true`,
		`false`,
	}
	unknown := []string{
		`input.arguments.a == ` + a.value(),
		`input.arguments.a > 5`,
		`input.arguments.a != ` + a.value(),
		`is_number(input.arguments.b)`,
		`not input.arguments.a`,
		`not input.arguments.a == 1`,
		`not is_number(input.arguments.a)`,
		`input.arguments.c.d == "x"`,
		`count(input.arguments.list) > 1`,
		fmt.Sprintf(`some %s in input.arguments.list; %s == 1`, x, x),
		fmt.Sprintf(`every %s in input.arguments.list { %s > 0 }`, x, x),
		fmt.Sprintf(`every %s in input.subject.roles { %s == input.arguments.s }`, x, x),
		`object.get(input.arguments, "a", 0) == 1`,
		`object.get(input, ["arguments", "a"], 0) == 1`,
		`object.get(input.arguments, ["c", "d"], "x") == "x"`,
		fmt.Sprintf(`[%s | some %s in input.arguments.list; %s == 1] != []`, x, x, x),
		fmt.Sprintf(`count({%s | %s := input.arguments.a; %s == 1}) == 0`, x, x, x),
		fmt.Sprintf(`{"a": %s} == {"a": input.arguments.b}`, a.value()),
		`startswith(input.arguments.s, "x")`,
		`to_number(input.arguments.s) == 1`,
		fmt.Sprintf(`%s := input.arguments; not %s.b`, x, x),
		fmt.Sprintf(`%s := input.arguments.c; not %s.d`, x, x),
		fmt.Sprintf(`%s := input.arguments.c; %s == {"d": "x"}`, x, x),
		fmt.Sprintf(`%s := input.arguments.a; %s := input.arguments.b; %s == %s`, x, y, x, y),
		`input.arguments[input.subject.id] == 1`,
		fmt.Sprintf(`input.arguments[%s] == "x"; %s != "s"`, x, x),
		`walk(input.arguments, [_, 7])`,
		`$"{input.arguments.a}-{input.subject.id}" == "1-a"`,
		`data.lib[input.arguments.s]`,
		`data.lib.text(input.arguments.a) == "yes"`,
		fmt.Sprintf(`_ = input.arguments.%s`, pick(a.t, "a", "c")),
		`json.filter(input.arguments, ["a"]) == {"a": 1}`,
		`input.arguments == {}`,
	}
	shared := []string{
		`data.lib[input.resource.name]`,
		fmt.Sprintf(`%s := input; %s.subject.tenant == "t1"`, x, x),
		fmt.Sprintf(`input[%s].a == 1`, x),
		`object.get(input, ["subject", "tenant"], "") == "t1"`,
	}
	if a.level+1 < helpers {
		h := rapid.IntRange(a.level+1, helpers-1).Draw(a.t, "helper")
		for range 2 {
			shared = append(shared,
				fmt.Sprintf(`h%d`, h), fmt.Sprintf(`not h%d`, h), fmt.Sprintf(`h%d != true`, h),
				fmt.Sprintf(`v%d == %s`, h, a.open()), fmt.Sprintf(`v%d != %s`, h, a.value()), fmt.Sprintf(`not v%d == 1`, h),
				fmt.Sprintf(`count(s%d) > 0`, h), fmt.Sprintf(`%s in s%d`, a.open(), h),
				fmt.Sprintf(`f%d(%s)`, h, a.open()), fmt.Sprintf(`not f%d(%s)`, h, a.open()),
				fmt.Sprintf(`g%d(%s) == %s`, h, a.value(), pick(a.t, "true", "false")),
				fmt.Sprintf(`f%d(input.arguments)`, h), fmt.Sprintf(`not f%d(input.subject.claims)`, h),
				fmt.Sprintf(`m%d.n1 == %s`, h, a.open()), fmt.Sprintf(`m%d[input.arguments.s]`, h),
				fmt.Sprintf(`h%d with input.arguments as {"a": 1}`, h),
				fmt.Sprintf(`h%d with input.arguments.a as 1`, h),
				fmt.Sprintf(`not h%d with input.arguments.c.d as "x"`, h),
				fmt.Sprintf(`h%d with input.subject.tenant as input.arguments.s`, h),
				fmt.Sprintf(`h%d with data.grants as {"s1": {"n1": input.subject.roles}}`, h),
				fmt.Sprintf(`h%d with data.lib.n1 as true`, h),
				fmt.Sprintf(`h%d with input.subject.claims.org.b as 1`, h),
				fmt.Sprintf(`h%d with input.arguments.c.d as input.subject.id`, h),
				fmt.Sprintf(`f%d(%s) with data.mcpgw.policy.f%d as data.lib.small`, h, a.open(), h),
				fmt.Sprintf(`h%d with is_number as data.lib.small`, h),
			)
		}
	}
	switch pick(a.t, 0, 0, 1, 2) {
	case 0:
		return rapid.SampledFrom(known).Draw(a.t, "known")
	case 1:
		return rapid.SampledFrom(unknown).Draw(a.t, "unknown")
	}
	return rapid.SampledFrom(shared).Draw(a.t, "shared")
}
