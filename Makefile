# make demo: the main job on real data.  make test: the tests.  Each installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint docs claims bench evidence

demo: $(VENV)/.installed
	$(BIN)/counterpoint compare digits --methods simclr,supcon,moco,byol,simsiam,barlow,vicreg --seeds 3 --out demo --overwrite true

# on all cores, of which a run of a single test file makes no use: `.venv/bin/pytest tests/views`
test: lint
	$(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[ray]'
	$(BIN)/pytest -m slow

lint: $(VENV)/.installed-test
	$(BIN)/ruff check src tests claims benchmarks
	$(BIN)/mypy

# measure every claim whose data are here, and write RESULTS.md; COUNTERPOINT_DATA says where the data are
claims: $(VENV)/.installed-test
	for claim in claims/*.py; do $(BIN)/counterpoint claim $$(basename $$claim .py); done

# beside the peers, one at a time, on an otherwise idle machine; DATA=test.parquet of 32x32 images
bench: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	for bench in views fit; do $(BIN)/python benchmarks/$$bench.py $(if $(DATA),--data $(DATA)); done
	for bench in neighbours pairwise tiles hard_negatives startup; do $(BIN)/python benchmarks/$$bench.py; done

# record which papers have passing tests, for `counterpoint papers`
evidence: $(VENV)/.installed-test
	$(BIN)/pytest --record-evidence

docs: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(BIN)/mkdocs build --strict

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@ $(VENV)/.installed
