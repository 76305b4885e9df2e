# What the policy is meant to do. A rule whose name begins with test_ is a test.
package mcpgw.policy_test

import data.mcpgw.main

# The question for a call of a tool by somebody with one role.
call(role, server, tool, arguments) := {
	"subject": {"roles": [role]},
	"action": {"name": "tools/call"},
	"resource": {"type": "tool", "server": server, "name": tool},
	"arguments": arguments,
}

# The effect of the ruling: allow, deny or ask. The tests bring grants of their own, so that they do not change with data.yaml.
effect(question) := ruling.effect if {
	ruling := main.ruling with input as question with data.grants as {
		"git": {"git_status": ["reader", "writer"], "git_log": ["reader"], "git_commit": ["writer"]},
		"time": {"*": ["reader"]},
	}
}

test_roles_get_what_they_are_granted if {
	effect(call("reader", "git", "git_status", {})) == "allow"
	effect(call("writer", "git", "git_commit", {"message": "fix"})) == "allow"
	effect(call("reader", "time", "get_current_time", {"timezone": "UTC"})) == "allow"
}

test_everything_else_is_refused if {
	effect(call("reader", "git", "git_commit", {"message": "fix"})) == "deny" # another role's
	effect(call("writer", "git", "git_push", {})) == "deny" # nobody's
	effect(call("reader", "mail", "send", {})) == "deny" # a server without grants
	effect(call("guest", "git", "git_status", {})) == "deny"
	effect({}) == "deny"
}

test_short_logs if {
	every n in [1, 10, 50] {
		effect(call("reader", "git", "git_log", {"max_count": n})) == "allow"
	}
}

test_no_other_logs if {
	every n in [0, -1, 51, 1.5, null, false, "10", [10]] {
		effect(call("reader", "git", "git_log", {"max_count": n})) == "deny"
	}
	effect(call("reader", "git", "git_log", {})) == "deny"
}

test_the_refusal_says_why if {
	ruling := main.ruling with input as call("reader", "git", "git_log", {"max_count": 51})
	some reason in ruling.reasons
	contains(reason.message, "1 to 50")
}
