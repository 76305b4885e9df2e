# Limits: each word, what is absent, and what is not understood.
package mcpgw.lib.limits_test

import data.mcpgw.lib.limits

question(arguments) := {"resource": {"server": "git", "name": "git_log"}, "arguments": arguments}

broken(limit, arguments) := count(messages) > 0 if {
	messages := limits.broken with input as question(arguments) with data.limits as {"git": {"git_log": {"a": limit}}}
}

test_kept if {
	every limit, values in {
		{"least": 1, "most": 50}: [1, 1.5, 50],
		{"integer": true}: [1, -5, 2.0],
		{"characters": 3}: ["abc", ""],
		{"pattern": "[a-c]+"}: ["abc"],
		{"values": ["a", 1]}: ["a", 1],
		{"folder": "/srv"}: ["/srv/a"],
		{"hosts": ["example.org"]}: ["https://example.org/a"],
		{}: [0, "", false, [], {}],
		{"optional": false, "most": 5}: [5],
	} {
		every value in values {
			broken(limit, {"a": value}) == false
		}
	}
}

test_broken if {
	every limit, values in {
		{"least": 1, "most": 50}: [0, 51, null, false, true, "5", [5]],
		{"integer": true}: [1.5, "1", null],
		{"characters": 3}: ["abcd", 5, null, []],
		{"pattern": "[a-c]+"}: ["abcd", "ab\n", 5, null],
		{"values": ["a", 1]}: ["b", 2, null],
		{"folder": "/srv"}: ["/srv/../etc", "/etc", 5, null],
		{"hosts": ["example.org"]}: ["https://example.net/a", null],
		{}: [null],
		{"optional": true, "most": 5}: [6, "5"],
	} {
		every value in values {
			broken(limit, {"a": value}) == true
		}
	}
}

test_absent if {
	broken({"most": 5}, {}) == true
	broken({"most": 5, "optional": false}, {}) == true
	broken({"most": 5, "optional": true}, {}) == false
	broken({"most": 5, "optional": true}, {"a": null}) == false
}

# Words that are misspelt, and bounds that are none, let nothing pass; not even an error that would refuse every other call as well.
test_what_is_not_understood if {
	every limit in [
		null, true, [], ["most"], {"mots": 5}, {"most": "5"}, {"least": null}, {"integer": false}, {"characters": "a"}, {"pattern": "("}, {"pattern": 5},
		{"values": 5}, {"folder": 5}, {"hosts": 5}, {"optional": "yes"}, "most", 5,
	] {
		broken(limit, {"a": 3}) == true
		broken(limit, {"a": "a"}) == true
	}
}

test_each_breach_has_a_message if {
	messages := limits.broken with input as question({"a": 6, "b": 6, "c": 5})
		with data.limits as {"git": {"git_log": {"a": {"most": 5}, "b": {"most": 5}, "c": {"most": 5}}}}
	messages == {"git_log: the argument a is not within its limits", "git_log: the argument b is not within its limits"}
}

test_other_items_have_no_limits if {
	count(limits.broken) == 0 with input as question({"a": 6}) with data.limits as {"git": {"git_show": {"a": {"most": 5}}}}
	count(limits.broken) == 0 with input as question({"a": 6}) with data.limits as {"hg": {"git_log": {"a": {"most": 5}}}}
	count(limits.broken) == 0 with input as question({"a": 6})
}
