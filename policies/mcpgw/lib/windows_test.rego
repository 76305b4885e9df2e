# Windows: their edges, midnight, zones, and what is no window.
package mcpgw.lib.windows_test

import data.mcpgw.lib.windows

all := {
	"office": {"days": ["mon", "tue", "wed", "thu", "fri"], "from": "08:00", "to": "18:00", "zone": "Europe/Berlin"},
	"night": {"days": ["fri"], "from": "22:00", "to": "06:00", "zone": "UTC"},
	"day": {"days": ["sun"], "from": "00:00", "to": "24:00", "zone": "UTC"},
}

at(time) := {"context": {"time": time}}

open(name, time) if windows.open(name) with input as at(time) with data.windows as all

# 2026-11-25 is a Wednesday, 27 a Friday; Berlin is one hour ahead of UTC in winter, two in summer.
test_open if {
	every name, times in {
		"office": ["2026-11-25T07:00:00Z", "2026-11-25T16:59:59.999Z", "2026-07-01T06:00:00Z"],
		"night": ["2026-11-27T22:00:00Z", "2026-11-28T05:59:59Z", "2026-11-28T00:00:00Z"],
		"day": ["2026-11-29T00:00:00Z", "2026-11-29T23:59:59Z"],
	} {
		every time in times {
			open(name, time)
		}
	}
}

test_shut if {
	every name, times in {
		"office": ["2026-11-25T06:59:59Z", "2026-11-25T17:00:00Z", "2026-11-28T10:00:00Z", "2026-07-01T16:00:00Z"],
		"night": ["2026-11-27T21:59:59Z", "2026-11-28T06:00:00Z", "2026-11-28T23:00:00Z", "2026-11-27T05:00:00Z"],
		"day": ["2026-11-30T00:00:00Z", "2026-11-28T23:59:59Z"],
		"none": ["2026-11-25T10:00:00Z"],
	} {
		every time in times {
			not open(name, time)
		}
	}
}

test_no_time_is_shut if {
	not windows.open("office") with input as {} with data.windows as all
	not windows.open("office") with input as at("2026-11-25T10:00:00Z")
}

test_what_is_no_window_is_shut if {
	good := {"days": ["wed"], "from": "00:00", "to": "24:00", "zone": "UTC"}
	windows.open("w") with input as at("2026-11-25T10:00:00Z") with data.windows.w as good
	every wrong in [
		{"days": ["Wed"]}, {"days": ["wed", "wednesday"]}, {"days": []}, {"days": "wed"}, {"days": 5}, {"days": null}, {"days": {"wed": 1}}, {"from": 0}, {"from": "8:00"}, {"to": "25:00"},
		{"to": null}, {"zone": ""}, {"zone": "Local"}, {"zone": 5},
	] {
		w := object.union(good, wrong)
		not windows.open("w") with input as at("2026-11-25T10:00:00Z") with data.windows.w as w
	}
	every w in [null, 5, "office", []] {
		not windows.open("w") with input as at("2026-11-25T10:00:00Z") with data.windows.w as w
	}
	every missing in ["days", "from", "to", "zone"] {
		w := object.remove(good, [missing])
		not windows.open("w") with input as at("2026-11-25T10:00:00Z") with data.windows.w as w
	}
}

test_before_and_since if {
	every time in ["2026-11-25T10:00:00Z", "2026-11-25T10:00:00.5Z"] {
		windows.before("2026-11-25T10:00:01Z") with input as at(time)
		not windows.before("2026-11-25T10:00:00Z") with input as at(time)
		windows.since("2026-11-25T10:00:00Z") with input as at(time)
		not windows.since("2026-11-25T10:00:01Z") with input as at(time)
	}
}

test_what_is_no_time if {
	every time in ["", "tomorrow", "2026-11-25", "2026-11-25T10:00:00+01:00", "2026-13-01T00:00:00Z", "9", null, 5, ["2027-01-01T00:00:00Z"]] {
		not windows.before(time) with input as at("2026-11-25T10:00:00Z")
		not windows.since(time) with input as at("2026-11-25T10:00:00Z")
	}
	not windows.before("2026-11-25T10:00:00Z") with input as {}
	not windows.since("2026-11-25T10:00:00Z") with input as {}
}
