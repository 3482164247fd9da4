# make run     start gripproxy on port 7999 in front of the example in examples/quickstart
# make test    run the tests
# Both set up what they need in .venv first. `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
PORT ?= 7999
BACKEND_PORT ?= 8000

bin := $(VENV)/bin
pip := $(bin)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run chat test lint conformance autobahn bench clean help

run: $(VENV)/.for-run  ## start the quickstart: PORT=7999 and BACKEND_PORT=8000 can be set
	@$(bin)/python -m examples.quickstart --port $(PORT) --backend-port $(BACKEND_PORT)

chat: $(VENV)/.for-run  ## start the example of a chat: PORT and BACKEND_PORT as for run
	@$(bin)/python -m examples.chat --port $(PORT) --backend-port $(BACKEND_PORT)

test: $(VENV)/.for-test  ## run the tests: ARGS="-k word" goes to pytest
	$(bin)/python -m pytest $(ARGS)

lint: $(VENV)/.for-lint  ## check style and types
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

conformance: $(VENV)/.for-test  ## run the tests of shared behaviour against Debian's pushpin
	GRIPPROXY_TEST_TARGET=pushpin $(bin)/python -m pytest -m shared tests/flow tests/clients $(ARGS)

autobahn: $(VENV)/.for-test  ## run the Autobahn test suite: ARGS=--short takes a minute
	$(bin)/python -m tests.autobahn $(ARGS)

bench: $(VENV)/.for-test  ## measure gripproxy, side by side with what else is installed
	$(bin)/python -m benchmarks $(ARGS)

clean:  ## remove what the other targets made
	rm -rf $(VENV) build dist .coverage htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## */  \1:	/p' $(MAKEFILE_LIST) | expand -t 16

# The stamps say what .venv holds already; a change of the dependencies or the version renews them.
$(VENV)/.for-run: $(VENV)/.made pyproject.toml gripproxy/__init__.py
	@echo "Installing gripproxy and what it needs into $(VENV) ..."
	@$(pip) -e .
	@touch $@

$(VENV)/.for-test: $(VENV)/.made pyproject.toml gripproxy/__init__.py
	@echo "Installing gripproxy and its tests' needs into $(VENV) ..."
	@$(pip) -e '.[test]'
	@touch $@

$(VENV)/.for-lint: $(VENV)/.made pyproject.toml gripproxy/__init__.py
	@echo "Installing gripproxy and its checkers into $(VENV) ..."
	@$(pip) -e '.[test,lint]'
	@touch $@

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "gripproxy needs Python 3.11 or later; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' \
		|| { echo "Python's venv module is missing: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@
