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
		"ask wins over allow": {"policy": {"allow": true, "ask": {"sure?"}}, "effect": "ask", "messages": ["sure?"]},
		"ask needs no allow": {"policy": {"ask": {"sure?"}}, "effect": "ask", "messages": ["sure?"]},
		"deny wins over ask": {"policy": {"deny": {"no"}, "ask": {"sure?"}}, "effect": "deny", "messages": ["no"]},
		"an obligation that is not known refuses": {
			"policy": {"allow": true, "limit": {{"bucket": "b"}}}, "effect": "deny",
			"messages": ["a rule asks for \"limit\", which this version cannot do"],
		},
	}

	ruling := main.ruling with data.mcpgw.policy as tc.policy
	ruling.effect == tc.effect
	[reason.message | some reason in sort(ruling.reasons)] == tc.messages
}

test_obligations_are_part_of_the_ruling if {
	rules := {"rewrite": {{"path": "/a", "value": 1}}, "redact": {{"pattern": "x"}}, "label": {"secret"}}
	allowed := main.ruling with data.mcpgw.policy as object.union({"allow": true}, rules)
	allowed == object.union({"effect": "allow", "reasons": set()}, rules)
	asked := main.ruling with data.mcpgw.policy as object.union({"ask": {"sure?"}}, rules)
	asked == object.union({"effect": "ask", "reasons": {{"rule": "ask", "message": "sure?"}}}, rules)
	denied := main.ruling with data.mcpgw.policy as object.union({"deny": {"no"}}, rules)
	object.keys(denied) == {"effect", "reasons"}
}

test_what_is_not_known_refuses if {
	every name in ["limit", "require_scope"] {
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
