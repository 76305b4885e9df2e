package mcpgw.policy
