# METADATA
# title: Proofs about arguments
# description: |
#   Functions that hold only when an argument is proved harmless, wherever it is absent, null or of another type. Refuse unless they
#   hold:
#
#     import data.mcpgw.lib.arguments
#     deny contains "1 to 50 commits" if not arguments.number("max_count", 1, 50)
#
#   They take the argument's name (or the path to a nested one, as in ["filter", "limit"]), not its value, and that is what makes
#   "not" safe: "not f(input.arguments.n)" is undefined, and not true, if there is no n, so that a deny with it lets the call pass.
#   A proof is needed because Rego orders values of all types: null and false lie below every number and text above, so that
#   "deny if amount > 1000" lets null pass, and no amount as well.
#
#   A policy that looks up an argument by a name that is handed on reads all arguments, so its rulings are remembered for equal
#   arguments only. Where that costs too much, use the functions further below, which take a value, in a rule without parameters:
#
#     deny contains "1 to 50 commits" if not few_commits
#     few_commits if arguments.number_between(input.arguments.max_count, 1, 50)
package mcpgw.lib.arguments

# A number, low <= value <= high.
number(name, low, high) if number_between(value_of(name), low, high)

# A whole number, low <= value <= high.
integer(name, low, high) if integer_between(value_of(name), low, high)

# Text of at most so many characters.
text(name, most) if short_text(value_of(name), most)

# Text that matches the whole of an RE2 pattern.
matches(name, pattern) if text_like(value_of(name), pattern)

# One of a set of values.
among(name, values) if one_of(value_of(name), values)

# A path that stays in a folder.
inside(name, folder) if path_inside(value_of(name), folder)

# An https URL to one of a set of hosts.
to_host(name, hosts) if url_to(value_of(name), hosts)

# Nothing is sent under this name, or null, false, 0 or an empty text: what tools take as "not asked for".
unset(name) if not set_to_something(name)

set_to_something(name) if not value_of(name) in {null, false, "", 0}

# No argument has a name that is not one of these.
only(names) if {
	is_object(input.arguments)
	count([name | some name, _ in input.arguments; not name in names]) == 0
}

# The value under a name; null if there is none.
value_of(name) := object.get(input.arguments, name, null)

# A number, low <= value <= high.
number_between(value, low, high) if {
	is_number(value)
	value >= low
	value <= high
}

# A whole number, low <= value <= high.
integer_between(value, low, high) if {
	number_between(value, low, high)
	floor(value) == value
}

# Text of at most so many characters.
short_text(value, most) if {
	is_string(value)
	count(value) <= most
}

# Text that matches the whole of an RE2 pattern.
text_like(value, pattern) if {
	is_string(value)
	regex.match(sprintf(`^(?:%s)\z`, [pattern]), value)
}

# One of a set of values.
one_of(value, values) if value in values

# The folder, or an absolute path below it: without a step up, without an empty step, a backslash or a control character. What
# symbolic links on the server lead to is not known here.
path_inside(value, folder) if {
	is_string(value)
	not regex.match(`[\x00-\x1f\x7f\\]|//|(^|/)\.\.?(/|$)`, value)
	startswith(sprintf("%s/", [value]), sprintf("%s/", [trim_right(folder, "/")]))
}

# https, one of the hosts exactly, an ordinary path; no user before the host, and nothing that two readers of URLs could read in two
# ways.
url_to(value, hosts) if {
	is_string(value)
	some [_, host] in regex.find_all_string_submatch_n(`^https://([A-Za-z0-9.-]+)(?::443)?(?:[/?#][!-\[\]-~]*)?\z`, value, 1)
	lower(host) in hosts
}
