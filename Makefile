# Two commands for a fresh machine: `make demo` and `make test`. They need Python 3.11+, make and a package index.
# Everything goes into .venv; stamps there make repeated calls start at once.

VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

.PHONY: demo test check format embedded classifier docs clean

demo: $(VENV)/.base
	$(BIN)/alignstack demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

format: $(VENV)/.dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# The model and the classifier in the package are rebuilt from data by these; ALIGNSTACK_DATA says where the data lies.
embedded: $(VENV)/.dev
	PYTHON=$(BIN)/python sh recipes/embedded/build.sh

classifier: $(VENV)/.dev
	$(BIN)/alignstack train classifier --config recipes/classifier.yaml

docs: $(VENV)/.dev
	$(BIN)/python docs/reference.py

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found; set PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || $(PYTHON) -m virtualenv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make virtual environments; install its venv module (Debian: python3-venv)" >&2; exit 1; }

$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing alignstack into $(VENV) …"
	$(PIP) --editable .
	@touch $@

# torch comes by exact version (constraints.txt): an open range may bring a CUDA build of several gigabytes.
$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing alignstack with its training and development tools into $(VENV) …"
	$(PIP) --editable '.[train,dev]'
	@touch $@ $(VENV)/.base

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache alignstack-demo
