# METADATA
# title: Globs
# description: |
#   Patterns for names: * is any text, ? any one character, everything else is itself. A name that holds other characters of a glob
#   (brackets, braces, !, backslash), such as the template file:///{path}, matches only the very same pattern, so no pattern is ever
#   an error.
package mcpgw.lib.globs

matches(pattern, name) if pattern == name

matches(pattern, name) if {
	is_string(pattern)
	is_string(name)
	not regex.match(`[\[\]{}!\\]`, pattern)
	glob.match(pattern, null, name)
}

# One of a list of patterns.
matches_any(patterns, name) if {
	some pattern in patterns
	matches(pattern, name)
}

# The values that a table holds for the item: table[pattern of the server][pattern of the item's name].
of_item(table) := {value |
	some server, names in table
	matches(server, input.resource.server)
	some name, value in names
	matches(name, input.resource.name)
}
