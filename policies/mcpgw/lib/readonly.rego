# METADATA
# title: Read-only items
# description: |
#   What an item does, by the annotations that count: those set in the configuration, and those of servers whose annotations the
#   configuration trusts. What a server merely claims of itself (input.resource.claimed) is not asked.
#
#     import data.mcpgw.lib.readonly
#     allow if {
#         "reader" in input.subject.roles
#         readonly.reads_only
#     }
package mcpgw.lib.readonly

# Resources and prompts are read by their nature; a tool must say so.
reads_only if input.resource.annotations.readOnlyHint == true

reads_only if input.action.name in {"resources/read", "prompts/get"}
