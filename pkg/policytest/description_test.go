package policytest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/opa"
	"github.com/mcpgw/mcpgw/policies"
)

const savedText = `{"items": [
	{"server": "git", "type": "tool", "name": "git_log", "title": "Log", "annotations": {"readOnlyHint": true, "n": 9007199254740993},
		"claimed": {"title": "Log"}, "tags": ["dev"], "digest": "d1", "findings": ["invisible_characters"]},
	{"server": "git", "type": "tool", "name": "git_push"},
	{"server": "git", "type": "resource", "name": "file:///readme"},
	{"server": "git", "type": "template", "name": "file:///docs/{page}"},
	{"server": "git", "type": "prompt", "name": "review"},
	{"server": "time", "type": "tool", "name": "now"}
]}`

func saved(t testing.TB) *catalog.Directory {
	t.Helper()
	d, err := catalog.ReadSaved([]byte(savedText))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const (
	circumstances = `"context":{"endpoint":"test","era":"modern","revision":"2026-07-28","session":{"labels":[],"lost":false},` +
		`"client_address":"127.0.0.1","request_id":"test","round":0,"time":"2026-01-01T12:00:00Z"}}`
	reader = `{"subject":{"type":"user","id":"reader","issuer":"","client":"","tenant":"","roles":["reader"],"scopes":[],"claims":{}},`
)

// TestQuestionsAreWhole: a description becomes the whole question, as the schema of input has it.
func TestQuestionsAreWhole(t *testing.T) {
	schema := inputSchema(t)
	for name, tc := range map[string]struct{ description, want string }{
		"a call": {
			`{"who": "reader", "calls": "git/git_log", "with": {"max_count": 9007199254740993}}`,
			reader + `"action":{"name":"tools/call"},"resource":{"type":"tool","id":"git/git_log","server":"git","name":"git_log","title":"Log",` +
				`"annotations":{"readOnlyHint":true,"n":9007199254740993},"claimed":{"title":"Log"},"tags":["dev"],"digest":"d1","drift":"","findings":["invisible_characters"]},` +
				`"arguments":{"max_count": 9007199254740993},` + circumstances,
		},
		"a read": {
			`{"who": "reader", "reads": "git/file:///readme"}`,
			reader + `"action":{"name":"resources/read"},"resource":{"type":"resource","id":"git/file:///readme","server":"git","name":"file:///readme","title":"",` +
				`"annotations":{},"claimed":{},"tags":[],"digest":"","drift":"","findings":[],"uri":"file:///readme"},"arguments":{},` + circumstances,
		},
		"a read by a template": {
			`{"who": "reader", "reads": "git/file:///docs/one"}`,
			reader + `"action":{"name":"resources/read"},"resource":{"type":"template","id":"git/file:///docs/{page}","server":"git","name":"file:///docs/{page}",` +
				`"title":"","annotations":{},"claimed":{},"tags":[],"digest":"","drift":"","findings":[],"uri":"file:///docs/one"},"arguments":{},` + circumstances,
		},
		"a prompt, and all that can be said": {
			`{"who": {"type": "service", "id": "ci", "issuer": "i", "client": "c", "tenant": "acme", "roles": ["a", "b"], "scopes": ["s"], "claims": {"n": 1.0}},
			  "gets": "git/review", "with": {"a": "b"}, "annotations": {"x": 1}, "title": "T", "tags": ["t"], "digest": "d", "drift": "changed", "findings": ["hidden_text"],
			  "claimed": {"title": "C"}, "endpoint": "e", "era": "legacy", "revision": "2025-11-25", "client_address": "10.0.0.1", "request_id": "r", "round": 2,
			  "time": "2026-03-01T13:00:00+01:00", "labels": ["secret"], "lost": true}`,
			`{"subject":{"type":"service","id":"ci","issuer":"i","client":"c","tenant":"acme","roles":["a","b"],"scopes":["s"],"claims":{"n": 1.0}},` +
				`"action":{"name":"prompts/get"},"resource":{"type":"prompt","id":"git/review","server":"git","name":"review","title":"T","annotations":{"x": 1},` +
				`"claimed":{"title": "C"},"tags":["t"],"digest":"d","drift":"changed","findings":["hidden_text"]},"arguments":{"a": "b"},` +
				`"context":{"endpoint":"e","era":"legacy","revision":"2025-11-25","session":{"labels":["secret"],"lost":true},` +
				`"client_address":"10.0.0.1","request_id":"r","round":2,"time":"2026-03-01T12:00:00Z"}}`,
		},
		"annotations over the catalog's": {
			`{"who": "reader", "calls": "git/git_log", "annotations": {"readOnlyHint": false}}`,
			reader + `"action":{"name":"tools/call"},"resource":{"type":"tool","id":"git/git_log","server":"git","name":"git_log","title":"Log",` +
				`"annotations":{"readOnlyHint":false,"n":9007199254740993},"claimed":{"title":"Log"},"tags":["dev"],"digest":"d1","drift":"","findings":["invisible_characters"]},` +
				`"arguments":{},` + circumstances,
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := &Questions{Catalog: saved(t)}
			got, err := m.JSON([]byte(tc.description))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, string(got)); d != "" {
				t.Error(d)
			}
			v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(got)))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(v); err != nil {
				t.Error(err)
			}
		})
	}
}

func inputSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(policies.InputSchema)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("input.json", v); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("input.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestDescriptionsAreReadStrictly: what cannot be asked is an error that says why, and what there is instead.
func TestDescriptionsAreReadStrictly(t *testing.T) {
	with, without, plain := &Questions{Catalog: saved(t)}, &Questions{}, &Questions{Plain: true}
	for name, tc := range map[string]struct {
		m                 *Questions
		description, want string
	}{
		"no object":             {with, `[]`, "the description cannot be read"},
		"nobody":                {with, `{"calls": "git/git_log"}`, "who calls is missing"},
		"nothing":               {with, `{"who": "reader"}`, "what is asked for is missing"},
		"two things":            {with, `{"who": "reader", "calls": "git/git_log", "gets": "git/review"}`, "gets: a test is about one thing, and calls stands there as well"},
		"an empty role":         {with, `{"who": "", "calls": "git/git_log"}`, "who: want a role"},
		"a number":              {with, `{"who": 5, "calls": "git/git_log"}`, "who: want a role"},
		"an unknown subject":    {with, `{"who": {"role": "reader"}, "calls": "git/git_log"}`, "who: role: there is no such name; did you mean roles?"},
		"a role that is none":   {with, `{"who": {"roles": [null]}, "calls": "git/git_log"}`, "who: roles: want a list of texts"},
		"an unknown type":       {with, `{"who": {"type": "robot"}, "calls": "git/git_log"}`, `who: type: want one of "user", "service", "anonymous"`},
		"an unknown member":     {with, `{"who": "reader", "calls": "git/git_log", "arguments": {}}`, "arguments: there is no such name; there are: who, calls"},
		"no server":             {with, `{"who": "reader", "calls": "git_log"}`, `calls: "git_log" is not SERVER/NAME`},
		"arguments of a read":   {with, `{"who": "reader", "reads": "git/file:///readme", "with": {}}`, "with: a resource is read without arguments"},
		"arguments are a list":  {with, `{"who": "reader", "calls": "git/git_log", "with": []}`, "with: want an object"},
		"an unknown finding":    {with, `{"who": "reader", "calls": "git/git_log", "findings": ["hidden_txt"]}`, "findings: there is no such name; did you mean hidden_text?"},
		"an unknown drift":      {with, `{"who": "reader", "calls": "git/git_log", "drift": "old"}`, `drift: want one of "", "new", "changed"`},
		"no time":               {with, `{"who": "reader", "calls": "git/git_log", "time": "noon"}`, `time: "noon" is no time as in 2026-03-01T12:00:00Z`},
		"half a round":          {with, `{"who": "reader", "calls": "git/git_log", "round": 0.5}`, "round: want a whole number from 0"},
		"lost is null":          {with, `{"who": "reader", "calls": "git/git_log", "lost": null}`, "lost: want true or false"},
		"a misspelt tool":       {with, `{"who": "reader", "calls": "git/git_lgo"}`, "calls: there is no tool git/git_lgo in the catalog; did you mean git_log?"},
		"an unknown tool":       {with, `{"who": "reader", "calls": "git/erase", "annotations": {}}`, "calls: there is no tool git/erase in the catalog; there are: git_log, git_push"},
		"an unknown server":     {with, `{"who": "reader", "calls": "gut/git_log"}`, "calls: there is no server gut in the catalog; did you mean git?"},
		"an unknown URI":        {with, `{"who": "reader", "reads": "git/file:///x/y"}`, "reads: there is no resource git/file:///x/y in the catalog; there are: file:///readme, file:///docs/{page}"},
		"a template":            {with, `{"who": "reader", "reads": "git/file:///docs/{page}"}`, "reads: file:///docs/{page} is a template; a read names a URI that it matches"},
		"no catalog":            {without, `{"who": "reader", "calls": "git/git_log"}`, "calls: there is no catalog to take git/git_log from: save one with mcpgw catalog --save FILE"},
		"a number of 101 digit": {with, `{"who": "reader", "calls": "git/git_log", "with": {"n": 1` + strings.Repeat("0", 100) + `}}`, "the description cannot be read"},
		"annotations instead":   {without, `{"who": "reader", "calls": "git/git_log", "annotations": {}}`, ""},
		"no catalog is wanted":  {plain, `{"who": "reader", "calls": "git/git_log"}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tc.m.JSON([]byte(tc.description))
			switch {
			case tc.want == "" && err != nil, tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
	if q, err := with.Question([]byte(`{"who": "reader", "reads": "git/file:///docs/{page}"}`), true); err != nil || q.Item.Kind != catalog.Template || q.URI != "" {
		t.Errorf("a template in a list: %+v, %v", q, err)
	}
}

// TestRegoAsksTheSame: what package mcpgw.test makes in a Rego test is what a description makes.
func TestRegoAsksTheSame(t *testing.T) {
	m := &Questions{Catalog: saved(t)}
	rego := "package same_test\n\nimport data.mcpgw.test as mcp\n\n"
	for call, description := range map[string]string{
		`call("reader", "git", "git_log", {"max_count": 9007199254740993})`:    `{"who": "reader", "calls": "git/git_log", "with": {"max_count": 9007199254740993}}`,
		`call({"roles": ["a"], "claims": {"n": 1.50}}, "git", "git_push", {})`: `{"who": {"roles": ["a"], "claims": {"n": 1.50}}, "calls": "git/git_push", "with": {}}`,
		`read("reader", "git", "file:///docs/one")`:                            `{"who": "reader", "reads": "git/file:///docs/one"}`,
		`get("reader", "git", "review", {"a": "b"})`:                           `{"who": "reader", "gets": "git/review", "with": {"a": "b"}}`,
		`question({"who": "reader", "calls": "git/git_log", "labels": ["x"]})`: `{"who": "reader", "calls": "git/git_log", "labels": ["x"]}`,
	} {
		want, err := m.JSON([]byte(description))
		if err != nil {
			t.Fatal(err)
		}
		rego += "test_same if mcp." + call + " == " + string(want) + "\n\n"
	}
	results, err := opa.RunTests(t.Context(), opa.TestOptions{Modules: []opa.File{{Name: "same_test.rego", Text: []byte(rego)}}, Question: m.JSON})
	if err != nil || len(results) != 5 {
		t.Fatalf("%d results, %v", len(results), err)
	}
	for _, r := range results {
		if !r.Passed {
			t.Errorf("%+v", r)
		}
	}
}
