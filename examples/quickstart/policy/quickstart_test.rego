package mcpgw.policy_test

import data.mcpgw.main

call(role, name, arguments) := {
	"subject": {"roles": [role]},
	"action": {"name": "tools/call"},
	"resource": {"type": "tool", "server": "git", "name": name, "annotations": {"readOnlyHint": reads(name)}},
	"arguments": arguments,
}

reads(name) if name in {"git_log", "git_status", "get_current_time"}

reads(name) := false if not name in {"git_log", "git_status", "get_current_time"}

effect(question) := ruling.effect if {
	ruling := main.ruling with input as question
}

test_reader_reads if {
	effect(call("reader", "git_status", {"repo_path": "."})) == "allow"
	effect(call("reader", "get_current_time", {"timezone": "UTC"})) == "allow"
}

test_reader_gets_resources_and_prompts if {
	every action in ["resources/read", "prompts/get"] {
		effect({"subject": {"roles": ["reader"]}, "action": {"name": action}, "resource": {"name": "x"}}) == "allow"
	}
}

test_reader_does_not_write if {
	every name in ["git_add", "git_commit", "git_reset", "git_checkout", "git_create_branch"] {
		effect(call("reader", name, {"repo_path": "."})) == "deny"
	}
}

# The names are refused even where annotations would let them through.
test_names_are_refused_whatever_the_annotations if {
	every name in ["git_add", "git_commit", "git_reset"] {
		question := object.union(call("reader", name, {}), {"resource": {"annotations": {"readOnlyHint": true}}})
		effect(question) == "deny"
	}
}

test_reader_sees_a_short_log if {
	every n in [1, 10, 50] {
		effect(call("reader", "git_log", {"repo_path": ".", "max_count": n})) == "allow"
	}
}

test_reader_sees_no_long_log if {
	every n in [51, 0, -1, 50.5, 1e300, null, false, "5", [5]] {
		effect(call("reader", "git_log", {"repo_path": ".", "max_count": n})) == "deny"
	}
	effect(call("reader", "git_log", {"repo_path": "."})) == "deny"
}

test_the_refusal_says_why if {
	some reason in main.ruling.reasons with input as call("reader", "git_log", {"max_count": 51})
	contains(reason.message, "1 to 50")
}

test_writer_does_everything if {
	every name in ["git_commit", "git_add", "git_reset", "git_status"] {
		effect(call("writer", name, {"repo_path": "."})) == "allow"
	}
	effect(call("writer", "git_log", {"repo_path": ".", "max_count": 1000})) == "allow"
}

test_nobody_else_does_anything if {
	effect(call("guest", "git_status", {"repo_path": "."})) == "deny"
	effect({}) == "deny"
}
