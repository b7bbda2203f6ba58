# `make demo` and `make test` do everything on a fresh machine. `make help` lists the rest.
#
#   PYTHON=python3.12   the Python that makes the environment
#   VENV=folder         where the environment is (default: .venv)
#   ARGS="-k plan"      more arguments for pytest, or for the demo

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint types format hooks clean
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand --tabs=12

demo: $(VENV)/.demo ## stream a 1 GB checkpoint from disk and S3, compare every tensor, print a table
	@$(BIN)/python -m demo $(ARGS)

test: $(VENV)/.dev ## all tests
	@$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev ## ruff: format and rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(VENV)/.dev ## mypy, strict
	@$(BIN)/mypy

format: $(VENV)/.dev ## ruff: rewrite what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

hooks: $(VENV)/.dev ## check each commit before it is made
	@$(BIN)/pre-commit install

clean: ## remove the environment and what tools left behind (the demo's checkpoint stays in its cache)
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is made anew when what it is made from changes, so that nothing is left of what was asked for before.
$(VENV)/.python: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'error: $(PYTHON) is missing or older than Python 3.11; choose another: make PYTHON=python3.12' >&2; exit 1; }
	@echo 'Making $(VENV) ...'
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || { echo 'error: no venv module (on Debian: apt-get install python3-venv)' >&2; exit 1; }
	@touch $@

$(VENV)/.demo: $(VENV)/.python
	@echo 'Installing the package and what the demo needs ...'
	@$(PIP) --editable '.[s3]' safetensors
	@touch $@

$(VENV)/.dev: $(VENV)/.python
	@echo 'Installing the package and what its tests need ...'
	@$(PIP) --editable '.[s3,test,dev]'
	@touch $@
