# What is on the list.
package mcpgw.lib.allowlist_test

import data.mcpgw.lib.allowlist

list := {"git": ["git_log", "git_diff*"], "docs-*": ["*"], "empty": [], "odd": 5, "*dd": "git_*", "none": null}

item(server, name) := {"resource": {"server": server, "name": name}}

test_listed if {
	every server, names in {"git": ["git_log", "git_diff", "git_diff_staged"], "docs-a": ["x", "file:///a/b"]} {
		every name in names {
			allowlist.listed with input as item(server, name) with data.allowlist as list
		}
	}
}

test_not_listed if {
	every server, names in {"git": ["git_push", "git_logs", ""], "docs": ["x"], "xdocs-a": ["x"], "empty": ["x"], "odd": ["git_log"], "none": ["x"], "": [""]} {
		every name in names {
			not allowlist.listed with input as item(server, name) with data.allowlist as list
		}
	}
}

test_no_list if {
	not allowlist.listed with input as item("git", "git_log")
	not allowlist.listed with input as item("git", "git_log") with data.allowlist as {}
	not allowlist.listed with input as {} with data.allowlist as list
}

test_server_listed if {
	allowlist.server_listed with input as item("git", "git_push") with data.allowlist as list
	not allowlist.server_listed with input as item("empty", "a") with data.allowlist as list
	every server in ["hg", "odd", "none"] {
		not allowlist.server_listed with input as item(server, "a") with data.allowlist as list
	}
}
