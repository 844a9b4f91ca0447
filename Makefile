# `make demo` and `make test` set everything up on a fresh machine: a virtual environment, the pinned packages, this one.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Without the compiled tests of the last run every process of tests compiles them again, 8 s each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check lint types unit docs clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/cromss demo --out demo

test: check
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m slow tests

check: lint types unit

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'not slow' tests

clean:
	rm -rf $(VENV) demo runs
