package mcpgw.policy

# One caller, on his own machine. Deny here what no client should do, whatever its file says.
allow if "local" in input.subject.roles
