# METADATA
# title: Proofs about arguments
# description: |
#   Functions that hold only when a value is proved harmless. Write a rule that holds when they do, and refuse unless it holds:
#
#     import data.mcpgw.lib.arguments
#     deny contains "1 to 50 commits" if not few_commits
#     few_commits if arguments.number_between(input.arguments.max_count, 1, 50)
#
#   The rule in between is needed: "not f(input.arguments.n)" is undefined, and not true, if there is no n, so that a deny with it
#   lets the call pass. A rule without arguments can be denied safely. And a proof is needed because Rego orders values of all
#   types: null and false lie below every number and text above, so "deny if amount > 1000" lets null pass, and no amount as well.
package mcpgw.lib.arguments

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
	regex.match(sprintf("^(?:%s)$", [pattern]), value)
}

# One of a set of values.
one_of(value, values) if value in values
