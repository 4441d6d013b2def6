# make setup   create .venv with the locked versions (quick when it is there already)
# make demo    the quickstart on real data: run, verify, replay one random segment, summary
# make test    the test suite on all cores, without a network; all but the tests that start a Slurm
# make test-slurm  the tests on a real Slurm of their own (slurmctld, slurmd, munge), which must be installed
# make setup-extras  add the libraries that only some tests and `execution.ray` need (mlcroissant, Ray; 300 MB)
# make test-extras  the tests with these libraries, which skip in make test where they are not installed
# make check   lint, format, types
# make clean   remove .venv and caches; artifacts/ stays, it may hold hours of work

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/setup-done
EXTRAS_STAMP := $(VENV)/setup-extras-done

.PHONY: setup setup-extras demo test test-slurm test-extras check clean

setup: $(STAMP)

setup-extras: $(EXTRAS_STAMP)

# torch comes by version only (see torch-cpu.lock); all it depends on is there before it, so nothing else is resolved.
$(STAMP): requirements/cpu.lock requirements/torch-cpu.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements/cpu.lock
	$(BIN)/python -m pip install --quiet -r requirements/torch-cpu.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	@touch $@

$(EXTRAS_STAMP): $(STAMP) requirements/extras.lock
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements/extras.lock
	$(BIN)/python -m pip check
	@touch $@

demo: setup
	$(BIN)/python -m openwright.demo configs/quickstart

# Two processes more than there are cores: tests that start jobs wait for them much of the time. In the order of
# tests/conftest.py.
test: setup
	$(BIN)/python -m pytest -q -rs -m "not slurm" --numprocesses=$$(($$(nproc) + 2)) --dist=loadfile --no-loadscope-reorder $(PYTEST_OPTIONS)

test-slurm: setup
	$(BIN)/python -m pytest -q -m slurm

test-extras: setup-extras
	$(BIN)/python -m pytest -q -m extras

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
