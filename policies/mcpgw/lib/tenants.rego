# METADATA
# title: Tenants
# description: |
#   What belongs to which tenant, as data: data.tenants[tenant] has the patterns of its servers, and may have grants of its own, in
#   the form of data.grants.
#
#     tenants:
#       acme: {servers: [git, "acme-*"], grants: {git: {git_log: [reader]}}}
#
#     import data.mcpgw.lib.tenants
#     deny contains "not a server of your tenant" if not tenants.at_home
#
#   A caller without a tenant belongs to none, and no two callers without one are of the same.
package mcpgw.lib.tenants

import data.mcpgw.lib.globs

# The caller's tenant, if the data knows it.
known if is_object(own)

own := data.tenants[input.subject.tenant] if input.subject.tenant != ""

# The item's server is one of the caller's tenant.
at_home if globs.matches_any(own.servers, input.resource.server)

# The server is the tenant's, and a role of the subject is granted the item itself or its whole server, within the tenant.
granted if {
	at_home
	some name in [input.resource.name, "*"]
	some role in own.grants[input.resource.server][name]
	role in input.subject.roles
}

# The argument of this name (or path) is the caller's own tenant.
named_by(argument) if {
	input.subject.tenant != ""
	object.get(input.arguments, argument, null) == input.subject.tenant
}
