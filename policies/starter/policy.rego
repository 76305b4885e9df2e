# Who may do what through the gateway. What no rule here allows is refused.
#
#   mcpgw policy check DIR    finds mistakes
#   mcpgw policy test DIR     runs the tests in policy_test.rego
#   mcpgw policy fmt DIR      lays the files out
#
# DIR is this directory. A configuration names it, and the data beside it:
#
#   policy:
#     directory: DIR
#     data_files: [DIR/data.yaml]
#
# An allow rule opens; any deny closes, whatever is allowed, and its message is shown to the caller. Rules read the call as input:
# input.subject (id, roles, tenant, claims), input.resource (server, name, annotations), input.arguments and more, as
# policies/input.schema.json describes it. What stands below data.mcpgw.lib is the library that the gateway ships.
package mcpgw.policy

import data.mcpgw.lib.arguments
import data.mcpgw.lib.grants

# Grants are data: data.yaml names the roles that may use each item of each server.
allow if grants.granted

# One argument is limited. The rule says what is proved harmless and refuses everything else, so that a call without the argument, or
# with null in its place, is refused too.
deny contains "git_log shows 1 to 50 commits: set max_count to a whole number from 1 to 50" if {
	input.resource.server == "git"
	input.resource.name == "git_log"
	not few_commits
}

few_commits if arguments.integer_between(input.arguments.max_count, 1, 50)
