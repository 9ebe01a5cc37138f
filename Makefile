# Everything a fresh machine needs is python3 (3.11 to 3.13) with venv, and make. All of it goes into .venv and .cache.

UV_VERSION := 0.13.9
PYTHON ?= python3
UV := .cache/uv-$(UV_VERSION)/bin/uv
PY := .venv/bin/python
BIN := .venv/bin
STAMP := .venv/.synced

export UV_PYTHON_DOWNLOADS := never
export UV_LINK_MODE ?= copy
export PLAYBILL_TEST_UV := $(abspath $(UV))

.DEFAULT_GOAL := help
.PHONY: help demo test check bench soak services services-stop fmt clean sync

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

demo: sync ## Run real transfers on SQLite, kill a worker, see each item moved exactly once
	$(PY) examples/stock/demo.py

# CI=true: a test whose server is missing fails instead of being skipped.
test: check services ## Everything: check, then all tests on real servers
	CI=true $(PY) -m pytest

check: sync ## What every change must pass: lint, format, types, layers, drift of generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PY) tools/settings_doc.py --check

bench: services ## Measure and print the tables of docs/performance.md (ARGS: options of bench/run.py)
	$(PY) bench/run.py $(ARGS)

soak: services ## The fault suite with 20 seeds
	CI=true PLAYBILL_TEST_SEEDS=20 $(PY) -m pytest tests/faults

services: sync ## Start private RabbitMQ (Debian 12's and 13's) and PostgreSQL on free loopback ports
	$(PY) tools/services.py start
	$(PY) tools/services.py start --debian13  # needs root once, to make the Debian 13 root

services-stop: sync ## Stop them
	$(PY) tools/services.py stop

fmt: sync ## Format, and repair what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove what tools leave behind; .venv, .cache and running services stay
	rm -rf dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find actors tests tools bench examples -name __pycache__ -type d -prune -exec rm -rf {} +

sync: $(STAMP)

$(UV):
	$(PYTHON) -m venv .cache/uv-$(UV_VERSION) || \
		{ echo "python3 -m venv failed: install it (Debian: apt-get install python3-venv) and run make again" >&2; exit 1; }
	.cache/uv-$(UV_VERSION)/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# An environment that exists is kept, whatever its Python; a new one gets the machine's own python3.
$(STAMP): pyproject.toml uv.lock $(UV)
	test -x $(PY) || $(UV) venv --python $(PYTHON) .venv
	$(UV) sync --locked
	touch $@
