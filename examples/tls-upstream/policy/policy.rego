package mcpgw.policy

allow if "local" in input.subject.roles
