# Readers call anything but what deletes, and read small pieces.
package mcpgw.policy

allow if "reader" in input.subject.roles

deny contains "nothing is deleted here" if startswith(input.resource.name, "delete")

deny contains "1 to 10 bytes at a time" if {
	input.resource.name == "big"
	not few
}

few if {
	is_number(input.arguments.bytes)
	input.arguments.bytes >= 1
	input.arguments.bytes <= 10
}
