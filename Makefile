# Two commands, each on its own from a fresh clone: `make demo` and `make test`.
# They need Python >= 3.10, make and a C++17 compiler.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(shell find csrc -type f) pyproject.toml
# torch's CPU build where an index offers one under this name; any torch >= 2.11 will do (TORCH=torch==2.11.0 make ...).
TORCH ?= torch==2.13.0

.PHONY: demo test lint bench clean

demo: $(VENV)/.installed
	$(BIN)/rftfast sample --k 100 --prefix-share

test: $(VENV)/.dev lint
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python bench/throughput.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# torch first and by its exact version, so that nothing that depends on it fetches another build.
$(VENV)/.torch: | $(BIN)/python
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	touch $@

$(VENV)/.installed: $(NATIVE) | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet scikit-build-core pybind11 cmake ninja
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build
