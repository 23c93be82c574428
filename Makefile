# Two commands do all set-up, each from nothing, and install nothing on a second call: `make demo` and `make test`.
SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check test-slow bench gpu docs clean

# The interpreter that makes the environment: the first of these that is 3.11 or newer, or `make test PYTHON=...`.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3 python; do \
  "$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$python"; break; }; done)
VENV := .venv
BIN  := $(VENV)/bin
RUN  := $(BIN)/python
PIP  := $(RUN) -m pip --disable-pip-version-check

# The tests on two processes. A test has a limit of its own (pyproject.toml); this one is for what none of them can end.
LIMIT  = $(if $(shell command -v timeout),timeout --foreground --kill-after=60 $(1))
PYTEST = OMP_NUM_THREADS=1 $(call LIMIT,$(1)) $(RUN) -m pytest -n 2 --dist loadfile

# Idle OpenMP threads sleep rather than spin, so that two processes on few cores do not slow each other down.
export OMP_WAIT_POLICY := PASSIVE

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed-core  ## Install what a run needs, then prune a small model by 77 % with SlimSAM
	$(RUN) -m experiments method=slimsam ratio=0.77

test: check  ## Install what the tests need, then lint, types, layers and tests
	$(call PYTEST,75m)

check: $(VENV)/.installed-test  ## Lint, types and layers, without the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-slow: $(VENV)/.installed-test  ## The tests that take long or need downloaded checkpoints
	$(call PYTEST,8h) -m "slow and not gpu" -o timeout=3600 -o faulthandler_timeout=3900

bench: $(VENV)/.installed-core  ## Run every file of benchmarks/: two things in one run, and their ratio
	@for file in benchmarks/[!_]*.py; do \
	  [ -e "$$file" ] || { echo "benchmarks/ holds no benchmark"; exit 0; }; \
	  name=$${file%.py}; echo "== $$name"; $(RUN) -m "$${name//\//.}"; \
	done

gpu:  ## All that only a GPU shows, in 8 minutes, into results/gpu (DEVICE=cpu: a dry run; RUN=python without .venv)
	$(RUN) -m benchmarks.gpu $(if $(DEVICE),--device $(DEVICE)) $(if $(OUT),--out $(OUT))

docs: $(VENV)/.installed-docs  ## Build the documents as a site, docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -q -d docs/_build/doctrees docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:  ## Remove caches and build leftovers (keeps .venv/, runs/ and downloads)
	rm -rf build dist docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path ./.git -prune -o -path ./$(VENV) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# --- set-up -------------------------------------------------------------------------------------------------------
# A stamp is touched when its installation succeeded, and is stale once pyproject.toml or constraints.txt is newer.

$(BIN)/pip:
	@[ -n "$(PYTHON)" ] || { echo "make needs Python 3.11 or newer with venv; name one with PYTHON=..." >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.installed-core: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) install -e . -c constraints.txt
	@touch $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) install -e ".[docs]" -c constraints.txt
	@touch $(VENV)/.installed-core $@

# What the tests need includes what a run and the site need, so all stamps are set.
$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) install -e ".[test]" -c constraints.txt
	@touch $(VENV)/.installed-core $(VENV)/.installed-docs $@
