# Warren's levels. `make run` needs Go alone; whatever else a level needs, it
# installs from Debian's packages (see build/need) or fetches into .cache.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

GO ?= go
# Packages to test: make unit PKGS=./filter
PKGS ?= ./...
# Extra arguments of the agent that `make run` starts.
ARGS ?=
# How long each fuzz target runs.
FUZZTIME ?= 2s
# Flags of `make cluster`: UP='-nodes 3 -proxy iptables', UP=-bare for Kubernetes alone.
UP ?=
# How long each load of the benchmarks lasts, in seconds, and how many rounds
# are interleaved; docs/performance.md is measured with these.
BENCH_SECONDS ?= 60
BENCH_ROUNDS ?= 10
# The clang that the committed objects are made with, to the letter.
CLANG_VERSION := 19.1.7

# go test, and what fails once more, alone.
AGAIN := $(GO) run ./test/again

# All but the race detector's is compiled alike, and so once: without C, and with no
# path of this machine in it.
export CGO_ENABLED := 0
export GOFLAGS := $(strip $(shell $(GO) env GOFLAGS) -trimpath)

CACHE := $(CURDIR)/.cache
export PATH := $(CACHE)/bin:$(PATH):/usr/sbin:/sbin

BPF_PACKAGES := clang-19 llvm-19 libbpf-dev
# make vm PKGS=./sensor/process KERNELS=6.1 RUN=^TestBPFExec V=1
KERNELS ?= 6.1,6.12
RUN ?=
V ?=

ROOT_PACKAGES := busybox-static gcc libc6-dev podman runc crun conmon containerd iproute2
VM_PACKAGES := qemu-system-x86 busybox-static xz-utils iproute2 nftables
BENCH_PACKAGES := gcc libc6-dev libbpf-tools nftables iptables
CLUSTER_PACKAGES := busybox-static gcc libc6-dev libseccomp-dev iproute2 iptables nftables

.PHONY: help run build test unit race root e2e vm bench bench-once bench-cluster bench-short cluster cluster-down cluster-test generate generate-check lint tree fuzz clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## build and start the agent in the foreground
	./bin/warren agent $(ARGS)

build: ## bin/warren; needs Go alone
	$(GO) build -o bin/warren .

test: lint generate-check tree unit race root e2e vm bench-once ## every level; make fuzz searches on, and may find what nobody knew

tree: ## the rules of the tree: imports, sizes, names
	$(GO) test -count=1 .

unit: ## tests without root
	$(AGAIN) -skip '^Test(BPF|Root|Containers|E2E|Cluster)' -- $(PKGS)

race: ## the packages with goroutines under the race detector
	build/need gcc libc6-dev
	CGO_ENABLED=1 $(AGAIN) -race -skip '^Test(BPF|Root|Containers|E2E|Cluster)' -- $$(build/concurrent)

root: $(CACHE)/bin/promtool ## BPF on this machine's kernel
	build/need $(ROOT_PACKAGES)
	$(AGAIN) -count=1 -p 1 -run '$(or $(RUN),^Test(BPF|Root|Containers))' $(if $(V),-v) -- $(PKGS)

e2e: build $(CACHE)/bin/promtool $(CACHE)/bin/hubble $(CACHE)/bin/hubble-relay $(CACHE)/duckdb/installed ## the built program as a user meets it
	build/need $(ROOT_PACKAGES)
	$(AGAIN) -count=1 -run '^TestE2E' -- ./test/e2e ./test/duckdb ./hub

vm: ## the root tests on Debian's 6.1 and 6.12 kernels under qemu
	build/need $(VM_PACKAGES)
	$(GO) run ./test/vm -kernels $(KERNELS) -run '$(or $(RUN),^Test(BPF|Root))' $(if $(V),-v) $(PKGS)

cluster: bin/cluster ## a Kubernetes with Warren and a demo shop on this machine (first time: ten minutes more)
	build/need $(CLUSTER_PACKAGES)
	bin/cluster up $(UP)

cluster-down: bin/cluster ## take it away; nothing is left
	bin/cluster down

