# METADATA
# title: Data flow
# description: |
#   Labels that follow a session: what has been read in it decides what may be done with it later. data.flow.sources says which items
#   give which labels, data.flow.sinks which labels keep a caller from which items; both by pattern of server and of name.
#
#     flow:
#       sources: {vault: {"*": [secret]}}
#       sinks: {mail: {send: [secret]}}
#
#     import data.mcpgw.lib.flow
#     label contains name if some name in flow.given
#     deny contains sprintf("this session has read what is %s", [name]) if some name in flow.leaks
#
#   Labels that may have been lost count as given: a session of which nothing is known is tainted by everything.
package mcpgw.lib.flow

import data.mcpgw.lib.globs

# The session carries the label, or may have carried it.
tainted(label) if not clean(label)

# The session is sure not to carry the label.
clean(label) if {
	input.context.session.lost == false
	is_array(input.context.session.labels)
	count([1 | some l in input.context.session.labels; l == label]) == 0
}

# The session carries one of a list of labels, or may have.
tainted_by(labels) if {
	some label in labels
	tainted(label)
}

# The session is sure to carry no label at all.
untouched if {
	input.context.session.lost == false
	input.context.session.labels == []
}

# The labels that a call of this item gives.
given contains label if {
	some labels in globs.of_item(data.flow.sources)
	some label in labels
}

# The labels that keep this session from this item.
leaks contains label if {
	some labels in globs.of_item(data.flow.sinks)
	some label in labels
	tainted(label)
}
