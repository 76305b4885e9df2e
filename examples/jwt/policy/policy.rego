package mcpgw.policy

import data.mcpgw.lib.grants

# data.grants, from grants.json: server, tool, roles. What it does not name is not allowed.
allow if grants.granted

# Text that a token does not say is empty, never absent.
deny contains "the token names no tenant" if input.subject.tenant == ""
