# Run by `mcpgw policy test examples/quickstart/policy`, which takes the items from catalog.json beside this file.
package mcpgw.policy_test

import data.mcpgw.main
import data.mcpgw.test as mcp

git(role, name, arguments) := mcp.call(role, "git", name, arguments)

effect(question) := ruling.effect if {
	ruling := main.ruling with input as question
}

test_reader_reads if {
	effect(git("reader", "git_status", {"repo_path": "."})) == "allow"
	effect(mcp.call("reader", "time", "get_current_time", {"timezone": "UTC"})) == "allow"
}

test_reader_gets_resources_and_prompts if {
	effect(mcp.read("reader", "everything", "test://static-text")) == "allow"
	effect(mcp.get("reader", "everything", "test_simple_prompt", {})) == "allow"
}

test_reader_does_not_write if {
	every name in ["git_add", "git_commit", "git_reset", "git_checkout", "git_create_branch"] {
		effect(git("reader", name, {"repo_path": "."})) == "deny"
	}
}

# The names are refused even where annotations would let them through.
test_names_are_refused_whatever_the_annotations if {
	every name in ["git_add", "git_commit", "git_reset"] {
		effect(mcp.question({"who": "reader", "calls": concat("/", ["git", name]), "annotations": {"readOnlyHint": true}})) == "deny"
	}
}

test_reader_sees_a_short_log if {
	every n in [1, 10, 50] {
		effect(git("reader", "git_log", {"repo_path": ".", "max_count": n})) == "allow"
	}
}

test_reader_sees_no_long_log if {
	every n in [51, 0, -1, 50.5, 1e300, null, false, "5", [5]] {
		effect(git("reader", "git_log", {"repo_path": ".", "max_count": n})) == "deny"
	}
	effect(git("reader", "git_log", {"repo_path": "."})) == "deny"
}

test_the_refusal_says_why if {
	some reason in main.ruling.reasons with input as git("reader", "git_log", {"max_count": 51})
	contains(reason.message, "1 to 50")
}

test_writer_does_everything if {
	every name in ["git_commit", "git_add", "git_reset", "git_status"] {
		effect(git("writer", name, {"repo_path": "."})) == "allow"
	}
	effect(git("writer", "git_log", {"repo_path": ".", "max_count": 1000})) == "allow"
}

test_nobody_else_does_anything if {
	effect(git("guest", "git_status", {"repo_path": "."})) == "deny"
	effect(git({"type": "anonymous"}, "git_status", {"repo_path": "."})) == "deny"
	effect({}) == "deny"
}
