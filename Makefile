# Everything a checkout needs, from a machine with Python and make only. All of it goes into .venv here;
# nothing is installed outside. `make` alone lists the targets.

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.latently-set-up
ARGS  ?=

# The first of these that is new enough is used; `make PYTHON=/some/python3.12 ...` chooses another.
PYTHONS = $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3 python)
NEW_ENOUGH = -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))'

# Tests go file by file to as many processes as there are cores, up to four, which hold 1.5 GB each. One
# thread for each of them: a second one gains little. ARGS='-n 0' keeps to one process, for a debugger.
PYTEST = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest \
	-n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# An environment of another place, or of other requirements, does not count as set up.
STATE = { pwd; cksum pyproject.toml constraints.txt; }

unexport PYTHONHOME PYTHONPATH
.DEFAULT_GOAL := help
.PHONY: help demo test all fast lint setup clean _environment _install

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Set-up happens by itself, once. ARGS=... is passed on: make fast ARGS='-x tests/models'."

demo: setup ## real digits: fit, evidence, samples and a report, in about two minutes
	@$(BIN)/latently demo $(ARGS)

test: lint ## what must pass before a commit: lint, tests and doctests
	@$(PYTEST) -m "not long" $(ARGS)

all: lint ## the same and the tests that take long: every page of the docs, long walks of the fuzzers
	@$(PYTEST) $(ARGS)

fast: setup ## the tests that take seconds
	@$(PYTEST) -m "not slow and not long" $(ARGS)

lint: setup ## style, format, types and the floors of the package
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy src
	@$(BIN)/lint-imports --no-logo

setup: ## make .venv, or bring it up to date; nothing to do is nothing done
	@{ $(STATE) | cmp -s - $(STAMP) && $(BIN)/python $(NEW_ENOUGH); } 2>/dev/null \
	|| $(MAKE) --no-print-directory _install

clean: ## remove caches and build output; .venv and your runs stay
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find src tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# A usable .venv. bin/activate is the last file that `python -m venv` writes: an environment without it is
# half-made, and made again, as is one whose folder was moved or whose Python is gone.
_environment:
	@if [ -f $(STAMP) ] && [ "$$(head -n 1 $(STAMP))" != "$$(pwd)" ]; then rm -rf $(VENV); fi; \
	if { [ -f $(BIN)/activate ] || [ ! -f $(VENV)/pyvenv.cfg ]; } && $(BIN)/python -c '' 2>/dev/null; then \
	    $(BIN)/python $(NEW_ENOUGH) && exit 0; \
	    echo "$(VENV) holds a Python that is not 3.11 to 3.14: rm -rf $(VENV), then make again" >&2; \
	    exit 1; \
	fi; \
	for python in $(PYTHONS); do \
	    "$$python" $(NEW_ENOUGH) 2>/dev/null || continue; \
	    found=$$python; \
	    "$$python" -c 'import ensurepip, venv' 2>/dev/null || continue; \
	    rm -rf $(VENV); \
	    "$$python" -m venv $(VENV) && exit 0; \
	done; \
	if [ -n "$$found" ]; then \
	    echo "$$found cannot make a virtual environment: apt install python3-venv" \
	        "(Debian, Ubuntu; or python3.X-venv for its version), then make again" >&2; \
	else \
	    echo "no Python 3.11, 3.12, 3.13 or 3.14 found: install one" \
	        "(apt install python3 python3-venv, or brew install python), then make again" >&2; \
	fi; \
	exit 1

# pip writes INSTALLER when the rest of a package is in place: a package without it was cut short, and pip
# would take it for whole; a name with a tilde is what it was about to delete. The stamp keeps only its
# first line, the place, until everything is done.
_install: _environment
	@pwd > $(STAMP)
	@rm -rf $(VENV)/lib/python*/site-packages/~*
	@for package in $(VENV)/lib/python*/site-packages/*.dist-info; do \
	    [ -f "$$package/INSTALLER" ] || rm -rf "$$package"; \
	done
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --default-pip
	@if ! ls -d $(VENV)/lib/python*/site-packages/torch-*.dist-info >/dev/null 2>&1; then \
	    echo "Setting up $(VENV), once. Download: about 200 MB for a CPU build of torch, 150 MB for the rest."; \
	    if [ "$$(uname -s)" = Linux ]; then \
	        echo "On Linux pip may choose a CUDA build of torch: several GB. To keep it small, stop here" \
	            "(Ctrl-C), install a CPU build of $$(grep '^torch==' constraints.txt) into $(VENV) with" \
	            "$(BIN)/pip, and make again."; \
	    fi; \
	fi
	@$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]' -c constraints.txt \
	|| { echo "set-up did not finish: see the lines above; make again continues it" >&2; exit 1; }
	@{ $(STATE); } > $(STAMP).new && mv $(STAMP).new $(STAMP)
	@echo "$(VENV) is ready."
