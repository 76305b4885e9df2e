# Grants: by item, by server, and by nothing else.
package mcpgw.lib.grants_test

import data.mcpgw.lib.grants

roles := {
	"git": {"git_push": ["writer"], "git_log": ["reader", "writer"]},
	"time": {"*": ["reader"]},
}

question(server, name, held) := {
	"subject": {"roles": held},
	"resource": {"server": server, "name": name},
}

test_granted if grants.granted with input as question("git", "git_log", ["reader"]) with data.grants as roles

test_granted_by_one_of_many_roles if {
	grants.granted with input as question("git", "git_push", ["reader", "writer"]) with data.grants as roles
}

test_whole_server if grants.granted with input as question("time", "now", ["reader"]) with data.grants as roles

test_other_role if not grants.granted with input as question("git", "git_push", ["reader"]) with data.grants as roles

test_other_item if not grants.granted with input as question("git", "git_gc", ["writer"]) with data.grants as roles

test_other_server if not grants.granted with input as question("hg", "git_log", ["reader"]) with data.grants as roles

test_no_role if not grants.granted with input as question("git", "git_log", []) with data.grants as roles

test_odd_data if {
	every odd in [5, null, "reader", [], {"git": 5}, {"git": {"git_log": 5}}, {"git": {"git_log": "reader"}}] {
		not grants.granted with input as question("git", "git_log", ["reader"]) with data.grants as odd
	}
}

test_no_data if not grants.granted with input as question("git", "git_log", ["reader"])
