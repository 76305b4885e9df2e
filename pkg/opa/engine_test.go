package opa

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

// example is the policy of the documentation: readers read, grants are data, git_log is bounded by argument.
const example = `package mcpgw.policy

import data.mcpgw.lib.arguments
import data.mcpgw.lib.grants
import data.mcpgw.lib.readonly

allow if {
	"reader" in input.subject.roles
	readonly.reads_only
}

allow if grants.granted

deny contains "readers do not change the repository" if {
	input.resource.name in {"git_commit", "git_add", "git_reset"}
	not "writer" in input.subject.roles
}

deny contains "git_log shows 1 to 50 commits to readers" if {
	input.resource.name == "git_log"
	not "writer" in input.subject.roles
	not few_commits
}

few_commits if arguments.number_between(input.arguments.max_count, 1, 50)
`

const exampleGrants = `grants:
  git:
    git_push: [writer]
    git_log: [reader, writer]
    git_commit: [writer, reader]
`

// TestMain holds the engine to its word that it starts nothing that goes on by itself.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func load(t testing.TB, module string, data ...string) *Engine {
	t.Helper()
	e, err := tryLoad(module, data...)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func tryLoad(module string, data ...string) (*Engine, error) {
	opts := Options{Modules: []File{{"policy.rego", []byte(module)}}}
	for i, d := range data {
		opts.Data = append(opts.Data, File{fmt.Sprintf("data%d.yaml", i), []byte(d)})
	}
	return Load(opts)
}

func tool(name string, annotations string) *catalog.Item {
	i := &catalog.Item{Server: "git", Kind: catalog.Tool, Name: name, Title: "Title of " + name, Digest: strings.Repeat("ab", 32)}
	if annotations != "" {
		i.Annotations = []byte(annotations)
	}
	return i
}

func call(i *catalog.Item, arguments string, roles ...string) *policy.Question {
	q := &policy.Question{
		Subject: &identity.Principal{Type: identity.Service, ID: "ann", Issuer: identity.KeyIssuer, Roles: roles},
		Action:  "tools/call",
		Item:    i,
		Context: policy.Context{
			Endpoint: "/mcp", Era: "modern", Revision: "2026-07-28", ClientAddress: "192.0.2.1", RequestID: "r1",
			Time: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC),
		},
	}
	if arguments != "" {
		q.Arguments = []byte(arguments)
	}
	return q
}

func TestExample(t *testing.T) {
	e := load(t, example, exampleGrants)
	const bounded = "git_log shows 1 to 50 commits to readers"
	readOnly := `{"readOnlyHint":true}`
	for _, tc := range []struct {
		name      string
		item      *catalog.Item
		arguments string
		roles     []string
		effect    policy.Effect
		public    string
		visible   bool
	}{
		{"read-only tool", tool("git_status", readOnly), `{}`, []string{"reader"}, policy.Allow, "", true},
		{"not read-only", tool("git_gc", `{"readOnlyHint":false}`), `{}`, []string{"reader"}, policy.Deny, "no rule allows this call", false},
		{"no annotations", tool("git_gc", ""), `{}`, []string{"reader"}, policy.Deny, "no rule allows this call", false},
		{"granted", tool("git_push", ""), `{}`, []string{"writer"}, policy.Allow, "", true},
		{"granted to others", tool("git_push", ""), `{}`, []string{"reader"}, policy.Deny, "no rule allows this call", false},
		{"refused by name", tool("git_commit", ""), `{}`, []string{"reader"}, policy.Deny, "readers do not change the repository", false},
		{"bounded, within", tool("git_log", ""), `{"max_count": 50}`, []string{"reader"}, policy.Allow, "", true},
		{"bounded, beyond", tool("git_log", ""), `{"max_count": 51}`, []string{"reader"}, policy.Deny, bounded, true},
		{"bounded, absent", tool("git_log", ""), ``, []string{"reader"}, policy.Deny, bounded, true},
		{"bounded, null", tool("git_log", ""), `{"max_count": null}`, []string{"reader"}, policy.Deny, bounded, true},
		{"bounded, text", tool("git_log", ""), `{"max_count": "5"}`, []string{"reader"}, policy.Deny, bounded, true},
		{"not bounded for writers", tool("git_log", ""), `{"max_count": 5000}`, []string{"writer"}, policy.Allow, "", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q := call(tc.item, tc.arguments, tc.roles...)
			for _, cached := range []bool{false, true} {
				r := e.Decide(t.Context(), q)
				if r.Effect != tc.effect || r.Err != nil || r.Cached != cached || r.Revision != e.Revision() {
					t.Errorf("Decide = %+v, want effect %s, cached %v", r, tc.effect, cached)
				}
				if tc.public != "" && r.Public() != tc.public {
					t.Errorf("Public = %q, want %q", r.Public(), tc.public)
				}
				if v := see(t, e, q); v != tc.visible {
					t.Errorf("Visible = %v, want %v", v, tc.visible)
				}
			}
		})
	}
	if names, all := e.Reads(nil); all || len(names) != 1 || names[0] != "max_count" {
		t.Errorf("Reads = %v, %v", names, all)
	}
}

