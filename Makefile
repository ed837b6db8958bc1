# Two commands on a fresh machine: `make demo` and `make test`. Both set themselves up in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test check site wheel bench clean
setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/bao demo --out demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

site: setup
	$(BIN)/mkdocs build

wheel: setup
	$(BIN)/python tools/check_wheel.py

bench: setup
	$(BIN)/python benchmarks/all.py --json performance.json

clean:
	rm -rf .venv demo site build *.egg-info
