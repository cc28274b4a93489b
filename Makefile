# make demo: the main job on real data.  make test: the tests.  Each installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint docs claims bench papers clean

demo: $(VENV)/.installed
	$(BIN)/counterpoint compare digits --methods simclr,supcon,moco,byol,simsiam,barlow,vicreg --seeds 3 --out demo --overwrite true

test: $(VENV)/.installed-test
	$(BIN)/ruff check src tests claims benchmarks
	$(BIN)/mypy
	$(BIN)/pytest

test-slow: $(VENV)/.installed-test
	$(BIN)/pytest -m slow

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@ $(VENV)/.installed
