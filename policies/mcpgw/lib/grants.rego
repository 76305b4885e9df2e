# METADATA
# title: Grants as data
# description: |
#   Who may use which item, as data instead of rules: data.grants[server][name] is a list of roles. The name "*" grants every
#   item of the server. Import it, and nothing is allowed that the data does not name:
#
#     import data.mcpgw.lib.grants
#     allow if grants.granted
package mcpgw.lib.grants

# A role of the subject is granted the item itself, or its whole server.
granted if {
	some name in [input.resource.name, "*"]
	some role in data.grants[input.resource.server][name]
	role in input.subject.roles
}
