# What the proofs accept, and that they accept nothing else.
package mcpgw.lib.arguments_test

import data.mcpgw.lib.arguments

test_numbers_within if {
	every n in [1, 1.5, 50, 50.0] {
		arguments.number_between(n, 1, 50)
	}
}

test_what_is_no_number_within if {
	every n in [0, -1, 50.5, 1e300, null, false, true, "5", [5], {"a": 5}, {5}] {
		not arguments.number_between(n, 1, 50)
	}
}

few if arguments.number_between(input.arguments.max_count, 1, 50)

# What the use in a deny relies on: with no argument at all the proof fails, and so the rule that holds it.
test_absent_argument if {
	not few with input as {"arguments": {}}
	not few with input as {}
	few with input as {"arguments": {"max_count": 5}}
}

# Why that rule is needed. If this test fails, OPA has changed and the advice can be simpler.
test_negated_call_of_absent_argument_is_undefined if {
	count([1 | not arguments.number_between(input.arguments.max_count, 1, 50)]) == 0 with input as {"arguments": {}}
}

test_integers if {
	arguments.integer_between(5, 1, 50)
	arguments.integer_between(5.0, 1, 50)
	not arguments.integer_between(5.5, 1, 50)
	not arguments.integer_between("5", 1, 50)
}

test_short_text if {
	arguments.short_text("grün", 4)
	not arguments.short_text("green", 4)
	not arguments.short_text([1], 4)
}

test_text_like if {
	arguments.text_like("abc-1", `[a-z]+-[0-9]`)
	not arguments.text_like("abc-12", `[a-z]+-[0-9]`)
	not arguments.text_like("x|abc-1", `x|[a-z]+-[0-9]`)
	not arguments.text_like(5, `.*`)
}

test_one_of if {
	arguments.one_of("a", {"a", "b"})
	not arguments.one_of("c", {"a", "b"})
	not arguments.one_of(null, {"a", "b"})
}
