# `make` lists what there is to make. Every target does the set-up that it needs by itself:
# system packages where they are missing, a virtual environment in .venv, the project in it.
#   PYTHON=python3.12   the Python to make the virtual environment with
#   WORKERS=2           how many files of tests run at a time; 0: all tests in one process
#   ARGS="-k mount -x"  more arguments for pytest

SHELL := bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS := 2
STAMPS := .make
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help set-up demo smoke test test-long lint man docs bench fuzz soak mutants kernel clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

set-up: $(VENV)/.project-test ## Install everything, the tests' tools too

demo: $(VENV)/.project ## The main job, on this machine alone (KEEP=1 leaves the mount up, WATCH=1 shows it in a browser)
	@$(BIN)/umktls demo $(if $(KEEP),--keep) $(if $(WATCH),--watch)

smoke: $(STAMPS)/packages-mount ## Try another Python (PYTHON=python3.13): install as users do, demo, a few tests
	@bash .ci/smoke

# A file's tests stay together, for its fixtures. Not those with the most tests first: the slowest
# have few.
TOGETHER := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Tests start some hundred programs. Where Python is told to write no bytecode, each of them would
# compile all that it imports.
COMPILE = @$(BIN)/python -m compileall -q umktls fs daemons tests

test: $(VENV)/.project-test ## Run the tests, but for those that take long
	$(COMPILE)
	$(BIN)/python -m pytest $(TOGETHER) -m "not long" $(ARGS)

test-long: $(VENV)/.project-test ## Run the tests that take long
	$(COMPILE)
	$(BIN)/python -m pytest $(TOGETHER) -m long $(ARGS)

lint: $(VENV)/.project-test ## Check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.project-test ## Measure, side by side with sshfs (ONLY=name for one measurement)
	$(COMPILE)
	@$(BIN)/python -m tests.bench $(ONLY)

fuzz: $(VENV)/.project-test ## Feed the receiving path any bytes for SECONDS=600 (needs atheris, installed into .venv)
	@$(BIN)/python -m pip install --disable-pip-version-check -q atheris
	$(BIN)/python -m tests.fuzz -max_total_time=$(or $(SECONDS),600)

soak: $(VENV)/.project-test ## Have two clients and a local writer, many tasks, and two hosts do anything for SECONDS=600 (SEED=1: what begins)
	@$(BIN)/python -m tests.fs.soak $(or $(SECONDS),600) $(or $(SEED),1)

man: $(VENV)/.project-test ## Write the manual pages in docs/man from the texts of --help
	@$(BIN)/python -m tests.manual

docs: $(VENV)/.project-test ## Write docs/events.md from the table of events; record docs/demo.html, take docs/watch.png
	@$(BIN)/python -m tests.docs.events
	@$(BIN)/python -m tests.docs.recording

mutants: $(VENV)/.project-test ## Damage lines that security and data hang on: is there a test for each? (ARGS="umktls/rpc")
	@$(BIN)/python -m tests.mutants $(ARGS)

kernel: $(VENV)/.project-test $(STAMPS)/packages-kernel ## Set a real Linux, in an emulated machine, against umktls and its model (as root)
	@$(BIN)/python -m tests.realkernel $(ARGS)

clean: ## Remove what make has made, .venv included
	rm -rf $(STAMPS) $(VENV) bench-results build *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find umktls fs daemons tests -name __pycache__ -type d -exec rm -rf {} +

# The stamps. The project is installed again only when pyproject.toml has changed: the installation
# is editable, so that changed code needs none.

$(STAMPS)/packages-mount: .ci/packages
	@bash .ci/packages mount
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/packages-test: .ci/packages | $(STAMPS)/packages-mount
	@bash .ci/packages mount test
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/packages-kernel: .ci/packages
	@bash .ci/packages kernel
	@mkdir -p $(STAMPS) && touch $@

$(VENV)/.project: pyproject.toml | $(STAMPS)/packages-mount
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[watch]'
	@touch $@

$(VENV)/.project-test: pyproject.toml | $(STAMPS)/packages-test $(VENV)/.project
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[test]'
	@mkdir -p $(VENV)/types
	@ln -sfn ../../fs $(VENV)/types/umktls_fs
	@ln -sfn ../../daemons $(VENV)/types/umktls_daemons
	@touch $@