// Whatever goes wrong is a refusal with an internal fault.
func TestFailsClosed(t *testing.T) {
	for name, tc := range map[string]struct {
		module, entry, arguments, want string
		timeout                        time.Duration
	}{
		"built-in error in deny": {
			module:    "package mcpgw.policy\nallow := true\ndeny contains \"big\" if to_number(input.arguments.amount) > 1000",
			arguments: `{"amount":"abc"}`, want: "to_number",
		},
		"conflict": {
			module: "package mcpgw.policy\nallow := input.arguments.a\nallow := input.arguments.b", arguments: `{"a":true,"b":false}`, want: "conflict",
		},
		"undefined ruling": {module: "package x\nruling := {\"effect\": \"allow\"} if input.arguments.a == 1", entry: "x/ruling", want: "no ruling"},
		"ruling no object": {module: "package x\nruling := {\"effect\": \"allow\"} if input.arguments.a == 1\nruling := [1] if input.arguments.a == 2", entry: "x/ruling", arguments: `{"a":2}`, want: "no object"},
		"unknown effect":   {module: "package x\nruling := {\"effect\": \"Allow\"}", entry: "x/ruling", want: `effect is "Allow"`},
		"no effect":        {module: "package x\nruling := {\"reasons\": []} if input.arguments.a == 1\nruling := {\"effect\": \"allow\"} if input.arguments.a == 2", entry: "x/ruling", arguments: `{"a":1}`, want: `effect is ""`},
		"unknown obligation": {
			module: "package x\nruling := {\"effect\": \"allow\", \"report\": [1]}", entry: "x/ruling", want: "does not know",
		},
		"timeout": {
			module:  "package mcpgw.policy\nallow if count([1 | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); a + b == input.arguments.n]) > 0",
			timeout: 20 * time.Millisecond, arguments: `{"n":1}`, want: "cancel",
		},
		"arguments no object":  {module: "package mcpgw.policy\nallow if input.arguments.a == 1", arguments: `[1]`, want: "object"},
		"arguments cut":        {module: "package mcpgw.policy\nallow if input.arguments.a == 1", arguments: `{"a":1`, want: "EOF"},
		"arguments with tail":  {module: "package mcpgw.policy\nallow if input.arguments.a == 1", arguments: `{"a":1} 2`, want: "object"},
		"duplicate argument":   {module: "package mcpgw.policy\nallow if input.arguments.a == 1", arguments: `{"a":1,"a":2}`, want: "duplicate"},
		"a million digits":     {module: "package mcpgw.policy\nallow if input.arguments.a > 1", arguments: `{"a":` + strings.Repeat("9", 1_000_000) + `}`, want: "digits"},
		"a huge exponent":      {module: "package mcpgw.policy\nallow if input.arguments.a > 1", arguments: `{"a":1e10000000}`, want: "exponent"},
		"no time left already": {module: "package mcpgw.policy\nallow := true", want: "no time to rule", timeout: time.Nanosecond},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := Load(Options{Modules: []File{{"p.rego", []byte(tc.module)}}, Entrypoint: tc.entry, Timeout: tc.timeout})
			if err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()
			if tc.timeout == time.Nanosecond {
				c, cancel := context.WithDeadline(ctx, time.Now().Add(-time.Second))
				defer cancel()
				ctx = c
			}
			for range 2 {
				r := e.Decide(ctx, call(tool("x", ""), tc.arguments))
				if r.Effect != policy.Deny || r.Err == nil || r.Cached || r.Public() != "the policy could not be evaluated" {
					t.Fatalf("Decide = %+v", r)
				}
				if !strings.Contains(r.Err.Error(), tc.want) {
					t.Errorf("Err = %v, want %q in it", r.Err, tc.want)
				}
			}
		})
	}
}

