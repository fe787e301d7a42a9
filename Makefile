# Two commands do everything: `make demo` and `make test`. Each sets up what it needs.
PYTHON ?= python3
VENV ?= .venv-$(notdir $(PYTHON))
BIN = $(VENV)/bin
DOCKER = build/docker
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: demo test lint format coverage install clean

demo: $(BIN)/pyproxy
	scripts/system-packages lab
	$(BIN)/python -m tests.lab

test: $(BIN)/pytest $(DOCKER) build/base.tar build/wheels
	scripts/system-packages test
	PYTHONUNBUFFERED=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(BIN)/ruff
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(BIN)/ruff
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Coverage of the program's own processes too, which the tests start; reported, not required.
coverage: $(BIN)/pytest $(DOCKER)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PYTEST_FLAGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

install: $(BIN)/pyproxy

$(BIN)/pyproxy: pyproject.toml
	scripts/system-packages lab
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(BIN)/pytest $(BIN)/ruff &: $(BIN)/pyproxy
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	touch $(BIN)/pytest $(BIN)/ruff $(BIN)/pyproxy

$(DOCKER):
	scripts/system-packages test
	scripts/debian-docker $@

# For the test of the Dockerfile, which can reach no registry: a base image, and the wheels that go into ours.
build/base.tar:
	scripts/system-packages test
	scripts/debian-base $@

build/wheels: pyproject.toml $(BIN)/pytest
	rm -rf $@
	$(BIN)/pip download --quiet --disable-pip-version-check --only-binary :all: --dest $@ uvloop hatchling \
	    --python-version $$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')

clean:
	rm -rf .venv* build dist .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
