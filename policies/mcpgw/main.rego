# METADATA
# title: The main module
# description: |
#   Combines the rules of package mcpgw.policy into the one ruling that the gateway asks for. Any deny wins; else a
#   human is asked if any ask says so; else allow must be true, and exactly true; nothing said is a denial.
#   This package is the gateway's own: a policy cannot add to it.
package mcpgw.main

import data.mcpgw.policy

# The ruling on a call. What an allow or an ask demands besides is part of it; whoever cannot do it refuses.
default ruling := {"effect": "deny", "reasons": set()}

ruling := {"effect": "deny", "reasons": refusals} if {
	any_deny
} else := {"effect": "ask", "reasons": questions, "rewrite": rewrites, "redact": redactions, "label": labels} if {
	any_ask
} else := {"effect": "allow", "reasons": set(), "rewrite": rewrites, "redact": redactions, "label": labels} if {
	policy.allow == true
}

# Listing asks these two with the arguments unknown, instead of the sets behind them: what is certain of a set's member is only
# seen through a rule that is true or undefined.
any_deny if some _ in refusals

any_ask if some _ in policy.ask

refusals contains {"rule": "deny", "message": public(message)} if some message in policy.deny

questions contains {"rule": "ask", "message": public(message)} if some message in policy.ask

# A policy need not have such rules; a set that is made here is there all the same.
rewrites contains change if some change in policy.rewrite

redactions contains change if some change in policy.redact

labels contains name if some name in policy.label

# An obligation that this version does not know refuses, however harmless it looks: it was written so that a call happens only
# together with it.
refusals contains unbuilt("limit") if some _ in policy.limit

refusals contains unbuilt("require_scope") if some _ in policy.require_scope

unbuilt(rule) := {
	"rule": rule,
	"message": sprintf("a rule asks for %q, which this version cannot do", [rule]),
}

# A message is text. Anything else still refuses, but is not shown.
public(message) := message if is_string(message)

public(message) := "refused by policy" if not is_string(message)
