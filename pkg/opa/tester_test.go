package opa

import (
	"encoding/json"
	"fmt"
	"testing"
)

func TestScratch(t *testing.T) {
	mods := []File{{"p.rego", []byte(`package mcpgw.policy

allow if {
	"reader" in input.subject.roles
	input.resource.annotations.readOnlyHint == true
}

deny contains "1 to 50" if {
	input.resource.name == "git_log"
	not small_count
}

small_count if {
	is_number(input.arguments.max_count)
	input.arguments.max_count >= 1
	input.arguments.max_count <= 50
}
`)}, {"p_test.rego", []byte(`package mcpgw.policy_test

import data.mcpgw.main
import data.mcpgw.policy
import data.mcpgw.test as mcp

effect(x) := r.effect if r := main.ruling with input as x

q(n) := {"subject": {"roles": ["reader"]}, "resource": {"name": "git_log", "annotations": {"readOnlyHint": true}}, "arguments": {"max_count": n}}

test_good if effect(q(5)) == "allow"

test_bad if effect(q(51)) == "allow"

test_every if {
	every n in [1, 50, 51] {
		effect(q(n)) == "allow"
	}
}

test_allow if policy.allow with input as q(5)

test_not if not policy.allow with input as q(5)

test_missing if not policy.allow with input as mcp.call("reader", "git", "nope", {})

test_cases[note] if {
	some note, tc in {
		"one": {"n": 1, "effect": "allow"},
		"two": {"n": 100, "effect": "allow"},
		"three": {"n": 100, "effect": "deny"},
	}
	effect(q(tc.n)) == tc.effect
}

test_dup[tc.note] if {
	some tc in [{"note": "a", "n": 1}, {"note": "a", "n": 100}]
	effect(q(tc.n)) == "allow"
}

todo_test_later if false

test_loop if {
	some i in numbers.range(1, 100000)
	some j in numbers.range(1, 100000)
	i + j == -1
}
`)}}
	c := &Coverage{}
	res, err := RunTests(t.Context(), TestOptions{Modules: mods, Coverage: c, Timeout: 300000000, Question: func([]byte) ([]byte, error) { return nil, fmt.Errorf("no such item") }})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range res {
		b, _ := json.MarshalIndent(r, "", " ")
		fmt.Println(string(b), r.Err)
	}
	fmt.Printf("%+v\n", c.Rules(mods))
}
