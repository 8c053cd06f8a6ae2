# Two commands need nothing but Python 3.11 to 3.13 with pip (make demo PYTHON=python3.12 names another than python3):
#   make demo   the main job on the embedded model and data
#   make test   the tests, in under ten minutes on two cores
# `make slow` runs the tests that take longer, as .ci/run does; `make stress` repeats cold starts and kills by the hundred.
# `make site` builds the documentation into site/, and fails on a broken link.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow stress venv check schemas site clean

venv: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@echo "installing Sandglass and its runtimes into .venv: 2 GB of packages, a few minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev,docs]'
	touch $@

demo: venv
	$(BIN)/sandglass demo --out demo --force

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

schemas: venv
	$(BIN)/python -m sandglass.cli.schemas

site: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test: venv
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not stress" --durations 25

slow: venv
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not stress" --durations 25

stress: venv
	$(BIN)/python -m pytest -n 2 --dist loadfile -m stress --durations 25

clean:
	rm -rf .venv demo site build dist
