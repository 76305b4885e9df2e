package opa

import (
	"strings"
	"testing"

	"github.com/mcpgw/mcpgw/pkg/catalog"
	"github.com/mcpgw/mcpgw/pkg/identity"
	"github.com/mcpgw/mcpgw/pkg/policy"
)

func TestLogRulesStandBesideThePolicy(t *testing.T) {
	own := File{Name: "policy.rego", Text: []byte("package mcpgw.policy\nallow if input.arguments.a == 1")}
	for _, tc := range []struct{ name, text, fault string }{
		{"mask", "package system.log\nmask contains \"/input/arguments/password\" if input.input.action.name == \"tools/call\"", ""},
		{"a helper", "package system.log\nmask contains p if some p in secrets\nsecrets := [\"/input/arguments/a\"]", ""},
		{"drop", "package system.log\ndrop if input.input.resource.name == \"ping\"", ""},
		{"other data", "package system.log\nmask contains p if some p in data.secrets", "is undefined for the decision log"},
		{"the policy's rules", "package system.log\ndrop if data.mcpgw.policy.allow", "data.mcpgw.policy.allow is undefined"},
		{"an undefined rule", "package system.log\nmask contains \"/input\" if data.system.log.hide", "data.system.log.hide is undefined"},
		{"a misspelt rule", "package system.log\nmask contains \"/input/a\"\nmsak contains \"/input/b\"", "nothing reads the rule msak"},
		{"neither", "package system.log\nhide contains \"/input/a\"", "neither a rule mask nor"},
		{"another package", "package system.authz\nallow if true", "is not read"},
		{"does not compile", "package system.log\nmask contains x", "log.rego:2:"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			log := File{Name: "log.rego", Text: []byte(tc.text)}
			e, err := Load(Options{Modules: []File{own, log, {Name: "log_test.rego", Text: []byte("package system.log_test\ntest_a if true")}}})
			if tc.fault != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fault) {
					t.Errorf("want %q: %v", tc.fault, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r := e.LogRules(); len(r) != 1 || r[0].Name != "log.rego" {
				t.Errorf("found %v", r)
			}
			if r := e.Decide(t.Context(), &policy.Question{Subject: &identity.Principal{}, Item: &catalog.Item{}, Arguments: []byte(`{"a":1}`)}); r.Effect != policy.Allow {
				t.Errorf("the policy says %+v", r)
			}
		})
	}
}

func TestMayRead(t *testing.T) {
	e, err := Load(Options{Modules: []File{{Name: "p.rego", Text: []byte("package mcpgw.policy\nallow if { input.arguments.a.b == 1; \"x\" in input.subject.roles }")}}})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		"arguments": true, "arguments a": true, "arguments a b": true, "arguments a b c": true, "arguments a x": false, "arguments b": false,
		"subject": true, "subject roles 0": true, "subject id": false, "": true,
	} {
		if got := e.MayRead(strings.Fields(path)); got != want {
			t.Errorf("%q: %t", path, got)
		}
	}
}

// TestTwoEnginesShareItems: a policy and its shadow, asked in turn, keep what each made of an item.
func TestTwoEnginesShareItems(t *testing.T) {
	item := &catalog.Item{Server: "s", Name: "n", Tags: []string{"t"}}
	var engines []*Engine
	for _, rule := range []string{`"t" in input.resource.tags`, `input.resource.name == "n"`} {
		e, err := Load(Options{Modules: []File{{Name: "p.rego", Text: []byte("package mcpgw.policy\nallow if " + rule)}}})
		if err != nil {
			t.Fatal(err)
		}
		engines = append(engines, e)
	}
	ask := func() {
		for _, e := range engines {
			if r := e.Decide(t.Context(), &policy.Question{Subject: &identity.Principal{}, Item: item}); r.Effect != policy.Allow {
				t.Fatalf("%+v", r)
			}
		}
	}
	ask()
	p := preparedOf(item)
	first, second := p.key.of(engines[0].identity), p.key.of(engines[1].identity)
	ask()
	if first == nil || second == nil || p.key.of(engines[0].identity) != first || p.key.of(engines[1].identity) != second {
		t.Error("the engines push out each other's keys")
	}
}
