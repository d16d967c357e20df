# Targets for people are those with a ## comment; `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

export PATH := $(PATH):/usr/local/go/bin

# With a C compiler (and its headers) signatures go through OpenSSL; without one everything builds and works in pure Go.
CGO_ENABLED ?= $(shell $${CC:-gcc} -include stdlib.h -x c -E /dev/null >/dev/null 2>&1 && echo 1 || echo 0)
export CGO_ENABLED

# Go refuses to build where git refuses to read, as in a checkout that belongs to somebody else.
BUILDVCS := $(shell git rev-parse HEAD >/dev/null 2>&1 && echo auto || echo false)
GOBUILD = go build -buildvcs=$(BUILDVCS) -trimpath

PKG ?= ./...
FUZZTIME ?= 30s
COUNT ?= 10
SOAK ?= 10m
ARGS ?=
TOOL = go tool -modfile=tools/go.mod

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-zA-Z_%-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## bin/queueville (with OpenSSL signatures if there is a C compiler)
	$(GOBUILD) -o bin/queueville ./cmd/queueville

.PHONY: demo
demo: ## everything on throwaway servers on this machine; ARGS="--json …" are passed on
	@scripts/setup.sh demo
	@$(MAKE) --no-print-directory build
	bin/queueville demo $(ARGS)

.PHONY: setup
setup: ## what the tests need: checks, and installs by apt-get if allowed
	@scripts/setup.sh test

.PHONY: test
test: setup ## vet, a build without a C compiler, all tests
	go vet ./...
	CGO_ENABLED=0 $(GOBUILD) -o /dev/null ./cmd/queueville
	@# One package at a time: many tests stop, freeze and kill servers and workers, and need the processors to themselves.
	go test -p 1 -timeout 15m $(ARGS) $(PKG)

.PHONY: test-short
test-short: ## the quick tests, with whatever servers are there
	go test -short $(ARGS) $(PKG)

.PHONY: test-sidekiq
test-sidekiq: ## the tests against Sidekiq 7.3.2 in a Debian 13 tree (root), or SIDEKIQ=/its/source of any version
	@SIDEKIQ= scripts/setup.sh $(if $(SIDEKIQ),test,sidekiq)
	scripts/test-sidekiq.sh

.PHONY: race
race: setup ## all tests with the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -race -timeout 30m $(ARGS) $(PKG)

# One invocation for all of the modules' packages; the linters are built from tools/go.mod, once per Go build cache (a minute or two).
.PHONY: lint
lint: ## linters, modernisations not taken, syntax of the scripts
	$(TOOL) golangci-lint run ./...
	cd bench && go vet ./...
	@out=$$(go fix -diff ./... 2>&1) || true; if [ -n "$$out" ]; then printf '%s\n' "$$out"; echo "go fix has something to say: run go fix ./..." >&2; exit 1; fi
	@for f in scripts/*.sh .ci/run; do bash -n "$$f" || exit 1; done

.PHONY: fmt
fmt: ## format the code
	$(TOOL) golangci-lint fmt ./...

.PHONY: generate
generate: ## make the generated files anew
	go generate ./...

.PHONY: verify
verify: generate ## are generated files and formatting as committed?
	$(TOOL) golangci-lint fmt --diff ./...
	go mod verify
	@if [ -n "$$(git status --porcelain -- '*_gen.go' go.mod go.sum)" ]; then git diff --stat -- '*_gen.go' go.mod go.sum; exit 1; fi

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME=30s; PKG=./queues for one package
	scripts/fuzz.sh $(FUZZTIME) $(PKG)

.PHONY: bench
bench: setup ## against the peers, all suites, three quarters of an hour on a quiet machine (docs/benchmarks.md); ARGS="-quick" for a glance
	scripts/bench.sh $(ARGS)

.PHONY: bench-micro
bench-micro: setup ## Go benchmarks, COUNT=10 runs each; PKG=./queues for one package
	go test -run '^$$' -bench . -benchmem -count $(COUNT) $(ARGS) $(PKG)

.PHONY: bench-scheduler
bench-scheduler: setup ## adaptive limits and goals on real servers, 20 minutes; pictures in docs/img; ARGS="-quick" or "-part NAME"
	scripts/bench.sh -suite scheduler -plots docs/img $(ARGS)

bench-%: setup ## one suite: noop, delivery, memory, deadhosts, shared or full
	scripts/bench.sh -suite $* $(ARGS)

LEAGUE = $(or $(KEEP),bin/loadtest)

.PHONY: loadtest
loadtest: build setup ## the league, a quarter of an hour: every scenario simulated, and run in short form against Debian's Sidekiq; writes docs/league.md (ARGS="--only viral-post --again")
	bin/queueville loadtest league --real --keep $(LEAGUE) --out docs/league.md --plots docs/img $(ARGS)

.PHONY: loadtest-simulated
loadtest-simulated: build ## the same without the real runs, a few minutes
	bin/queueville loadtest league --keep $(LEAGUE) --out docs/league.md --plots docs/img $(ARGS)

.PHONY: loadtest-fidelity
loadtest-fidelity: build setup ## are simulations right? real runs of three scenarios against simulated ones, half an hour on a quiet machine
	bin/queueville loadtest fidelity --keep $(LEAGUE) $(ARGS)

.PHONY: loadtest-fleet
loadtest-fleet: build ## an hour of 200 hosts at 3,000 jobs a second, simulated under both engines
	time bin/queueville loadtest simulate loadtest/simulate/testdata/fleet.yaml $(ARGS)

.PHONY: soak-dbpool
soak-dbpool: setup ## the connection budget: a million steps of its protocol, then 40 processes under faults for SOAK=10m
	QUEUEVILLE_DBPOOL_STEPS=$(or $(STEPS),1000000) go test -count=1 -timeout 30m -run TestProtocol ./dbpool
	QUEUEVILLE_DBPOOL_SOAK=$(or $(SOAK),10m) go test -count=1 -timeout 60m -run TestSoak -v ./dbpool

.PHONY: soak-worker
soak-worker: setup ## the worker under random faults for SOAK=10m, every job accounted for
	QUEUEVILLE_SOAK=$(SOAK) go test -race -timeout 2h -run TestSoak -v ./worker

.PHONY: vuln
vuln: ## known vulnerabilities (fetches a database over the network)
	go run golang.org/x/vuln/cmd/govulncheck@v1.8.0 ./...

.PHONY: tidy
tidy: ## go.mod and go.sum of all modules
	go mod tidy
	cd tools && go mod tidy
	cd bench && go mod tidy

.PHONY: clean
clean: ## remove what was built (caches stay: go clean -cache, ~/.cache/queueville)
	rm -rf bin
