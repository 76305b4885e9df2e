#!/usr/bin/env bash
# Starts the quick start: the everything-server and a small trace collector, each on a port of its own,
# then mcpgw, which starts Envoy and the two stdio servers itself. Ctrl-C or SIGTERM ends all of it.
# Arguments go to `mcpgw run`. Traces are written to .out/traces.log.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
everything_port=8091 # as mcpgw.yaml says
collector_port=4317  # so does this one

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

for part in .tools/bin/everything-server bin/collector bin/mcpgw; do
	[ -x "$root/$part" ] || { echo "$part is missing: use make run" >&2; exit 1; }
done
if listens "$everything_port"; then
	echo "port $everything_port is taken: end what listens there, or change it here and in mcpgw.yaml" >&2
	exit 1
fi

children=()
tidy() {
	for child in ${children[@]+"${children[@]}"}; do
		kill "$child" 2>/dev/null || true
		wait "$child" 2>/dev/null || true
	done
}
trap tidy EXIT

# Background jobs of a script ignore Ctrl-C, so both live until the gateway has drained.
"$root/.tools/bin/everything-server" -http="127.0.0.1:$everything_port" 2>/dev/null &
children+=($!)
until listens "$everything_port"; do
	kill -0 "${children[0]}" 2>/dev/null || { echo "the everything-server did not start" >&2; exit 1; }
	sleep 0.05
done

if ! listens "$collector_port"; then # a collector of your own gets the traces instead
	mkdir -p "$root/.out"
	"$root/bin/collector" -listen "127.0.0.1:$collector_port" >"$root/.out/traces.log" &
	children+=($!)
fi

"$root/bin/mcpgw" run --config "$here/mcpgw.yaml" "$@" &
gateway=$!
trap 'kill -TERM "$gateway" 2>/dev/null || true' INT TERM HUP
status=0
while kill -0 "$gateway" 2>/dev/null; do # wait returns early when a signal comes
	wait "$gateway" && status=0 || status=$?
done
exit "$status"
