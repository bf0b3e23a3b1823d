# Every target does its own set-up; `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
FMT := $(CARGO) fmt -- --config-path .ci/rustfmt.toml

.PHONY: help demo test build release check lint fmt vm bench doc install uninstall clean

help: ## Say what each target does
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|'

demo: ## Boot a small guest, confined, and show what holds it (needs root or sudo)
	@scripts/setup build run
	@demo/run

test: ## Run every test: format, lints, unit and end-to-end tests, documentation, test VMs
	@scripts/setup build run test vm
	@scripts/test

build: ## Build the programs (target/debug)
	@scripts/setup build
	$(CARGO) build --locked

release: ## Build the programs with optimisation (target/release)
	@scripts/setup build
	$(CARGO) build --locked --release

check: ## The quick part of `make test`: format, lints, unit tests
	@scripts/setup build run test
	@scripts/test quick

lint: ## Format and lints only
	@scripts/setup build test
	@scripts/test lint

fmt: ## Format the source
	$(FMT)

vm: ## Run the test VMs: an SELinux kernel, one with libvirtd beside svirt, one with AppArmor, one without a security module, and one booted by systemd
	@scripts/setup build run vm
	@scripts/test vm

bench: ## Run the benchmarks
	@scripts/setup build run test
	$(CARGO) bench --locked

doc: ## Build the interface documentation (target/doc)
	@scripts/setup build
	$(CARGO) doc --locked --no-deps --document-private-items

install: release ## Install below $(PREFIX): programs, manual pages, completions, the example configuration
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' scripts/install

uninstall: ## Remove what `make install` put below $(PREFIX); the configuration stays
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' scripts/install --remove

clean: ## Remove everything that was built, test VMs and the demo's guest included
	$(CARGO) clean
