.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test lint types fmt bench chaos fuzz audit lock clean

BIN := .venv/bin
# Test processes at a time; a file's tests stay together, since they share their servers.
JOBS ?= 2

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

run: .venv/.run  ## start the server and its live page on http://localhost:3001/ (Ctrl-C ends it)
	@exec $(BIN)/wsapp serve

test: .venv/.dev tests/node_modules/.stamp  ## lint, types and the whole test suite
	@.ci/setup chromium
	@.ci/setup redis
	@.ci/setup proxies
	@.ci/setup clocks
	@$(MAKE) --no-print-directory lint types
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: .venv/.dev  ## ruff
	$(BIN)/ruff check .

types: .venv/.dev  ## mypy, strict
	$(BIN)/mypy

fmt: .venv/.dev  ## sort imports and fix what ruff can fix
	$(BIN)/ruff check --fix .

bench: .venv/.dev  ## run the benchmarks (ARGS="--help" for a choice)
	$(BIN)/python -m benchmarks $(ARGS)

chaos: .venv/.dev tests/node_modules/.stamp  ## long fault runs (ARGS="--help" for a choice)
	@.ci/setup clocks
	$(BIN)/python -m tests.fault $(ARGS)

fuzz: .venv/.dev  ## long fuzz runs, a minute per target (ARGS="--seconds 600 --target frames")
	$(BIN)/python -m tests.fuzz $(ARGS)

audit: .venv/.dev  ## known vulnerabilities of what requirements.txt installs (asks the network)
	$(BIN)/pip install --quiet --disable-pip-version-check 'pip-audit>=2.10,<3'
	$(BIN)/pip-audit --strict --require-hashes --requirement requirements.lock $(ARGS)

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-annotate --no-header --upgrade

lock: .venv/.dev  ## write the lock files anew from requirements*.txt, with the newest versions that they allow
	$(BIN)/pip install --quiet --disable-pip-version-check 'uv>=0.13,<1'
	$(LOCK) -o requirements.lock requirements.txt
	$(LOCK) -o requirements-build.lock requirements-build.txt
	$(LOCK) -o requirements-dev.lock requirements.txt requirements-dev.txt requirements-build.txt -c requirements.lock

clean:  ## remove what make installed and what the tools cached
	rm -rf .venv tests/node_modules .cache build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Stamps: the second time is instant, a changed list of packages installs again.
.venv/.run: requirements.lock requirements-build.lock pyproject.toml
	@.ci/setup run
	@touch $@

.venv/.dev: requirements-dev.lock pyproject.toml
	@.ci/setup dev
	@touch .venv/.run $@

tests/node_modules/.stamp: tests/package.json tests/package-lock.json
	@.ci/setup node
