# Break-glass grants: who, what, when, why.
package mcpgw.lib.breakglass_test

import data.mcpgw.lib.breakglass

grant := {
	"subject": "ann", "issuer": "https://issuer.example.org", "server": "db", "name": "query*",
	"from": "2026-11-25T18:00:00Z", "expires": "2026-11-25T22:00:00Z", "ticket": "INC-4711",
}

question := {
	"subject": {"id": "ann", "issuer": "https://issuer.example.org"},
	"resource": {"server": "db", "name": "query_all"},
	"context": {"time": "2026-11-25T20:00:00Z"},
}

test_open if {
	breakglass.open with input as question with data.breakglass as [grant]
	every missing in ["issuer", "from"] {
		breakglass.open with input as question with data.breakglass as [object.remove(grant, [missing])]
	}
}

test_tickets if {
	breakglass.tickets == {"INC-4711", "INC-2"} with input as question
		with data.breakglass as [grant, object.union(grant, {"ticket": "INC-2"}), object.union(grant, {"ticket": "INC-3", "subject": "bob"})]
}

test_other_questions if {
	every other in [
		{"subject": {"id": "bob"}}, {"subject": {"id": ""}}, {"subject": {"issuer": "https://elsewhere.example.org"}},
		{"resource": {"server": "db2"}}, {"resource": {"name": "drop"}},
		{"context": {"time": "2026-11-25T17:59:59Z"}}, {"context": {"time": "2026-11-25T22:00:00Z"}},
	] {
		not breakglass.open with input as object.union(question, other) with data.breakglass as [grant]
	}
	not breakglass.open with input as {} with data.breakglass as [grant]
	not breakglass.open with input as question
}

test_what_is_no_grant if {
	every missing in ["subject", "server", "name", "expires", "ticket"] {
		not breakglass.open with input as question with data.breakglass as [object.remove(grant, [missing])]
	}
	every entry in ["ann", 5, null, [], {}] {
		not breakglass.open with input as question with data.breakglass as [entry]
	}
	not breakglass.open with input as question with data.breakglass as "ann"
	every wrong in [
		{"ticket": ""}, {"ticket": " "}, {"ticket": 4711}, {"ticket": null}, {"subject": ""}, {"subject": null}, {"server": null},
		{"expires": "2026-12-25"}, {"expires": null}, {"expires": "never"}, {"from": "yesterday"}, {"from": null}, {"issuer": ""},
	] {
		not breakglass.open with input as question with data.breakglass as [object.union(grant, wrong)]
	}
}

test_nobody_is_not_somebody if {
	not breakglass.open with input as object.union(question, {"subject": {"id": ""}})
		with data.breakglass as [object.union(grant, {"subject": ""})]
}
