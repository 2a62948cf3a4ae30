# Two commands are enough to start: `make demo` and `make test`. Both install what they need and share everything they compile.

# Where rustup puts cargo, for a shell that was open before Rust was installed.
export PATH := $(PATH):$(HOME)/.cargo/bin

.PHONY: help setup build demo test test-kafka bench torture simulate fuzz fmt clean
.DEFAULT_GOAL := help

help: ## Show this list
	@echo 'Watershed: one SQL view, exact over all history and the last few milliseconds.'
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'New here? Start with "make demo"; then read README.md and ARCHITECTURE.md.'
	@echo 'The first build compiles about 400 packages and RocksDB: a quarter of an hour on two cores, minutes on many.'

setup: ## Install what the build needs, saying what, or print the command where that is not possible
	@scripts/setup

build: setup ## Compile the command `watershed`
	cargo build --locked

demo: setup ## Play a year of real flights through the platform and watch batch and realtime views
	cargo run --locked -- demo

test: setup ## Run every check: format, dependencies, clippy, all tests, documentation
	@scripts/test

test-kafka: setup ## Run the tests that need a real Kafka broker; it is downloaded once and needs Java 17
	@scripts/setup kcat
	deploy/kafka/kafka setup
	cargo test --locked --workspace --test kafka

# The profile of the demo and the tests, so that nothing is compiled twice.
bench: setup ## Measure against the bare limits and print ratios; ONLY="query memory" takes some of them
	cargo bench --locked --profile dev --bench ratios -- $(ONLY)

torture: setup ## Kill the platform again and again and print what was lost: KILLS=1000 or MINUTES=60
	$(if $(MINUTES),WATERSHED_TORTURE_MINUTES=$(MINUTES),WATERSHED_TORTURE_KILLS=$(or $(KILLS),1000)) \
	cargo test --locked --workspace --test platform torture -- --nocapture

simulate: setup ## Run the platform in simulated worlds of faults: SEEDS=100000 FIRST=0
	WATERSHED_SIMULATION_SCHEDULES=$(or $(SEEDS),100000) WATERSHED_SIMULATION_FIRST_SEED=$(or $(FIRST),0) \
	cargo test --locked --workspace --test platform simulation::simulated -- --nocapture

fuzz: setup ## Run every fuzz target for a moment; scripts/fuzz TARGET SECONDS for longer
	@scripts/fuzz

fmt: ## Format all code
	cargo fmt --all

clean: ## Delete everything compiled
	cargo clean
