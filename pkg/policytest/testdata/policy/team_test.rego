package mcpgw.policy_test

import data.mcpgw.policy
import data.mcpgw.test as mcp

test_reader if policy.allow with input as mcp.call("reader", "git", "git_log", {"max_count": 5})

test_lost_counts_as_marked if {
	policy.redact != set() with input as mcp.question({"who": "writer", "calls": "git/git_push", "lost": true})
}

test_many_are_few if {
	question := mcp.call("reader", "git", "git_log", {"max_count": 51})
	policy.few with input as question
}

test_counts[note] if {
	some note, n in {"one": 1, "fifty": 50, "none": 0}
	policy.few with input as mcp.call("reader", "git", "git_log", {"max_count": n})
}

test_misspelt if not policy.allow with input as mcp.call("reader", "git", "git_lgo", {})

test_prints if {
	print("what <this> is", 5)
	false
}

todo_test_later if false
