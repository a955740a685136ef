# `make demo` and `make test` need only Python >= 3.11 and make: they set up .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python compiles what it imports; to compile all of torch would take half a minute.
PIP := $(BIN)/pip install --quiet --no-compile --disable-pip-version-check
CONSTRAINTS := requirements/constraints.txt
READY := $(VENV)/.ready
WORKERS ?= 2
# One thread a worker: small products on several threads only wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo test test-full doctest lint types doc sdist-test benchmark \
        benchmark-novelty clean

demo: $(READY)  ## run the main job and save its picture
	$(BIN)/python examples/plot_complete_digits.py

test: $(READY)  ## run the tests
	$(PYTEST) -m "not slow" tests

test-full: $(READY)  ## run the tests on the whole grid of settings
	$(PYTEST) tests

doctest: $(READY)  ## run the examples of all docstrings
	OMP_NUM_THREADS=1 MPLBACKEND=agg $(BIN)/python -m pytest --doctest-modules skgmje

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

doc: $(READY)  ## build the documentation, warnings as errors
	$(BIN)/sphinx-build -W --keep-going -q -b html doc doc/_build/html

sdist-test: $(READY)  ## build the sdist, install it in a clean environment, test it there
	PYTHON=$(PYTHON) CONSTRAINTS=$(CURDIR)/$(CONSTRAINTS) \
	    .ci/sdist-test $(CURDIR)/$(BIN)/python

benchmark: $(READY)  ## print the tables that compare the mixture with its peers
	$(PIP) -c $(CONSTRAINTS) -r requirements/benchmarks.txt
	for table in em conditioning missing starts acceleration streaming neural_gas; do \
	    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE \
	        $(BIN)/python benchmarks/mixture/$$table.py || exit 1; done

benchmark-novelty: $(READY)  ## print what detectors and embedders tell of strange images
	for table in novelty vision tails; do \
	    OMP_NUM_THREADS=1 $(BIN)/python benchmarks/embedding/$$table.py --full || exit 1; done

$(READY): setup.py $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c $(CONSTRAINTS) torch
	$(PIP) -c $(CONSTRAINTS) -e ".[test,doc]" ruff mypy build
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info doc/_build doc/auto_examples doc/generated
