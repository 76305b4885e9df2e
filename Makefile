# Every target a person or a machine uses. `make` alone prints them.
#
# Go, Python 3 with pip, Node with npm, git and make have to be there; the rest is installed below
# .tools/ at the versions that test/tools, envoy/VERSION and go.mod pin.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Pinned generators and linters come before whatever the machine has.
export PATH := $(CURDIR)/.tools/bin:$(PATH)

FUZZTIME ?= 20s
SOAKTIME ?= 30m
RACE     ?= ./pkg/... ./cmd/...

.PHONY: help build tools lint-tools run test race fuzz nightly bench conformance soak lint generate generate-check policy-test clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## compile bin/mcpgw
	go build -trimpath -o bin/mcpgw ./cmd/mcpgw

tools: ## install Envoy, the real MCP servers and clients and the scratch repository below .tools/
	@test/tools/install.sh

lint-tools: ## install golangci-lint below .tools/
	@test/tools/install.sh lint

run: tools build ## start the quick start: http://127.0.0.1:8080/mcp, until Ctrl-C
	@go build -trimpath -o bin/collector ./test/cmd/collector
	@examples/quickstart/run.sh

# Twice over pkg/, on purpose: the race detector changes allocation counts and hides nothing that
# the plain run would show, so the budgets are held there and the races are looked for here.
# -count=1 because Go's cache cannot see that a binary below .tools/ or a running server changed.
test: tools build race ## everything: unit, race, policy, end-to-end with the real Envoy, conformance
	go test -count=1 -timeout 20m ./...

race: ## unit tests under the race detector
	go test -race -timeout 15m $(RACE)

# `go test -fuzz` takes one target of one package at a time.
fuzz: ## run every fuzz target for FUZZTIME (20s) each
	@for package in $$(go list ./pkg/...); do \
		for target in $$(go test -list '^Fuzz' "$$package" | grep '^Fuzz' || true); do \
			echo "== $$package $$target"; \
			go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) "$$package"; \
		done; \
	done

# -rapid.checks is known only where rapid is. One check of pkg/opa's is 25 questions with 8 calls each, one of pkg/gateway's 54 calls,
# one of pkg/decision's 25 questions, one of pkg/edit's 20 changes.
nightly: ## properties over 100,000 generated cases and more, then every fuzz target; takes an hour
	@for package in $$(grep -rl pgregory.net/rapid --include='*_test.go' pkg policies cmd | xargs -n1 dirname | sort -u); do \
		checks=10000; case $$package in pkg/opa|pkg/gateway|pkg/decision|pkg/session|pkg/bundle) checks=4000;; pkg/edit) checks=5000;; pkg/jsonrpc) checks=100000;; esac; \
		echo "== $$package, $$checks checks"; \
		go test -count=1 -timeout 60m "./$$package" -rapid.checks=$$checks; \
	done
	@$(MAKE) fuzz

bench: tools build ## measure cost per call against plain Envoy; writes .out/bench.json
	go run ./test/bench

conformance: tools build ## run the official MCP suite through the gateway; writes .out/conformance.json
	go test -count=1 -v -timeout 15m ./test/conformance

soak: tools build ## keep the gateway under mixed load for SOAKTIME (30m) and watch memory
	go run ./test/soak -for $(SOAKTIME)

policy-test: ## run the Rego tests of policies/ and examples/
	go test -count=1 -v ./policies/... ./examples/...

lint: lint-tools ## golangci-lint, and buf over the protos
	golangci-lint run
	proto/generate.sh lint

generate: ## make Go code from proto/
	proto/generate.sh

generate-check: ## fail if generated code is not what proto/ says
	proto/generate.sh check

clean: ## remove build results and reports; .tools/ stays
	rm -rf bin .out
