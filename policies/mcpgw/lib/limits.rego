# METADATA
# title: Limits of arguments as data
# description: |
#   What arguments may be, as data instead of rules. data.limits[server][tool][argument] names what must hold of it:
#
#     limits:
#       git:
#         git_log:
#           max_count: {integer: true, least: 1, most: 50}
#           branch: {pattern: "[a-z/]+", optional: true}
#
#     import data.mcpgw.lib.limits
#     deny contains message if some message in limits.broken
#
#   least, most: a number between; integer: true: a whole number; characters: text of at most so many; pattern: text that matches
#   the whole RE2 pattern; values: one of a list; folder: a path inside it; hosts: an https URL to one of a list. What is limited must
#   be sent, unless it says optional: true. A word that is not known here breaks the limit, so that a misspelt one lets nothing pass.
#   Data decides which arguments are read, so rulings are remembered for equal arguments only.
package mcpgw.lib.limits

import data.mcpgw.lib.arguments

# A message for each argument that breaks its limits.
broken contains message if {
	some name, limit in data.limits[input.resource.server][input.resource.name]
	not kept(name, limit)
	message := sprintf("%s: the argument %s is not within its limits", [input.resource.name, name])
}

kept(name, limit) if {
	limit.optional == true
	arguments.value_of(name) == null
}

kept(name, limit) if {
	is_object(limit)
	value := arguments.value_of(name)
	value != null
	every word, bound in limit {
		holds(word, bound, value)
	}
}

holds("optional", bound, _) if is_boolean(bound)

holds("integer", true, value) if {
	is_number(value)
	floor(value) == value
}

holds("least", bound, value) if {
	is_number(bound)
	is_number(value)
	value >= bound
}

holds("most", bound, value) if {
	is_number(bound)
	is_number(value)
	value <= bound
}

holds("characters", bound, value) if {
	is_number(bound)
	arguments.short_text(value, bound)
}

holds("pattern", bound, value) if {
	regex.is_valid(bound)
	arguments.text_like(value, bound)
}

holds("values", bound, value) if arguments.one_of(value, bound)

holds("folder", bound, value) if {
	is_string(bound)
	arguments.path_inside(value, bound)
}

holds("hosts", bound, value) if arguments.url_to(value, bound)
