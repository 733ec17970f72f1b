# Everything a checkout does. Needs Python 3.11 or newer and make; the rest comes from requirements.lock.
# The first of these that is new enough makes .venv; `make PYTHON=/path/to/python …` decides otherwise.
PYTHON ?= python3.13 python3.12 python3.11 python3
VENV := .venv
RUN := $(VENV)/bin/python
# Most of a test is waiting, so there are more processes than cores; each has a Kafka and a Valkey of its own.
TESTERS ?= 3

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo up test long isolation faults bench check lock wheel clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.ok  ## the whole system on real input, reconciled: ends by itself in under three minutes
	$(RUN) -m deploy.embedded.demo

up: $(VENV)/.ok  ## the same stack, running until Ctrl-C
	$(RUN) -m deploy.embedded.up

test: $(VENV)/.ok  ## all tests, on real servers
	$(RUN) -m pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder

long: $(VENV)/.ok  ## the tests that `make test` leaves out
	$(RUN) -m pytest -m long

isolation: $(VENV)/.ok  ## what 97 connections notice of three in trouble: ten rounds, with figures
	ISOLATION_ROUNDS=10 $(RUN) -m pytest -s -m long --timeout 600 tests/faults/test_isolation.py

faults: $(VENV)/.ok  ## a seeded storm of faults on real parts, then all fault cases: SEED=n MINUTES=m, or CASE=12
	$(RUN) -m tests.faults.storm $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(CASE),--case $(CASE))

bench: $(VENV)/.ok  ## how fast it is, each figure against a baseline of the same run: ONLY=push, RECORDS=n REPEATS=n
	$(RUN) -m tests.bench $(ONLY) $(if $(RECORDS),--records $(RECORDS)) $(if $(REPEATS),--repeats $(REPEATS)) \
		--graph docs/bench.svg

check: $(VENV)/.ok  ## format, lint, types, import rules
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

lock:  ## requirements.lock anew from pyproject.toml; UPGRADE=1 takes the newest versions
	@command -v uv >/dev/null || { echo "make lock needs uv: https://docs.astral.sh/uv/"; exit 1; }
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
		--all-extras $(if $(UPGRADE),--upgrade) pyproject.toml requirements.in --output-file requirements.lock

wheel: $(VENV)/.ok  ## dist/*.whl, built without a network
	rm -rf build dist *.egg-info
	@$(RUN) -c 'from setuptools.build_meta import build_wheel; build_wheel("dist")' >/dev/null
	rm -rf build *.egg-info
	@ls dist/*.whl

clean:  ## remove what was made here, except .cache
	rm -rf $(VENV) build dist out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made whole or not at all: a changed lock starts from nothing. Debian keeps ensurepip in a package of
# its own, so there are two ways without it.
$(VENV)/.ok: requirements.lock
	@set -eu; \
	found=; \
	for python in $(PYTHON); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then echo "no Python 3.11 or newer among: $(PYTHON)"; exit 1; fi; \
	echo "making $(VENV) with $$found: about a minute the first time"; \
	rm -rf $(VENV); \
	install="install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock"; \
	if "$$found" -c 'import ensurepip' 2>/dev/null; then \
		"$$found" -m venv $(VENV); \
		$(RUN) -m pip $$install; \
	elif "$$found" -m pip --version >/dev/null 2>&1; then \
		"$$found" -m venv --without-pip $(VENV); \
		"$$found" -m pip --python $(RUN) $$install; \
	elif command -v uv >/dev/null; then \
		uv venv --quiet --python "$$found" $(VENV); \
		uv pip install --quiet --python $(RUN) --require-hashes --only-binary :all: -r requirements.lock; \
	else \
		echo "$$found has neither ensurepip nor pip: on Debian and Ubuntu, apt-get install python3-venv"; exit 1; \
	fi; \
	touch $@
