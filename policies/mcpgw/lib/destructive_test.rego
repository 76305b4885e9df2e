# What may destroy.
package mcpgw.lib.destructive_test

import data.mcpgw.lib.destructive

tool(annotations) := {
	"action": {"name": "tools/call"},
	"resource": {"type": "tool", "annotations": annotations, "claimed": {"annotations": {"destructiveHint": false, "openWorldHint": false}}},
}

test_possible if {
	every annotations in [{}, {"destructiveHint": true}, {"readOnlyHint": false}, {"destructiveHint": "false"}, {"destructiveHint": null}] {
		destructive.possible with input as tool(annotations)
		not destructive.excluded with input as tool(annotations)
	}
	destructive.possible with input as {}
}

test_excluded if {
	every annotations in [{"destructiveHint": false}, {"readOnlyHint": true}] {
		destructive.excluded with input as tool(annotations)
		not destructive.possible with input as tool(annotations)
	}
	destructive.excluded with input as {"action": {"name": "resources/read"}, "resource": {"annotations": {}}}
}

test_repeatable if {
	destructive.repeatable with input as tool({"idempotentHint": true})
	destructive.repeatable with input as tool({"readOnlyHint": true})
	not destructive.repeatable with input as tool({})
	not destructive.repeatable with input as tool({"idempotentHint": "yes"})
}

test_open_world if {
	destructive.open_world with input as tool({})
	destructive.open_world with input as tool({"openWorldHint": true})
	not destructive.open_world with input as tool({"openWorldHint": false})
	destructive.closed_world with input as tool({"openWorldHint": false})
}