func TestIncompleteQuestion(t *testing.T) {
	e := load(t, "package mcpgw.policy\nallow := true")
	for _, q := range []*policy.Question{{}, {Subject: &identity.Principal{}}, {Item: tool("x", "")}} {
		if r := e.Decide(t.Context(), q); r.Effect != policy.Deny || r.Err == nil {
			t.Errorf("Decide = %+v", r)
		}
		if see(t, e, q) {
			t.Error("visible")
		}
	}
	broken := tool("x", `{"a":1e999}`) // a server's doing, and that server's trouble alone
	if r := e.Decide(t.Context(), call(broken, "")); r.Effect != policy.Deny || r.Err == nil {
		t.Errorf("Decide = %+v", r)
	}
	if see(t, e, call(broken, "")) {
		t.Error("visible")
	}
}

// A panic inside an evaluation is a refusal: the engine is asked with a compiler that is not there.
func TestPanicRefuses(t *testing.T) {
	e := load(t, "package mcpgw.policy\nallow if input.arguments.a == 1\n")
	e.ruling = nil
	if r := e.Decide(t.Context(), call(tool("x", ""), `{"a":1}`)); r.Effect != policy.Deny || r.Err == nil || !strings.Contains(r.Err.Error(), "panic") {
		t.Errorf("Decide = %+v", r)
	}
	if see(t, e, call(tool("x", ""), `{"a":1}`)) {
		t.Error("visible")
	}
}

// TestFaultThatSomeCallsMissHidesNothing: what fails for some arguments says nothing of the others.
func TestFaultThatSomeCallsMissHidesNothing(t *testing.T) {
	e := load(t, `package mcpgw.policy
allow := true
deny contains "big" if {
	input.arguments.a > 3
	to_number(input.subject.id) == 1
}
`)
	small, large := e.Decide(t.Context(), call(tool("x", ""), `{"a":1}`)), e.Decide(t.Context(), call(tool("x", ""), `{"a":4}`))
	if small.Effect != policy.Allow || large.Effect != policy.Deny || large.Err == nil {
		t.Errorf("ruled %+v and %+v", small, large)
	}
	if !see(t, e, call(tool("x", ""), "")) {
		t.Error("hidden, but a call is allowed")
	}
}

func TestExactNumbers(t *testing.T) {
	e := load(t, "package mcpgw.policy\nallow if input.arguments.n == data.limit\nallow if input.arguments.n > 1e300", "limit: 9007199254740993\n")
	for arguments, want := range map[string]policy.Effect{
		`{"n":9007199254740993}`:   policy.Allow,
		`{"n":9007199254740992}`:   policy.Deny,
		`{"n":9007199254740993.0}`: policy.Allow,
		`{"n":1e301}`:              policy.Allow,
		`{"n":"1e301"}`:            policy.Allow, // text lies above every number: why arguments are held to their declared type first
	} {
		if r := e.Decide(t.Context(), call(tool("x", ""), arguments)); r.Effect != want || r.Err != nil {
			t.Errorf("%s: %+v", arguments, r)
		}
	}
}

func TestOtherEntrypoint(t *testing.T) {
	const module = `package acme

ruling := {"effect": "ask", "reasons": [{"rule": "ask", "message": "sure?"}]} if input.resource.name == "b"

ruling := {"effect": "deny"} if input.resource.name == "c"

ruling := {"effect": "allow", "reasons": set()} if {
	input.resource.name == "a"
	input.arguments.n == 1
}
`
	for _, entry := range []string{"data.acme.ruling", "acme/ruling", "/acme/ruling"} {
		e, err := Load(Options{Modules: []File{{"p.rego", []byte(module)}}, Entrypoint: entry})
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]policy.Effect{"a": policy.Allow, "b": policy.Ask, "c": policy.Deny} {
			q := call(tool(name, ""), `{"n":1}`)
			if r := e.Decide(t.Context(), q); r.Effect != want || r.Err != nil {
				t.Errorf("%s: %+v", name, r)
			}
			if v := see(t, e, q); v != (name != "c") {
				t.Errorf("%s: visible %v", name, v)
			}
		}
	}
}

