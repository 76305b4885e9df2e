# Labels, lost ones, sources and sinks.
package mcpgw.lib.flow_test

import data.mcpgw.lib.flow

session(labels, lost) := {"context": {"session": {"labels": labels, "lost": lost}}}

tables := {
	"sources": {"vault": {"*": ["secret"], "read_person": ["person"]}, "w*": {"fetch": ["foreign"]}},
	"sinks": {"mail": {"send*": ["secret", "person"]}},
}

call(server, name, labels, lost) := object.union(session(labels, lost), {"resource": {"server": server, "name": name}})

test_tainted if {
	flow.tainted("secret") with input as session(["secret", "x"], false)
	not flow.clean("secret") with input as session(["secret", "x"], false)
	not flow.tainted("secret") with input as session(["x"], false)
	flow.clean("secret") with input as session(["x"], false)
	flow.clean("secret") with input as session([], false)
}

test_lost_labels_count if {
	flow.tainted("secret") with input as session([], true)
	not flow.clean("secret") with input as session([], true)
	flow.tainted_by(["secret"]) with input as session([], true)
	not flow.untouched with input as session([], true)
}

# Whatever is not a session that is known is tainted.
test_no_session_counts if {
	every question in [{}, {"context": {}}, {"context": {"session": {}}}, {"context": {"session": {"labels": []}}}, {"context": {"session": {"lost": false}}}, session(null, false), session([], null)] {
		flow.tainted("secret") with input as question
		not flow.clean("secret") with input as question
		not flow.untouched with input as question
	}
}

test_tainted_by if {
	flow.tainted_by(["a", "b"]) with input as session(["b"], false)
	flow.tainted_by({"a", "b"}) with input as session(["b"], false)
	not flow.tainted_by(["a", "b"]) with input as session(["c"], false)
	not flow.tainted_by([]) with input as session(["c"], true)
}

test_untouched if {
	flow.untouched with input as session([], false)
	not flow.untouched with input as session(["a"], false)
}

test_given if {
	flow.given == {"secret", "person"} with input as call("vault", "read_person", [], false) with data.flow as tables
	flow.given == {"foreign"} with input as call("web", "fetch", [], false) with data.flow as tables
	flow.given == set() with input as call("mail", "send", [], false) with data.flow as tables
	flow.given == set() with input as call("vault", "read", [], false)
	every odd in [5, null, "a", [1], {"vault": 5}, {"vault": {"read": 5}}] {
		flow.given == set() with input as call("vault", "read", [], false) with data.flow as {"sources": odd}
	}
}

test_leaks if {
	flow.leaks == {"secret"} with input as call("mail", "send", ["secret", "foreign"], false) with data.flow as tables
	flow.leaks == {"secret", "person"} with input as call("mail", "send_all", [], true) with data.flow as tables
	flow.leaks == set() with input as call("mail", "send", ["foreign"], false) with data.flow as tables
	flow.leaks == set() with input as call("mail", "read", ["secret"], false) with data.flow as tables
	flow.leaks == set() with input as call("mail", "send", ["secret"], true)
}
