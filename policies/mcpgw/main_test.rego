# How the main module combines the rules of a policy.
package mcpgw.main_test

import data.mcpgw.main

test_cases[note] if {
	some note, tc in {
		"nothing said is a denial": {"policy": {}, "effect": "deny", "messages": []},
		"allow": {"policy": {"allow": true}, "effect": "allow", "messages": []},
		"allow must be true": {"policy": {"allow": "yes"}, "effect": "deny", "messages": []},
		"allow false": {"policy": {"allow": false}, "effect": "deny", "messages": []},
		"deny wins": {"policy": {"allow": true, "deny": {"no"}}, "effect": "deny", "messages": ["no"]},
		"empty sets say nothing": {"policy": {"allow": true, "deny": set(), "ask": set()}, "effect": "allow", "messages": []},
		"all messages": {"policy": {"deny": {"b", "a"}}, "effect": "deny", "messages": ["a", "b"]},
		"a message that is no text": {"policy": {"allow": true, "deny": {7}}, "effect": "deny", "messages": ["refused by policy"]},
		"ask refuses in this version": {
			"policy": {"allow": true, "ask": {"sure?"}}, "effect": "deny",
			"messages": ["needs a human's confirmation, which this version cannot ask for: sure?"],
		},
		"an obligation refuses in this version": {
			"policy": {"allow": true, "redact": {{"path": "/a", "with": ""}}}, "effect": "deny",
			"messages": ["a rule asks for \"redact\", which this version cannot do"],
		},
	}

	ruling := main.ruling with data.mcpgw.policy as tc.policy
	ruling.effect == tc.effect
	[reason.message | some reason in sort(ruling.reasons)] == tc.messages
}

test_every_obligation_refuses if {
	every name in ["ask", "rewrite", "redact", "label", "limit", "require_scope"] {
		ruling := main.ruling with data.mcpgw.policy as {"allow": true, name: {"x"}}
		ruling.effect == "deny"
		count(ruling.reasons) == 1
		some reason in ruling.reasons
		reason.rule == name
	}
}

test_any_ask if {
	main.any_ask with data.mcpgw.policy.ask as {"sure?"}
	not main.any_ask with data.mcpgw.policy.ask as set()
}
