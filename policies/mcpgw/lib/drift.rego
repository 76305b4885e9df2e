# METADATA
# title: Drift and findings
# description: |
#   How an item differs from what the lock file pins, and what looks wrong in its own words.
#
#     import data.mcpgw.lib.drift
#     deny contains "this tool is not the one that was approved" if drift.changed
#     ask contains "this tool is new" if drift.new
#     deny contains "this tool's description is not trusted" if drift.suspicious
#
#   Without a lock file nothing drifts.
package mcpgw.lib.drift

# Pinned as it is, or nothing is pinned at all.
none if input.resource.drift == ""

# Not in the lock file.
new if input.resource.drift == "new"

# In the lock file, but with another digest; and whatever this version has no word for.
changed if not known

known if none

known if new

# Something was found.
suspicious if not unsuspicious

unsuspicious if input.resource.findings == []

# This was found: confusable_name, hidden_text, invisible_characters or model_directed_text.
found(finding) if finding in input.resource.findings
