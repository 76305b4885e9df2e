# METADATA
# title: The main module
# description: |
#   Combines the rules of package mcpgw.policy into the one ruling that the gateway asks for. Any deny wins; else what this
#   version cannot do yet refuses; else allow must be true, and exactly true; nothing said is a denial.
#   This package is the gateway's own: a policy cannot add to it.
package mcpgw.main

import data.mcpgw.policy

# The ruling on a call.
default ruling := {"effect": "deny", "reasons": set()}

ruling := {"effect": "deny", "reasons": refusals} if {
	any_deny
} else := {"effect": "allow", "reasons": set()} if {
	policy.allow == true
}

# Listing asks these two with the arguments unknown, instead of the sets behind them: what is certain of a set's member is only
# seen through a rule that is true or undefined.
any_deny if some _ in refusals

any_ask if some _ in policy.ask

refusals contains {"rule": "deny", "message": public(message)} if some message in policy.deny

# Asking a human is not built: what should be asked is refused, and the refusal says so.
refusals contains {"rule": "ask", "message": text} if {
	some message in policy.ask
	text := sprintf("needs a human's confirmation, which this version cannot ask for: %s", [public(message)])
}

# An obligation that this version does not know refuses, however harmless it looks: it was written so that a call happens only
# together with it.
refusals contains unbuilt("rewrite") if some _ in policy.rewrite

refusals contains unbuilt("redact") if some _ in policy.redact

refusals contains unbuilt("label") if some _ in policy.label

refusals contains unbuilt("limit") if some _ in policy.limit

refusals contains unbuilt("require_scope") if some _ in policy.require_scope

unbuilt(rule) := {
	"rule": rule,
	"message": sprintf("a rule asks for %q, which this version cannot do", [rule]),
}

# A message is text. Anything else still refuses, but is not shown.
public(message) := message if is_string(message)

public(message) := "refused by policy" if not is_string(message)
