# `make demo` and `make test` set up everything they need in .venv; see README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := demo

.PHONY: setup demo test test-fast test-long lint container test-container test-slurm clean

setup: $(READY)

$(READY): setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bids_flair needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

demo: $(READY)
	rm -rf $(DEMO)
	$(BIN)/python -m bids_flair.simulation $(DEMO)/data --participants 1 --seed 0 --voxel-size 1.5
	$(BIN)/bids_flair $(DEMO)/data $(DEMO)/out participant --work-dir $(DEMO)/work
	@echo
	@echo "Synthetic FLAIR: $$(ls $(DEMO)/out/sub-*/anat/*_desc-synth_FLAIR.nii.gz)"
	@echo "Scores in the brain mask: $$($(BIN)/python -c 'import glob, json; print(json.load(open(glob.glob("$(DEMO)/out/sub-*/anat/*_desc-synth_FLAIR.json")[0]))["ScoresInBrain"])')"
	@echo "Report: $$(ls $(DEMO)/out/sub-*.html)"

# Two processes on two cores: more threads would only wait for each other.
test test-fast test-long: export OMP_NUM_THREADS = 1

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-fast: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m 'not slow and not slurm'

test-long: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m long

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# TARGET=cpu leaves the CUDA libraries out.
container:
	container/build.py $(TARGET)

# Needs root, and Debian's slurm-wlm and munge.
test-slurm: $(READY)
	$(BIN)/python -m pytest -m slurm --durations 0 tests/slurm

test-container: $(READY)
	$(BIN)/hadolint Dockerfile
	container/test

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info
