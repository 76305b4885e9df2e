package mcpgw.policy

allow if {
	"reader" in input.subject.roles
	input.resource.server == "everything"
}
