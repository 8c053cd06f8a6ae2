# Two commands need only Python 3.11 to 3.13 and pip (make demo PYTHON=python3.12 names another one than python3):
#   make demo    deploy the embedded model to every runtime, and measure it on the embedded data
#   make test    run the tests without the slow ones; under ten minutes on two cores
# They install everything else into .venv. More commands:
#   make slow    run the slow tests, as .ci/run does
#   make stress  repeat cold starts and kills several hundred times
#   make check   run ruff and mypy
#   make site    build the documentation in site/; a broken link is an error
#   make schemas update the JSON schemas after a change of a record
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
