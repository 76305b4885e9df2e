# METADATA
# title: Break-glass grants
# description: |
#   What somebody may do for a while, with a ticket that says why, as data: data.breakglass is a list of grants.
#
#     breakglass:
#       - {subject: ann, server: db, name: "query*", from: "2026-11-25T18:00:00Z", expires: "2026-11-25T22:00:00Z", ticket: INC-4711}
#
#     import data.mcpgw.lib.breakglass
#     allow if breakglass.open
#     label contains sprintf("ticket:%s", [ticket]) if some ticket in breakglass.tickets
#
#   All but from are needed; server and name are patterns; issuer, where it is said, must be the caller's. A grant without ticket or
#   expiry, or with a time that is not understood, is none. Rules that read the time make every ruling of the policy one that is never
#   remembered.
package mcpgw.lib.breakglass

import data.mcpgw.lib.globs
import data.mcpgw.lib.windows

open if some _ in tickets

# The tickets of the grants that cover this call.
tickets contains grant.ticket if {
	some grant in data.breakglass
	is_string(grant.ticket)
	trim_space(grant.ticket) != ""
	is_string(grant.subject)
	grant.subject != ""
	grant.subject == input.subject.id
	object.get(grant, "issuer", input.subject.issuer) == input.subject.issuer
	globs.matches(grant.server, input.resource.server)
	globs.matches(grant.name, input.resource.name)
	windows.before(grant.expires)
	windows.since(object.get(grant, "from", "0000-01-01T00:00:00Z"))
}
