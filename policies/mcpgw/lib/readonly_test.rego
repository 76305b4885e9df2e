# What counts as reading only.
package mcpgw.lib.readonly_test

import data.mcpgw.lib.readonly

tool(annotations) := {
	"action": {"name": "tools/call"},
	"resource": {"annotations": annotations, "claimed": {"annotations": {"readOnlyHint": true}}},
}

test_tool_that_says_so if readonly.reads_only with input as tool({"readOnlyHint": true})

test_tool_that_says_no if not readonly.reads_only with input as tool({"readOnlyHint": false})

test_a_claim_does_not_count if not readonly.reads_only with input as tool({})

test_only_true_counts if not readonly.reads_only with input as tool({"readOnlyHint": "yes"})

test_resources_and_prompts if {
	every method in ["resources/read", "prompts/get"] {
		readonly.reads_only with input as {"action": {"name": method}, "resource": {"annotations": {}}}
	}
}
