#!/bin/sh
# The protos' one tool, run from the repository's top.
#
#   proto/generate.sh        writes the *.pb.go beside the protos
#   proto/generate.sh check  fails if the *.pb.go that are there are not what the protos give
#   proto/generate.sh lint   checks the protos' style and format
#
# Both generators are pinned and live below .tools. protovalidate's own proto is
# copied there out of the Go module that holds it, because buf's registry is
# needed for nothing else.
set -eu

buf=v1.75.0
protoc_gen_go=v1.36.12
protovalidate=v1.2.2

mkdir -p .tools/bin
stamp=.tools/proto-$buf-$protoc_gen_go-$protovalidate
if [ ! -e "$stamp" ]; then
	GOBIN=$PWD/.tools/bin go install github.com/bufbuild/buf/cmd/buf@$buf
	GOBIN=$PWD/.tools/bin go install google.golang.org/protobuf/cmd/protoc-gen-go@$protoc_gen_go
	go mod download github.com/bufbuild/protovalidate@$protovalidate
	mkdir -p .tools/protovalidate/buf/validate
	install -m 0644 "$(go env GOMODCACHE)/github.com/bufbuild/protovalidate@$protovalidate/proto/protovalidate/buf/validate/validate.proto" \
		.tools/protovalidate/buf/validate/
	rm -f .tools/proto-v*
	: >"$stamp"
fi

case ${1-} in
"")
	.tools/bin/buf generate proto
	;;
check)
	out=.tools/generated
	rm -rf "$out"
	.tools/bin/buf generate proto -o "$out"
	for f in $(cd "$out/proto" && find . -name '*.pb.go') $(cd proto && find . -name '*.pb.go'); do
		cmp "proto/$f" "$out/proto/$f" || { echo "proto/$f: not what the protos give; run make generate" >&2 && exit 1; }
	done
	rm -rf "$out"
	;;
lint)
	.tools/bin/buf lint proto
	.tools/bin/buf format --diff --exit-code proto
	;;
*)
	echo "usage: proto/generate.sh [check|lint]" >&2
	exit 2
	;;
esac