// The URI of a template is as unknown in a list as the arguments are; that of a resource is its name.
func TestResourceURI(t *testing.T) {
	e := load(t, `package mcpgw.policy

allow if startswith(input.resource.uri, "file:///srv/")
`)
	q := func(k catalog.Kind, name, uri string) *policy.Question {
		q := call(&catalog.Item{Server: "fs", Kind: k, Name: name}, "")
		q.Action, q.URI = "resources/read", uri
		return q
	}
	for _, tc := range []struct {
		q       *policy.Question
		effect  policy.Effect
		visible bool
	}{
		{q(catalog.Resource, "file:///srv/a", "file:///srv/a"), policy.Allow, true},
		{q(catalog.Resource, "file:///srv/a", ""), policy.Allow, true},
		{q(catalog.Resource, "file:///etc/a", "file:///etc/a"), policy.Deny, false},
		{q(catalog.Template, "file:///{path}", "file:///srv/a"), policy.Allow, true},
		{q(catalog.Template, "file:///{path}", "file:///etc/a"), policy.Deny, true},
		{q(catalog.Template, "file:///{path}", ""), policy.Deny, true},
		{q(catalog.Tool, "file:///srv/a", "file:///srv/a"), policy.Deny, false},
	} {
		for range 2 {
			if r := e.Decide(t.Context(), tc.q); r.Effect != tc.effect || r.Err != nil {
				t.Errorf("%v %s %s: %+v", tc.q.Item.Kind, tc.q.Item.Name, tc.q.URI, r)
			}
			if v := see(t, e, tc.q); v != tc.visible {
				t.Errorf("%v %s %s: visible %v", tc.q.Item.Kind, tc.q.Item.Name, tc.q.URI, v)
			}
		}
	}
}

func TestContextReachesRules(t *testing.T) {
	e := load(t, `package mcpgw.policy

allow if {
	time.parse_rfc3339_ns(input.context.time) == time.parse_rfc3339_ns("2026-11-25T12:00:00Z")
	input.context.session.labels == ["secret"]
	input.context.round == 2
	input.context.endpoint == "/mcp"
	input.context.client_address == "192.0.2.1"
	input.subject.claims.org.team == "a"
	not input.subject.claims.other
	input.resource.id == "git/x"
	input.resource.claimed.title == "t"
}
`)
	i := tool("x", "")
	i.Claimed = []byte(`{"title":"t"}`)
	q := call(i, "")
	q.Context.Labels, q.Context.Round = []string{"secret"}, 2
	q.Subject.Claims = []byte(`{"iat":5,"org":{"team":"a"}}`)
	for range 2 {
		if r := e.Decide(t.Context(), q); r.Effect != policy.Allow || r.Cached { // the time is never worth remembering
			t.Fatalf("%+v", r)
		}
	}
	if _, ok := e.ListKey(q); ok {
		t.Error("a list key, though rules read the time")
	}
}

// What the engine builds is what the schema says, no more and no less.
func TestInputFitsSchema(t *testing.T) {
	i := tool("x", `{"readOnlyHint":true}`)
	i.Tags, i.Claimed = []string{"a"}, []byte(`{"description":"d"}`)
	q := call(i, `{"a":{"b":[1,null,true]}}`, "reader")
	q.Subject.Claims = []byte(`{"sub":"x"}`)
	r := call(&catalog.Item{Server: "fs", Kind: catalog.Resource, Name: "file:///a"}, "")
	for _, q := range []*policy.Question{q, r} {
		checkSchema(t, fullInput(t, q))
		want, err := ast.ValueFromReader(bytes.NewReader(fullInput(t, q)))
		if err != nil {
			t.Fatal(err)
		}
		text := q.AppendJSON(nil)
		got, err := ast.ValueFromReader(bytes.NewReader(text))
		if err != nil || got.Compare(want) != 0 {
			t.Errorf("AppendJSON: %v\n%s\nwant %s", err, text, want)
		}
		back, err := policy.ParseQuestion(text)
		if err != nil {
			t.Fatal(err)
		}
		if again := back.AppendJSON(nil); !bytes.Equal(again, text) {
			t.Errorf("ParseQuestion and back: %s\nwant %s", again, text)
		}
	}
	s := schemaPaths(t)
	for _, p := range fieldPaths {
		if !s[strings.Join(p, ".")] {
			t.Errorf("the schema lacks %v", p)
		}
		delete(s, strings.Join(p, "."))
	}
	if len(s) > 0 {
		t.Errorf("the engine lacks %v", s)
	}
}

// failer is what testing.T and rapid.T share.
type failer interface {
	Helper()
	Fatal(args ...any)
}

// fullInput is the question with all arguments and claims, as JSON.
func fullInput(t failer, q *policy.Question) []byte {
	t.Helper()
	var s selection
	s.of[arguments], s.of[subjectClaims] = members{all: true}, members{all: true}
	term, err := s.input(q, new(scratch), false)
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonOf(term)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// see is Visible as a list takes it: what cannot be told is not shown.
func see(t interface{ Context() context.Context }, e *Engine, q *policy.Question) bool {
	visible, err := e.Visible(t.Context(), q)
	return visible && err == nil
}
