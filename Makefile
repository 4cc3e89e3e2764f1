# `make demo` and `make test` do all the set-up they need; `make help` lists the rest.
.PHONY: help demo test test-policy test-kubernetes setup fmt lint unit doc deny dist image package judge chaos soak sim sim-build mutants bench clean
.DEFAULT_GOAL := help

CARGO ?= cargo
BINS = --workspace --bins
# Replicas on simulated disks, networks and clocks.
SIM = -p romana-chaos-raft --features simulation --locked

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: ## The tour: three replicas, four racks, a killed leader, nothing lost
	$(CARGO) build --profile demo --no-default-features -p romana-controlplane -p romana-cli --bins
	"$${CARGO_TARGET_DIR:-target}/demo/romana" demo

test: setup fmt lint unit doc ## All checks and tests: what CI runs

setup: ## Install what the tests need and the machine lacks
	./deploy/test-setup.sh

fmt: ## Formatting
	$(CARGO) fmt --all --check

lint: ## Clippy, warnings are errors
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy $(SIM) --all-targets -- -D warnings

unit: sim-build ## Tests of all rings; the live ones start real processes
	$(CARGO) build $(BINS) --locked
	./deploy/previous.sh >/dev/null || [ $$? = 3 ]
	./deploy/test-kubernetes.sh >/dev/null || [ $$? = 3 ]
	$(CARGO) nextest run --workspace --locked
	$(CARGO) nextest run $(SIM)
	$(CARGO) test --workspace --doc --locked

test-policy: setup ## All 230 Cyclonus cases on nine pods with real connections: minutes (a sample is in `make test`)
	$(CARGO) build $(BINS) --locked
	$(CARGO) nextest run -p romana-agent --test kernel --locked --run-ignored only -E 'test(all_of_cyclonus)'

test-kubernetes: setup ## All tests against a real Kubernetes, API server and kubelets, which is built once: half an hour (`make test` has a part)
	./deploy/test-kubernetes.sh
	$(CARGO) build $(BINS) --locked
	$(CARGO) nextest run --workspace --locked --run-ignored all -E 'package(romana-chaos) and (binary(kubernetes) or binary(kubelets))'

doc: ## Documentation builds without warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --locked --document-private-items

deny: ## Licences, advisories and duplicate crates (needs cargo-deny)
	$(CARGO) deny check

dist: ## The programs as they are shipped, in target/dist
	$(CARGO) build --profile dist --locked -p romana-controlplane -p romana-cli -p romana-agent -p romana-dns --bins

image: ## The container image, compiled and built twice: one digest (as root on Debian, installs what it needs)
	./deploy/image/build.sh --setup --twice --archive target/romana-image.tar

package: dist ## A .deb and a tarball for machines without Kubernetes, in target/package
	./deploy/package/build.sh "$${CARGO_TARGET_DIR:-target}/dist" target/package

judge: ## The judge's minute: 64 clients, the leader killed every two seconds, the laws checked
	$(CARGO) build --release $(BINS)
	"$${CARGO_TARGET_DIR:-target}/release/chaos" run

chaos: ## A quarter of an hour of all faults, other ones each round (a few short runs are in `make test`)
	$(CARGO) build --release $(BINS)
	"$${CARGO_TARGET_DIR:-target}/release/chaos" soak --seconds 900 --reports chaos-reports

soak: ## The same until it is interrupted
	$(CARGO) build --release $(BINS)
	"$${CARGO_TARGET_DIR:-target}/release/chaos" soak --seconds 604800 --reports chaos-reports

sim: sim-build ## Raft with our log and snapshots on simulated disks, networks and clocks: a thousand seeds
	"$${CARGO_TARGET_DIR:-target}/debug/chaos-raft" stories --count 200000
	"$${CARGO_TARGET_DIR:-target}/debug/chaos-raft" sweep --count 1000

sim-build:
	$(CARGO) build --quiet $(SIM)

mutants: ## Bugs planted in a copy, one after the other: the suite must find each
	./chaos/mutants/run.sh

bench: ## Commits, failover and reads beside etcd (needs etcd-server); sizes, restarts, the feed, CNI (needs containernetworking-plugins), virtual IPs (needs keepalived), DNS (needs dnsperf, dnsmasq-base, unbound)
	$(CARGO) build --release $(BINS)
	"$${CARGO_TARGET_DIR:-target}/release/chaos" bench commit
	"$${CARGO_TARGET_DIR:-target}/release/chaos" bench failover
	"$${CARGO_TARGET_DIR:-target}/release/chaos" bench reads
	"$${CARGO_TARGET_DIR:-target}/release/chaos" bench statemachine
	"$${CARGO_TARGET_DIR:-target}/release/chaos" bench restart
	"$${CARGO_TARGET_DIR:-target}/release/chaos" bench feed
	"$${CARGO_TARGET_DIR:-target}/release/chaos" bench abuse
	"$${CARGO_TARGET_DIR:-target}/release/chaos" bench cni
	"$${CARGO_TARGET_DIR:-target}/release/chaos" bench routes
	"$${CARGO_TARGET_DIR:-target}/release/chaos" bench policy
	./deploy/test-kubernetes.sh >/dev/null && "$${CARGO_TARGET_DIR:-target}/release/chaos" bench kubernetes || [ $$? = 3 ]
	"$${CARGO_TARGET_DIR:-target}/release/chaos" bench vip
	"$${CARGO_TARGET_DIR:-target}/release/chaos" bench dns

clean: ## Remove what was built
	$(CARGO) clean
