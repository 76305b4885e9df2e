# METADATA
# title: Destructive items
# description: |
#   What an item may break, by the annotations that count (see readonly). MCP's own defaults hold: a tool that does not say otherwise
#   may destroy, may not be called twice with the effect of once, and reaches into the open world.
#
#     import data.mcpgw.lib.destructive
#     ask contains "this may destroy something" if destructive.possible
package mcpgw.lib.destructive

import data.mcpgw.lib.readonly

# Holds unless the item is sure not to destroy anything.
possible if not excluded

# Only reading, or said to add and never to change or remove.
excluded if readonly.reads_only

excluded if input.resource.annotations.destructiveHint == false

# To call it twice has the effect of calling it once.
repeatable if readonly.reads_only

repeatable if input.resource.annotations.idempotentHint == true

# Holds unless the item is said to touch nothing outside of what its server owns.
open_world if not closed_world

closed_world if input.resource.annotations.openWorldHint == false
