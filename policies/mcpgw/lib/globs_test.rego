# What patterns match.
package mcpgw.lib.globs_test

import data.mcpgw.lib.globs

test_matches if {
	every pattern, names in {
		"git_log": ["git_log"],
		"git_*": ["git_log", "git_", "git_a.b/c"],
		"*": ["", "a", "a.b", "file:///a/b"],
		"git_?": ["git_a", "git_."],
		"file:///{path}": ["file:///{path}"],
		"a[bc]": ["a[bc]"],
		`a\`: [`a\`],
	} {
		every name in names {
			globs.matches(pattern, name)
		}
	}
}

test_what_does_not_match if {
	every pattern, names in {
		"git_log": ["git_logs", "a_git_log", "GIT_LOG", null, 5],
		"git_*": ["git", "a_git_b", null],
		"git_?": ["git_", "git_ab"],
		"file:///{path}": ["file:///path", "file:///a"],
		"a[bc]": ["ab"],
		"[": ["a"],
		"{a": ["a"],
		`\`: ["a"],
		"": ["a"],
	} {
		every name in names {
			not globs.matches(pattern, name)
		}
	}
}

test_what_is_no_pattern if {
	every pattern in [null, 5, true, ["*"], {"*": 1}] {
		not globs.matches(pattern, "a")
	}
}

test_any if {
	globs.matches_any(["a", "b*"], "bc")
	not globs.matches_any(["a", "b*"], "c")
	not globs.matches_any([], "c")
	not globs.matches_any(null, "c")
	not globs.matches_any(5, "c")
}

test_of_item if {
	table := {"git": {"git_log": 1, "git_*": 2, "time_*": 3}, "g*": {"*": 4}, "time": {"*": 5}}
	globs.of_item(table) == {1, 2, 4} with input as {"resource": {"server": "git", "name": "git_log"}}
	globs.of_item(table) == set() with input as {"resource": {"server": "hg", "name": "git_log"}}
	globs.of_item(table) == set() with input as {}
	globs.of_item({"git": 5}) == set() with input as {"resource": {"server": "git", "name": "git_log"}}
}
