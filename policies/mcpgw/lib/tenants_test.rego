# Tenants keep to themselves.
package mcpgw.lib.tenants_test

import data.mcpgw.lib.tenants

all := {
	"acme": {"servers": ["git", "acme-*"], "grants": {"git": {"git_log": ["reader"]}, "acme-db": {"*": ["writer"]}, "hg": {"*": ["reader"]}}},
	"bolt": {"servers": ["hg"]},
	"odd": "nothing",
	"odder": {"servers": 5, "grants": 5},
	"": {"servers": ["*"], "grants": {"git": {"*": ["reader"]}}},
}

call(tenant, role, server, name) := {
	"subject": {"tenant": tenant, "roles": [role]},
	"resource": {"server": server, "name": name},
	"arguments": {"tenant": tenant, "nested": {"org": "acme"}},
}

test_known if {
	tenants.known with input as call("acme", "", "git", "a") with data.tenants as all
	every tenant in ["", "other", "odd"] {
		not tenants.known with input as call(tenant, "", "git", "a") with data.tenants as all
	}
	not tenants.known with input as call("acme", "", "git", "a")
	not tenants.known with input as {} with data.tenants as all
}

test_at_home if {
	every server in ["git", "acme-db"] {
		tenants.at_home with input as call("acme", "", server, "a") with data.tenants as all
	}
	every tenant, server in {"acme": "hg", "bolt": "git", "": "git", "odd": "git", "odder": "git", "other": "git"} {
		not tenants.at_home with input as call(tenant, "", server, "a") with data.tenants as all
	}
}

test_granted if {
	tenants.granted with input as call("acme", "reader", "git", "git_log") with data.tenants as all
	tenants.granted with input as call("acme", "writer", "acme-db", "query") with data.tenants as all
}

test_not_granted if {
	every question in [
		call("acme", "writer", "git", "git_log"), # another role
		call("acme", "reader", "git", "git_push"), # another item
		call("acme", "reader", "hg", "a"), # granted, but at another's server
		call("bolt", "reader", "hg", "a"), # no grants at all
		call("", "reader", "git", "git_log"), # no tenant
		{},
	] {
		not tenants.granted with input as question with data.tenants as all
	}
}

test_named_by if {
	tenants.named_by("tenant") with input as call("acme", "", "git", "a")
	tenants.named_by(["nested", "org"]) with input as call("acme", "", "git", "a")
	not tenants.named_by(["nested", "org"]) with input as call("bolt", "", "git", "a")
	not tenants.named_by("absent") with input as call("acme", "", "git", "a")
	not tenants.named_by("tenant") with input as call("", "", "git", "a")
	not tenants.named_by("tenant") with input as {}
}
