# METADATA
# title: Time windows
# description: |
#   When something may be done, as data: data.windows[name] has days, from and to as hours and minutes, and a time zone. A window that
#   ends before it begins lasts over midnight and belongs to the day on which it began.
#
#     windows:
#       office: {days: [mon, tue, wed, thu, fri], from: "08:00", to: "18:00", zone: Europe/Berlin}
#
#     import data.mcpgw.lib.windows
#     deny contains "only in office hours" if not windows.open("office")
#
#   Rules that read the time make every ruling of the policy one that is never remembered. A list shows what could be called when it
#   was asked for. A zone that does not exist is an error, and refuses every call that the rule is asked about.
package mcpgw.lib.windows

# The call arrived within the window. A window that is not there, or not understood, is shut.
open(name) if {
	w := data.windows[name]
	well_formed(w)
	now := clock(w.zone)
	w.from <= w.to
	now.day in w.days
	now.minute >= w.from
	now.minute < w.to
}

open(name) if { # over midnight, before it
	w := data.windows[name]
	well_formed(w)
	now := clock(w.zone)
	w.from > w.to
	now.day in w.days
	now.minute >= w.from
}

open(name) if { # over midnight, after it
	w := data.windows[name]
	well_formed(w)
	now := clock(w.zone)
	w.from > w.to
	now.yesterday in w.days
	now.minute < w.to
}

# The call arrived before a time such as "2026-12-31T18:00:00Z".
before(time) if {
	is_time(time)
	substring(input.context.time, 0, 19) < substring(time, 0, 19)
}

# The call arrived at that time or later.
since(time) if {
	is_time(time)
	substring(input.context.time, 0, 19) >= substring(time, 0, 19)
}

# RFC 3339 in UTC, to the second: then text has the order of time, and nothing here can fail.
is_time(time) if {
	is_string(time)
	regex.match(`^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z$`, time)
}

well_formed(w) if {
	is_string(w.zone)
	w.zone != "" # it would be UTC
	w.zone != "Local" # it would be whatever the machine's is
	every minute in [w.from, w.to] {
		is_string(minute)
		regex.match(`^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$`, minute)
	}
	is_array(w.days)
	count(w.days) > 0
	every day in w.days {
		day in week
	}
}

week := ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

# The time of the call in a zone: {"day", "yesterday", "minute"}. A day is taken back on the calendar, since not every day has 24 hours.
clock(zone) := {"day": week[i], "yesterday": week[(i + 6) % 7], "minute": sprintf("%02d:%02d", [hour, minute])} if {
	ns := time.parse_rfc3339_ns(input.context.time)
	[hour, minute, _] := time.clock([ns, zone])
	day := lower(substring(time.weekday([ns, zone]), 0, 3))
	some i
	week[i] == day
}
