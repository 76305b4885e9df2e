# METADATA
# title: Allow-lists
# description: |
#   Which servers and items may be used at all, by glob, whoever asks: data.allowlist[pattern of a server] is a list of patterns of
#   names.
#
#     allowlist:
#       git: [git_log, "git_diff*"]
#       "docs-*": ["*"]
#
#     import data.mcpgw.lib.allowlist
#     deny contains "not on the allow-list" if not allowlist.listed
package mcpgw.lib.allowlist

import data.mcpgw.lib.globs

# The item is on the list. Without a list nothing is.
listed if {
	some server, names in data.allowlist
	globs.matches(server, input.resource.server)
	globs.matches_any(names, input.resource.name)
}

# Something of the item's server is on the list.
server_listed if {
	some server, names in data.allowlist
	globs.matches(server, input.resource.server)
	is_array(names)
	count(names) > 0
}
