# What people type. Needs Python 3.11 and make, nothing else: everything is installed into .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
PYTEST := $(BIN)/python -m pytest
# Compiled modules are what makes the second start of anything fast.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## this list
	@echo "make demo [SOURCE=generated|retailrocket|movielens|online-retail|table INPUT=path OPTIONS='a=b c=d' REPLACE=1]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- set-up: repeated only when what it depends on has changed

$(UV):
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; make PYTHON=/path/to/python3.11 names it"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "$(PYTHON) is not Python 3.11"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$$(sed -n 's/^uv==//p' requirements-dev.txt)"

# Also compiles recsys/serving/core/compiled.pyx, where there is a C++ compiler.
$(VENV)/.installed: requirements.txt pyproject.toml recsys/serving/core/compiled.pyx | $(UV)
	@echo "Installing the packages of requirements.txt into $(VENV): 3.6 GB, minutes where they are still to be downloaded."
	$(UV) pip install --quiet --python $(BIN)/python -r requirements.txt
	@rm -f recsys/serving/core/compiled.*.so
	$(UV) pip install --quiet --python $(BIN)/python --no-deps -e .
	@ls recsys/serving/core/compiled.*.so >/dev/null 2>&1 || echo "No C++ compiler: the service will run its slower Python core."
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(UV) pip install --quiet --python $(BIN)/python -r requirements-dev.txt
	@touch $@

.PHONY: setup
setup: $(VENV)/.installed-dev ## install everything into .venv

# ---- the main job

.PHONY: demo
demo: $(VENV)/.installed ## set up, start all services, run a night, serve; prints how to ask for recommendations
	@$(BIN)/python -m airflow_service.demo start

.PHONY: stop
stop: ## end everything that make demo has started
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m airflow_service.demo stop; else echo "Nothing was running."; fi

# ---- tests and checks

.PHONY: test
test: test-fast ## all tests: the fast and the slow ones on two cores, then a whole day
	$(PYTEST) -n 2 --dist loadfile -m "slow and not e2e"
	$(PYTEST) -m e2e

.PHONY: test-fast
test-fast: setup ## the fast tests alone
	$(PYTEST) -n 2 -m "not slow and not e2e"

.PHONY: check
check: static test-fast ## what must hold before a commit: format, lint, types, layers, locks, tables, words, fast tests

.PHONY: static
static: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m airflow_service.dag_table --check
	$(BIN)/python -m tests.wording
	$(MAKE) --no-print-directory lock-check

.PHONY: bench
bench: setup ## the benchmarks of minutes; rows go to research/benchmarks/RESULTS.md by hand (nightly and b4: by their own)
	@for name in als deepfm publication serving ingestion preparation; do \
	  echo "== $$name"; $(BIN)/python -m research.benchmarks.$$name; done

.PHONY: notebooks
notebooks: setup ## run the notebooks of research/ into .local/notebooks; QUICK=--quick: a small generated shop
	$(BIN)/python -m research.notebooks $(QUICK)

# ---- pinned requirements: each .in is compiled to a .txt, the light and the dev ones within the main one

LOCKS := requirements requirements-api requirements-dev
COMPILE = $(abspath $(UV)) pip compile --quiet --no-header --python-version 3.11

.PHONY: lock
lock: | $(UV) ## compile requirements*.in to requirements*.txt; add UPGRADE=--upgrade for newer versions
	for name in $(LOCKS); do $(COMPILE) $(UPGRADE) $$name.in -o $$name.txt; done

.PHONY: lock-check
lock-check: | $(UV)
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; cp requirements*.in requirements*.txt "$$folder"; \
	for name in $(LOCKS); do \
	  (cd "$$folder" && $(COMPILE) $$name.in -o $$name.txt); \
	  diff -u $$name.txt "$$folder/$$name.txt" || { echo "$$name.txt does not follow from $$name.in: make lock"; exit 1; }; \
	done

.PHONY: clean
clean: stop ## end everything and remove the environment, caches and local state (database, models, logs)
	rm -rf $(VENV) .local .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
