# Everything starts here: `make demo` shows the main job, `make test` proves it, `make run` starts the node.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 3
SHELL := /bin/bash

.PHONY: help setup setup-dev counterparts demo run test lint soak viewer clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Overread needs Python 3.11 or later: make PYTHON=python3.12 ...")'
	@echo "Setting up $(VENV) (downloads about 400 MB the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "Adding what the tests need ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[dev]'
	@touch $@

setup: $(VENV)/installed ## create .venv and install the node
setup-dev: $(VENV)/installed-dev ## the same with everything the tests need

demo: setup ## send a real brain MR through the whole node and look at the result
	@$(BIN)/overread demo

run: setup ## start the node with config/node.toml
	@$(BIN)/overread run --config config/node.toml

counterparts: ## install the programs that the tests talk to: Debian's (root and apt), and the OHIF viewer (50 MB, once)
	@deploy/install-counterparts.sh
	@$(PYTHON) -m tests.viewer.ohif

lint: setup-dev ## formatter, linter and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

test: setup-dev counterparts lint ## lint and all tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

soak: setup-dev counterparts ## long chaos and fuzz runs
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[fuzz]'
	@OVERREAD_SOAK=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

viewer: setup-dev counterparts ## open many reports and segmentations in a real OHIF (minutes; one study is in make test)
	@$(BIN)/python -m tests.viewer.check

clean: ## remove what was built and set up
	rm -rf $(VENV) build out data *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
