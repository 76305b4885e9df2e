# METADATA
# title: Questions for tests
# description: |
#   Builds the whole question that the gateway would ask, so that a test is about the same input as a call:
#
#     import data.mcpgw.policy
#     import data.mcpgw.test as mcp
#     test_reader_reads if { policy.allow with input as mcp.call("reader", "git", "git_log", {"max_count": 5}) }
#
#   Who calls is a role, or an object with members of input.subject: {"id": "ann", "roles": ["reader"], "tenant": "acme"}. The item
#   comes from the catalog that `mcpgw policy test` was given; one that is not there fails the test, under a "not" too. Only tests
#   may import this package.
package mcpgw.test

# A call of a tool of a server, by its own name.
call(who, server, tool, arguments) := mcpgw.question({"who": who, "calls": sprintf("%s/%s", [server, tool]), "with": arguments})

# A read of a resource, by its URI; one that matches a template is a read of that.
read(who, server, uri) := mcpgw.question({"who": who, "reads": sprintf("%s/%s", [server, uri])})

# A prompt, with its arguments.
get(who, server, prompt, arguments) := mcpgw.question({"who": who, "gets": sprintf("%s/%s", [server, prompt]), "with": arguments})

# Everything else: an object with who; calls, reads or gets (SERVER/NAME); with; and what else a table test may say, as in
# {"annotations": {"readOnlyHint": true}, "labels": ["secret"], "time": "2026-03-01T12:00:00Z", "drift": "new"}.
question(description) := mcpgw.question(description)
