# Any Python from 3.11 on, with venv and pip: make setup PYTHON=python3.13
PYTHON ?= python3
BIN := .venv/bin

# pip: quiet about its own releases and about running as root, which is what containers do.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
# Wheels only: building from source would run packages that no hash in the lock vouches for.
INSTALL := install --quiet --require-hashes --only-binary :all:
COMPILE := $(BIN)/uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock"
MARKDOWN := $(wildcard README.md docs/*.md docs/*/*.md)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo dev test test-cluster model torture bench load load-web ghz lint format proto proto-check wheel-check readme-check lock clean

help: ## list every target
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "  %-13s%s\n", $$1, $$2 }'

setup: .venv/installed ## install the project and its tools into .venv, as locked

demo: setup ## sell 500 vouchers to 5,000 shoppers on real servers, and count
	@$(BIN)/vouchsafe demo

dev: setup ## run everything on this machine until Ctrl+C, with its data in .vouchsafe
	@$(BIN)/vouchsafe dev

test: setup ## run every test, two at a time
	@$(BIN)/pytest --numprocesses 2 --dist worksteal

# But for tests/unit, which asks no Valkey, and for what is marked one_node.
test-cluster: setup ## run the tests on a Valkey Cluster of three primaries, two at a time
	@$(BIN)/pytest --cluster --ignore tests/unit --numprocesses 2 --dist worksteal

# What `make test` does in 150 sequences.
model: setup ## hold the gate against its model in 2,000 random sequences of 50 steps, in several minutes
	@$(BIN)/pytest tests/gate/test_against_model.py --sequences 2000

# SEED= makes the faults of an earlier run again, in their order; CLUSTER=1 is on a Valkey Cluster.
MINUTES ?= 5
CONTRACT ?= gate
torture: setup ## break everything by chance for 5 minutes (MINUTES=), and hold every call against the ledger
	@$(BIN)/python -m tests.torture --minutes $(MINUTES) --contract $(CONTRACT) $(if $(SEED),--seed $(SEED)) $(if $(CLUSTER),--cluster)

# Figures beside yardsticks; docs/performance.md says how to read them.
bench: setup ## compare with an empty gRPC server, the bare function and PostgreSQL alone, in 4 minutes (QUICK=1: in one)
	@$(BIN)/python -m benchmarks.bench $(if $(QUICK),--quick)

# SCENARIO= is sale, flash, steady, storm (too many, who come back) or operators (beside steady trade).
SCENARIO ?= sale
load: setup ## send a flash sale and steady trade (SCENARIO=) with locust for 20 s; fails when a call does
	@$(BIN)/python -m benchmarks.load --scenario $(SCENARIO)

load-web: setup ## the same until Ctrl-C, with locust's page to look at
	@$(BIN)/python -m benchmarks.load --scenario $(SCENARIO) --web

ghz: setup ## load one worker with ghz, where that is installed, as benchmarks/ghz.json says
	@$(BIN)/python -m benchmarks.ghz

lint: setup ## check style, types, the direction of imports, protos, Lua and Markdown
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/buf lint protos
	@$(BIN)/buf format protos --diff --exit-code --exclude-path protos/buf --exclude-path protos/google
	@$(BIN)/python -c 'import sys, lupa.lua51 as lua; [lua.LuaRuntime().compile(open(f).read(), name="@" + f) for f in sys.argv[1:]]' \
		src/vouchsafe/gate/functions/*.lua
	@$(if $(MARKDOWN),$(BIN)/mdformat --number --check $(MARKDOWN))

format: setup ## put Python, protos and Markdown into shape
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format --quiet .
	@$(BIN)/buf format protos --write --exclude-path protos/buf --exclude-path protos/google
	@$(if $(MARKDOWN),$(BIN)/mdformat --number $(MARKDOWN))

proto: setup ## generate src/vouchsafe/v1 from the protos
	@$(BIN)/python protos/generate.py

proto-check: setup ## fail when src/vouchsafe/v1 is not what the protos give
	@$(BIN)/python protos/generate.py --check

# Held against the tree after the installation: the wheel brings every file of the package and nothing else.
wheel-check: setup ## build the wheel and try it in an environment without the tools
	@rm -rf dist
	@$(BIN)/hatchling build --target wheel >/dev/null
	@$(PYTHON) -m venv dist/venv
	@dist/venv/bin/pip $(INSTALL) --requirement requirements.lock
	@dist/venv/bin/pip install --quiet --no-index --no-deps dist/*.whl
	@diff --recursive --exclude=__pycache__ src/vouchsafe dist/venv/lib/python3*/site-packages/vouchsafe
	@! $(BIN)/python -m zipfile --list dist/*.whl | tail -n +2 | grep -v '^vouchsafe[/-]'
	@dist/venv/bin/pip check
	@dist/venv/bin/vouchsafe --help >/dev/null

readme-check: setup .venv/bin/grpcurl ## run every example of the README, with a stock gRPC client (needs Go)
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m tests.readme_check

.venv/bin/grpcurl: .venv/locked
	@command -v go >/dev/null || { echo "readme-check needs Go, to install grpcurl"; exit 1; }
	@GOBIN="$(abspath $(BIN))" go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4
	@touch $@

lock: setup ## renew the lock files from pyproject.toml, at the newest releases
	@$(COMPILE) --output-file requirements.lock
	@$(COMPILE) --constraint requirements.lock --all-extras --group dev --group test --group load --group docs \
		--output-file requirements-dev.lock

clean: ## remove what was built and installed here
	@rm -rf .venv dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find src tests protos -name __pycache__ -type d -prune -exec rm -rf {} +

# A new lock gets a new environment: what it no longer names must not be importable by chance.
.venv/locked: requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit("vouchsafe needs Python 3.11 or later: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	@echo "Installing what requirements-dev.lock names into .venv; the first time this takes a minute or two."
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/pip $(INSTALL) --requirement requirements-dev.lock
	@touch $@

.venv/installed: .venv/locked pyproject.toml
	@$(BIN)/pip install --quiet --no-index --no-deps --no-build-isolation --editable .
	@touch $@
