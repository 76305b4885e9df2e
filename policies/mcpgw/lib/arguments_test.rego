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

# Why names need no such rule: "not" is true for every one of these.
test_names_are_safe_under_not if {
	every question in [{}, {"arguments": {}}, {"arguments": {"n": null}}, {"arguments": {"n": "5"}}, {"arguments": {"n": 51}}] {
		count([1 |
			not arguments.number("n", 1, 50)
			not arguments.integer("n", 1, 50)
			not arguments.text("n", 0)
			not arguments.matches("n", "a")
			not arguments.among("n", {1, 2})
			not arguments.inside("n", "/srv")
			not arguments.to_host("n", {"a"})
		]) == 1 with input as question
	}
}

sent(arguments) := {"arguments": arguments}

test_by_name if {
	arguments.number("n", 1, 50) with input as sent({"n": 1.5})
	arguments.integer("n", 1, 50) with input as sent({"n": 5})
	arguments.text("n", 3) with input as sent({"n": "abc"})
	arguments.matches("n", "[a-c]+") with input as sent({"n": "abc"})
	arguments.among("n", {"abc"}) with input as sent({"n": "abc"})
	arguments.inside("n", "/srv") with input as sent({"n": "/srv/a"})
	arguments.to_host("n", {"example.org"}) with input as sent({"n": "https://example.org/"})
}

test_by_path if {
	arguments.number(["filter", "limit"], 1, 50) with input as sent({"filter": {"limit": 5}})
	not arguments.number(["filter", "limit"], 1, 50) with input as sent({"filter": {"limit": 51}})
	not arguments.number(["filter", "limit"], 1, 50) with input as sent({"filter": 5})
}

test_unset if {
	every value in [null, false, "", 0] {
		arguments.unset("force") with input as sent({"force": value})
	}
	arguments.unset("force") with input as sent({})
	every value in [true, "false", 1, [], {}] {
		not arguments.unset("force") with input as sent({"force": value})
	}
}

test_only if {
	arguments.only({"a", "b"}) with input as sent({"a": 1})
	arguments.only({"a", "b"}) with input as sent({})
	not arguments.only({"a", "b"}) with input as sent({"a": 1, "c": 1})
	not arguments.only({"a", "b"}) with input as {}
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
	not arguments.text_like("abc-1\n", `[a-z]+-[0-9]`)
	not arguments.text_like(5, `.*`)
}

test_one_of if {
	arguments.one_of("a", {"a", "b"})
	not arguments.one_of("c", {"a", "b"})
	not arguments.one_of(null, {"a", "b"})
}

test_path_inside if {
	every path in ["/srv/data", "/srv/data/", "/srv/data/a", "/srv/data/a..b/.c/..d"] {
		arguments.path_inside(path, "/srv/data")
		arguments.path_inside(path, "/srv/data/")
	}
	arguments.path_inside("/etc", "/")
}

test_paths_outside if {
	every path in [
		"/srv/database", "/srv", "srv/data/a", "", "/srv/data/../x", "/srv/data/..", "/srv/data/./a", "/srv/data//a", `/srv/data/..\a`,
		"/srv/data/a\u0000", "/srv/data/a\n", "~/srv/data", null, 5, ["/srv/data"],
	] {
		not arguments.path_inside(path, "/srv/data")
	}
}

test_url_to if {
	every url in ["https://example.org", "https://Example.ORG/", "https://example.org:443/a?b=c#d", "https://example.org?a", "https://example.org/@b"] {
		arguments.url_to(url, {"example.org"})
	}
}

test_urls_elsewhere if {
	every url in [
		"http://example.org/", "https://example.org.evil.net/", "https://evil.net/example.org", "https://example.org@evil.net/",
		"https://example.org:8443/", `https://example.org\@evil.net/`, "https://evil.net#example.org", "https://example.org/a b",
		" https://example.org/", "https://example.org/\n", "https://", "//example.org/", null, 5,
	] {
		not arguments.url_to(url, {"example.org"})
	}
}
