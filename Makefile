# `make` alone lists the targets.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Tests run side by side, as `tests/conftest.py` groups them. 0: all in this process.
JOBS ?= 2
PYTEST = python -m pytest -n $(JOBS) --dist loadfile

# More arguments for pytest, ruff or the benches: make test ARGS="tests/test_servers.py -q"
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check fmt lint types imports bench bench-recall chaos live lock clean

help:
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything in it (nothing to do when it is up to date)

demo: $(READY) ## watch a recorded coding session turn into observations
	@$(BIN)/onlooker demo $(ARGS)

test: $(READY) ## run every test, on SQLite, Postgres and Redis
	@$(BIN)/$(PYTEST) $(ARGS)

# Every step runs, so that one failure hides no other; the tests come last.
check: $(READY) ## what CI runs: format, lint, types, imports, tests
	@failed=; \
	for step in "ruff format --check" "ruff check" "mypy" "lint-imports --no-logo" "$(PYTEST)"; do \
		echo "$$step"; \
		$(BIN)/$$step || failed="$$failed [$$step]"; \
	done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

fmt: $(READY) ## format the code and repair what ruff can repair
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

lint: $(READY) ## ruff
	$(BIN)/ruff check $(ARGS)

types: $(READY) ## mypy --strict
	$(BIN)/mypy $(ARGS)

imports: $(READY) ## the layers: who may import whom
	$(BIN)/lint-imports --no-logo $(ARGS)

bench: $(READY) ## measure throughput and latency
	$(BIN)/python bench/run.py $(ARGS)

bench-recall: $(READY) ## measure how well search finds what it should
	$(BIN)/python bench/recall.py $(ARGS)

chaos: $(READY) ## ten minutes of kills, outages and lost connections; ARGS="--seed 7" repeats a run
	$(BIN)/python tests/chaos.py $(ARGS)

# UV_NO_CONFIG and the --no-emit options keep this machine's registry out of the files.
# `make lock ARGS=--upgrade` takes the newest releases; without it only what pyproject.toml changed moves.
LOCK = UV_NO_CONFIG=1 UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile pyproject.toml --quiet --universal \
	--python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-package onlooker $(ARGS)

live: $(READY) ## ask each model whose key is set (ONLOOKER_…_API_KEY) for observations: this costs money
	$(BIN)/python tests/live_models.py $(ARGS)

lock: $(READY) ## write requirements.txt and requirements-dev.txt from pyproject.toml
	$(LOCK) --extra team --output-file requirements.txt
	$(LOCK) --extra dev --constraint requirements.txt --output-file requirements-dev.txt

clean: ## remove .venv, caches and built files
	rm -rf $(VENV) dist build .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The first Python of these that is new enough makes the environment.
PYTHONS := python3 python3.13 python3.12 python3.11 python3.14 python
$(READY): requirements-dev.txt pyproject.toml
	@set -e; \
	if [ -x $(BIN)/python ] && $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		python=$(BIN)/python; \
	else \
		python=; \
		for candidate in $(PYTHONS); do \
			if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
		done; \
		if [ -z "$$python" ]; then \
			echo "Onlooker needs Python 3.11 or newer; $$(python3 --version 2>/dev/null || echo 'no Python') is what is here." >&2; \
			echo "Install a newer one (Debian: apt-get install python3 python3-venv; macOS: brew install python) and run make again." >&2; \
			exit 1; \
		fi; \
		if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
			echo "$$($$python --version) is here, but it cannot make environments: install its venv module" >&2; \
			echo "(Debian and Ubuntu: apt-get install python3-venv) and run make again." >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$($$python --version); this takes a minute the first time."; \
		rm -rf $(VENV); \
		$$python -m venv $(VENV); \
	fi; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