cluster-test: bin/cluster ## Warren in a Kubernetes of its own
	build/need $(CLUSTER_PACKAGES)
	bin/cluster build
	$(GO) test -count=1 -timeout 2h -run '$(or $(RUN),^TestCluster)' $(if $(V),-v) ./test/cluster/...

.PHONY: bin/cluster
bin/cluster:
	$(GO) build -o $@ ./test/cluster

bench: build ## every figure that docs/performance.md promises, measured here
	build/need $(BENCH_PACKAGES) $(ROOT_PACKAGES)
	$(GO) run ./test/bench -seconds $(BENCH_SECONDS) -rounds $(BENCH_ROUNDS)
	$(GO) run ./test/bench -network -rounds $(BENCH_ROUNDS)
	$(GO) run ./test/bench -files -seconds $(BENCH_SECONDS) -rounds $(BENCH_ROUNDS)
	$(GO) run ./test/bench -history -rounds $(BENCH_ROUNDS)
	$(GO) run ./test/bench -rules -seconds $(BENCH_SECONDS) -rounds $(BENCH_ROUNDS)

bench-cluster: build bin/cluster ## those of a Kubernetes cluster, with 1,000 nodes and 20,000 pods that kwok simulates
	build/need $(CLUSTER_PACKAGES)
	bin/cluster build
	$(GO) run ./test/bench -cluster -seconds $(BENCH_SECONDS) -rounds $(BENCH_ROUNDS)

bench-once: ## every benchmark of the packages once: that it runs, not how fast
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 20m $(PKGS)

bench-short: build bench-once ## every figure in a few minutes, with less weight
	build/need $(BENCH_PACKAGES) $(ROOT_PACKAGES)
	$(GO) run ./test/bench -short
	$(GO) run ./test/bench -network -short
	$(GO) run ./test/bench -files -short
	$(GO) run ./test/bench -history -short
	$(GO) run ./test/bench -rules -short

generate: ## BPF objects and reference pages, from their sources
	build/need $(BPF_PACKAGES)
	@clang-19 --version | grep -q 'version $(CLANG_VERSION) ' || \
		{ echo "the objects are made with clang $(CLANG_VERSION); this is $$(clang-19 --version | head -1)" >&2; exit 1; }
	$(GO) generate ./...

generate-check: ## generated files are those of their sources
	build/generate-check

lint: $(CACHE)/bin/golangci-lint ## formats and linters, Go and C
	build/need clang-format-19
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
		[ -z "$$unformatted" ] || { echo "not gofmt'ed:" $$unformatted >&2; exit 1; }
	$(GO) vet ./...
	golangci-lint run ./...
	git ls-files -co --exclude-standard '*.c' '*.h' | xargs -r clang-format-19 --dry-run --Werror

fuzz: ## every fuzz target for FUZZTIME
	build/fuzz $(FUZZTIME)

clean: ## what the other targets made, .cache excepted
	rm -rf bin

# The linter is built once for each version from a module of its own, so that
# its three hundred dependencies are not Warren's.
$(CACHE)/bin/golangci-lint: build/tools/go.mod
	@echo "building golangci-lint: minutes, once"
	mkdir -p $(@D)
	cd build/tools && $(GO) build -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

# promtool is taken out of Debian's package: installing that would start a
# server.
$(CACHE)/bin/promtool:
	build/promtool $@

# DuckDB for node, 70 MB: it reads what the history has sealed. The lock file says
# its checksum; node and npm are Debian's, or whatever is there.
$(CACHE)/duckdb/installed: test/duckdb/package.json test/duckdb/package-lock.json
	command -v npm >/dev/null || build/need nodejs npm
	mkdir -p $(@D)
	cp test/duckdb/package.json test/duckdb/package-lock.json $(@D)
	cd $(@D) && npm install --no-audit --no-fund --ignore-scripts
	touch $@

# Hubble's own command line and relay, as they are published: tests ask agents
# by them.
$(CACHE)/bin/hubble $(CACHE)/bin/hubble-relay: test/cluster/build/hubble/go.mod
	@echo "building $(@F): a minute, once"
	mkdir -p $(@D)
	cd test/cluster/build/hubble && $(GO) build -ldflags '-s -w' -o $@ github.com/cilium/cilium/$(@F)
