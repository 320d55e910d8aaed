# Needs Python 3.11 or newer, git and make; everything else comes from PyPI into .venv.
#   make run     install what running needs, make a workspace, serve
#   make test    install the rest, check, test

PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)) python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# `make run ARGS="--port 8001"`, `make test TESTS=tests/test_queue.py`
ARGS ?=
TESTS ?= tests

export HF_HUB_DISABLE_TELEMETRY := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
# Build machines often set this; then each of hundreds of processes would compile the package anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test check lint types install install-dev docs-figures lock clean help

help:  ## what there is to make
	@sed -n 's/^\([a-z-]*\):[^#]*## */\1\t/p' $(MAKEFILE_LIST) | expand -t 12

run: install  ## install what running needs, make a workspace with the bundled set, serve it and print the sign-ins
	$(BIN)/rlhf-hitl quickstart $(ARGS)

test: lint  ## install the rest, check and test (TESTS=tests/store for one folder, without types)
	@# The types take one core for a minute and a half, so they are checked beside the tests; what pyright prints comes
	@# after what pytest prints.
	@types=; if [ "$(TESTS)" = tests ]; then \
		report=$$(mktemp); $(BIN)/pyright >"$$report" 2>&1 & types=$$!; fi; \
	trap 'test -z "$$types" || { kill $$types 2>/dev/null; rm -f "$$report"; }' EXIT; trap 'exit 130' INT TERM; \
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations 15 $(TESTS); failed=$$?; \
	if [ -n "$$types" ]; then echo "pyright:"; wait $$types || failed=1; cat "$$report"; fi; \
	exit $$failed

check: lint types  ## formatting, lint and types only

lint: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install-dev
	$(BIN)/pyright

install: $(VENV)/.installed  ## .venv with what running needs, as pinned in requirements.lock

install-dev: $(VENV)/.installed-dev  ## .venv with what tests and checks need as well

# Of the pins only those count whose packages the package asks for; setuptools builds it.
$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1): expected Python 3.11 or newer." \
			"Fix: install one and run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint requirements.lock setuptools
	$(PIP) install --constraint requirements.lock --no-build-isolation -e '.[all]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -r requirements.lock
	@touch $@

docs-figures: install  ## draw the documentation's tables from benchmarks/results
	$(BIN)/python benchmarks/figures.py
	$(BIN)/python docs/rooms.py

lock:  ## pin requirements.lock anew to the newest versions pyproject.toml allows
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --upgrade pip
	.venv-lock/bin/python -m pip install -e '.[all,dev]' torch==2.13.0
	{ sed '/^[^#]/,$$d' requirements.lock; \
	  .venv-lock/bin/python -m pip freeze --all --exclude-editable --exclude pip | sed 's/+[a-z0-9.]*$$//'; \
	} > requirements.lock.new
	mv requirements.lock.new requirements.lock
	rm -rf .venv-lock

clean:  ## remove what the tools made; workspace/ stays
	rm -rf $(VENV) .venv-lock build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
