# Everything runs in .venv, at the versions pinned in constraints.txt.
#   make demo        a network learns to read handwritten digits
#   make test        lint, types, tests
#   make test-full   the same, with the slow sweeps
#   make docs        build the documentation into site/
#   make clean       remove all that make made

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check -qq

.PHONY: demo test test-full lint docs clean
.DELETE_ON_ERROR:

demo: .venv/demo.stamp
	$(BIN)/backlit demo

test: lint
	$(BIN)/pytest

test-full: lint
	$(BIN)/pytest -m ""

lint: .venv/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: .venv/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv site dist backlit-demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each set of extras; a stamp is renewed when what it was made from changes.
.venv/demo.stamp: EXTRAS = [plot,tables]
.venv/test.stamp: EXTRAS = [test]
.venv/docs.stamp: EXTRAS = [docs]

.venv/%.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing backlit$(EXTRAS) into .venv"
	@$(PIP) install -c constraints.txt hatchling editables
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.$(EXTRAS)'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	    v >= (3, 11) or sys.exit("backlit needs Python 3.11 or newer, $(PYTHON) is %d.%d: try make PYTHON=python3.11" % v[:2])'
	@$(PYTHON) -m venv .venv
