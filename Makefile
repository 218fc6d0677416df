.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test lint types fmt bench chaos clean

BIN := .venv/bin

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

run: .venv/.run  ## start the server and its live page on http://localhost:3001/ (Ctrl-C ends it)
	@exec $(BIN)/wsapp serve

test: .venv/.dev tests/node_modules/.stamp  ## lint, types and the whole test suite
	@.ci/setup chromium
	@$(MAKE) --no-print-directory lint types
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/.dev  ## ruff
	$(BIN)/ruff check .

types: .venv/.dev  ## mypy, strict
	$(BIN)/mypy

fmt: .venv/.dev  ## sort imports and fix what ruff can fix
	$(BIN)/ruff check --fix .

bench: .venv/.dev  ## run the benchmarks (ARGS="--help" for a choice)
	$(BIN)/python -m benchmarks $(ARGS)

chaos: .venv/.dev tests/node_modules/.stamp  ## long fault runs (ARGS="--help" for a choice)
	$(BIN)/python -m tests.fault $(ARGS)

clean:  ## remove what make installed and what the tools cached
	rm -rf .venv tests/node_modules build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Stamps: the second time is instant, a changed list of packages installs again.
.venv/.run: requirements.txt pyproject.toml
	@.ci/setup run
	@touch $@

.venv/.dev: requirements.txt requirements-dev.txt pyproject.toml
	@.ci/setup dev
	@touch .venv/.run $@

tests/node_modules/.stamp: tests/package.json tests/package-lock.json
	@.ci/setup node
