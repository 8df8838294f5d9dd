# Osmium. `make demo` shows the mesh at work; `make test` proves it. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
CLUSTER ?= embedded
DRIVER ?= osm-proxy
# One scenario for each kind of policy and protocol: what a stock Envoy must show in every `make test`.
WITH_ENVOY := PERM-01,ACL-02,ACL-04,ACL-18,SPEC-01,SPEC-03,TCP-01,TCP-07,SPLIT-07,EGR-04,EGR-05,EGR-06,ING-02,ING-04
AREA ?=
DEMO ?= egress bookstore
PRIORITY ?=
SECONDS ?= 30
BIN := $(or $(CARGO_TARGET_DIR),target)/debug
export PATH := /usr/sbin:/sbin:$(PATH)

.PHONY: help build demo test unit lint e2e oracle bench peers robustness fuzz test-kubernetes clean-cache

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

build: ## the three executables, into target/debug
	cargo build --locked -p cli -p proxy -p apps -p e2e -p parity

demo: ## the mesh at work, told line by line: DEMO="egress bookstore" CLUSTER=embedded|kubernetes
	@scripts/deps demo
	@$(MAKE) --no-print-directory build
	@scripts/on-cluster $(CLUSTER) scripts/demos $(BIN)/osm $(DEMO)

test: ## everything on the embedded cluster: lint, units, demo, tutorials, scenarios
	@scripts/deps test
	@$(MAKE) --no-print-directory lint unit
	@$(MAKE) --no-print-directory demo
	@scripts/docs $(BIN)
	@$(MAKE) --no-print-directory e2e
	@$(MAKE) --no-print-directory e2e DRIVER=envoy AREA=$(WITH_ENVOY)

unit: ## the tests beside the code, and those of one crate at a time
	ENVOY_BIN=$$(scripts/envoy) cargo test --locked --workspace

lint: ## format, clippy, licences and duplicate crates, docs build
	@scripts/lint

e2e: ## acceptance scenarios: AREA=EGR,ACL PRIORITY=P0 CLUSTER=embedded|kubernetes DRIVER=osm-proxy|envoy
	@scripts/deps test
	@$(MAKE) --no-print-directory build
	@ENVOY_BIN=$$(scripts/envoy) scripts/on-cluster $(CLUSTER) $(BIN)/e2e --area "$(AREA)" --priority "$(PRIORITY)" --driver $(DRIVER) --report target/e2e/report$(if $(filter envoy,$(DRIVER)),-envoy).json

peers: ## real programs through the pair of sidecars: curl, nginx, gRPC, databases
	@scripts/deps trials
	cargo build --locked --workspace --bin trials --bin osm-proxy
	@$(BIN)/trials peers

robustness: ## what goes wrong around the pair, under load: pushes, kills, loss, delay, descriptors, memory
	@scripts/deps trials
	cargo build --locked --workspace --bin trials --bin osm-proxy
	@$(BIN)/trials robustness

fuzz: ## every parser against bytes from outside, SECONDS=30 each
	@scripts/fuzz $(SECONDS)

oracle: ## osm-proxy against a stock Envoy: every case of crates/oracle, then random route tables (SEED=, ONLY=), into target/oracle
	@scripts/deps test
	cargo build --locked --workspace --bin oracle --bin osm-proxy
	ENVOY_BIN=$$(scripts/envoy) $(BIN)/oracle --seed "$(or $(SEED),0)" --only "$(ONLY)" --report target/oracle/report.json

bench: ## CPU and memory against Envoy, HAProxy, nginx in the same run, and the control plane at ten thousand pods, into target/bench: WORK=http1,grpc,control-10k QUICK=1
	@scripts/deps bench
	@scripts/bench

test-kubernetes: ## the same demo and scenarios on a real single-node Kubernetes, and the API parity table
	@scripts/deps kubernetes
	@$(MAKE) --no-print-directory build
	@kubernetes/test
