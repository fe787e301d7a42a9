# Two commands do everything: `make demo` and `make test`. Each sets up what it needs. The others: `make help`.
PYTHON ?= python3
VENV ?= .venv-$(notdir $(PYTHON))
BIN = $(VENV)/bin
# pyproxy alone; and with what tests, linters and benchmark need.
INSTALLED = $(VENV)/.installed
DEV = $(VENV)/.dev
PIP = $(BIN)/pip install --quiet --disable-pip-version-check --editable
# A dockerd as this machine's distribution has it, and Debian's next.
DOCKER = build/docker build/docker-next
# What is given to others. The second where there is dpkg, of this machine's architecture and release.
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' pyproxy/__init__.py)
WHEEL = dist/pyproxyd-$(VERSION)-py3-none-any.whl
DEB = dist/pyproxy_$(VERSION)-1_$(shell dpkg --print-architecture 2>/dev/null).deb
PACKAGES = $(WHEEL) $(if $(shell command -v dpkg-deb),$(DEB))
SOURCES = pyproject.toml README.md LICENSE $(shell find pyproxy bin -type f -not -name '*.pyc')
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: demo test lint format coverage wheel deb man completion bench bench-quick bench-deps install clean help

demo: $(INSTALLED)
	scripts/system-packages lab
	$(BIN)/python -m tests.lab

test: $(DEV) $(DOCKER) build/base.tar build/wheels $(PACKAGES)
	scripts/system-packages test
	PYTHONUNBUFFERED=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	if command -v shellcheck >/dev/null; then shellcheck bin/pyproxy bin/pyproxy-stub scripts/pythons scripts/wheels; fi

format: $(DEV)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Coverage of the program's own processes too, which the tests start; reported, not required.
coverage: $(DEV) $(DOCKER)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PYTEST_FLAGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

# What pyproxy costs, against its peers: all of them in some eleven minutes, or the first three in under two.
bench: bench-deps
	$(BIN)/python -m bench run $(BENCH_FLAGS)

bench-quick: $(DEV) $(DOCKER)
	scripts/system-packages test
	$(BIN)/python -m bench run --quick $(BENCH_FLAGS)

bench-deps: $(DEV) $(DOCKER) build/peers
	scripts/system-packages test

# For packages. Both are made from the program's own tables of options and subcommands, which need the interpreter alone.
man:
	$(PYTHON) -m pyproxy.cli.manual build/man

completion:
	mkdir -p build/completion
	$(PYTHON) -m pyproxy completion bash >build/completion/pyproxy
	$(PYTHON) -m pyproxy completion zsh >build/completion/_pyproxy
	$(PYTHON) -m pyproxy completion fish >build/completion/pyproxy.fish

install: $(INSTALLED)

wheel: $(WHEEL)

deb: $(DEB)

$(WHEEL): $(SOURCES) | $(DEV)
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

$(DEB): scripts/debian_package.py CHANGELOG.md $(WHEEL) build/wheels | man
	$(BIN)/python scripts/debian_package.py $(WHEEL) build/wheels $@

# bin/ is copied, and not linked to, even by an editable installation.
$(INSTALLED): pyproject.toml $(wildcard bin/*)
	scripts/system-packages lab
	$(PYTHON) -m venv $(VENV)
	$(PIP) .
	touch $@

$(DEV): $(INSTALLED)
	$(PIP) '.[engine,test,lint,bench]'
	touch $@

# A dockerd, and the proxies that others make, for tests and benchmark: unpacked, not installed.
build/docker:
	scripts/system-packages test
	scripts/debian-unpack $@ docker.io containerd runc tini

# Without its runc, which takes a newer C library than Debian 12's: the one above serves.
build/docker-next:
	scripts/debian-unpack --suite forky $@ docker.io docker-cli docker-buildx containerd

build/peers:
	scripts/debian-unpack $@ socat libwrap0 nginx libnginx-mod-stream systemd libsystemd-shared \
	    haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1

# For the tests of the Dockerfile and of the Debian package: a root file system of this machine's release.
build/base.tar:
	scripts/system-packages test
	scripts/debian-base $@

# What pyproxy depends on and is built by, for this machine's own Python: tests reach no registry.
build/wheels: pyproject.toml scripts/wheels | $(DEV)
	scripts/wheels $(BIN)/pip $@

help:
	@echo 'make demo         pyproxy before a container on a Docker host out of network namespaces'
	@echo 'make test         all tests; PYTEST_FLAGS="-k udp" for some'
	@echo 'make lint         ruff, mypy and shellcheck'
	@echo 'make format       what ruff can fix'
	@echo 'make coverage     the tests, and which lines they ran'
	@echo 'make wheel        dist/pyproxyd-$(VERSION)-py3-none-any.whl, for pip'
	@echo 'make deb          a package for this release of Debian or Ubuntu: dist/pyproxy_*.deb'
	@echo 'make bench-quick  what it costs, against docker-proxy and no proxy: two minutes'
	@echo 'make bench        the same against all peers: eleven minutes; BENCH_FLAGS="--scenario udp" for some'
	@echo 'make bench-deps   what the benchmark needs, but not the benchmark'
	@echo 'make man          man pages, into build/man'
	@echo 'make completion   what bash, zsh and fish need to complete pyproxy, into build/completion'
	@echo 'make install      pyproxy alone, into $(VENV)'
	@echo 'make clean        remove all that was made here'
	@echo 'make help         this'
	@echo 'Each sets up what it needs. PYTHON=python3.13 takes that Python, and a virtual environment of its own.'

clean:
	rm -rf .venv* build dist .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
