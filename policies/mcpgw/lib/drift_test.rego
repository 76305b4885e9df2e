# Drift and findings.
package mcpgw.lib.drift_test

import data.mcpgw.lib.drift

item(state, findings) := {"resource": {"drift": state, "findings": findings}}

test_drift if {
	drift.none with input as item("", [])
	not drift.new with input as item("", [])
	not drift.changed with input as item("", [])
	drift.new with input as item("new", [])
	not drift.changed with input as item("new", [])
	drift.changed with input as item("changed", [])
	not drift.none with input as item("changed", [])
	not drift.new with input as item("changed", [])
}

test_what_is_not_known_has_changed if {
	drift.changed with input as item("vanished", [])
	drift.changed with input as item(null, [])
	drift.changed with input as {}
}

test_suspicious if {
	drift.suspicious with input as item("", ["invisible_characters"])
	drift.suspicious with input as item("", null)
	drift.suspicious with input as {}
	not drift.suspicious with input as item("", [])
}

test_found if {
	drift.found("hidden_text") with input as item("", ["confusable_name", "hidden_text"])
	not drift.found("hidden_text") with input as item("", ["confusable_name"])
	not drift.found("hidden_text") with input as item("", [])
	not drift.found("hidden_text") with input as {}
}
