# Copyright 2026 The Concept Encoder authors.
# SPDX-License-Identifier: Apache-2.0

# Every target first builds the virtual environment it needs, so any of them works right after a clone.
# Variables to override, e.g. `make test PYTHON=python3.12`:
PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
# Versions of transformers/PyTorch that `make test-matrix` runs on; none is the newest that requirements.txt allows.
MATRIX ?= 5.4/2.11 5.17/2.12 /2.11 /
# What pip is told about PyTorch: a requirement and, where CPU_INDEX applies, the index of its CPU builds.
TORCH_INSTALL ?= 'torch>=2.11,<2.14' $(CPU_INDEX)

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
THREADS := $(shell getconf _NPROCESSORS_ONLN)

# Linux without an NVIDIA GPU gets the small CPU build, unless pip is already pointed at a source of wheels.
CPU_INDEX = $(shell test "$$(uname -s)" = Linux && ! command -v nvidia-smi >/dev/null \
	&& ! $(BIN)/pip config list | grep -E 'index-url|find-links' >/dev/null \
	&& echo --extra-index-url https://download.pytorch.org/whl/cpu)

# On a CPU: threads that wait do not hold a core that others need, and memory freed by one step serves the next (glibc
# would give it back to the system and fetch it again, a quarter of the time).
CPU_TRAINING := OMP_WAIT_POLICY=passive MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592

# A process for each core, with one thread; the tests of a file share what they set up.
PARALLEL_TESTS = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 \
	--dist loadfile

.PHONY: pretrain test test-slow test-peer test-matrix lint typecheck format tables clean help

pretrain: $(INSTALLED)  ## pretrain the nano demo into outputs/nano, minutes on a CPU
	$(CPU_TRAINING) $(BIN)/accelerate launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		--num_cpu_threads_per_process $(THREADS) run_mlm.py recipes/nano.yaml

test: $(INSTALLED)  ## run the tests
	$(PARALLEL_TESTS) $(PYTEST_ARGS)

test-slow: $(INSTALLED)  ## run the tests marked slow
	$(PARALLEL_TESTS) -m slow $(PYTEST_ARGS)

test-peer: $(INSTALLED)  ## run transformers' common model tests, on the packages and on the code of a checkpoint
	$(BIN)/python tests/peer/run_peer_suite.py . tests/peer/test_modeling_concept.py $(PYTEST_ARGS)
	$(BIN)/python tests/peer/run_peer_suite.py --remote . tests/peer/test_modeling_concept.py $(PYTEST_ARGS)

test-matrix:  ## run both suites on other versions of transformers and PyTorch, each pair in an environment of its own
	for pair in $(MATRIX); do \
		transformers=$${pair%/*}; torch=$${pair#*/}; \
		$(MAKE) test test-peer VENV=.venv-$${transformers:-newest}-$${torch:-newest} \
			TORCH_INSTALL="'torch$${torch:+==$$torch.*}' 'transformers$${transformers:+==$$transformers.*}' \$$(CPU_INDEX)" \
			|| exit 1; \
	done

lint: $(INSTALLED)  ## check style (ruff) and model conventions (transformers-mlinter)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mlinter --no-progress --no-cache configuration_concept modeling_concept

typecheck: $(INSTALLED)  ## check the type hints of the four packages (mypy)
	$(BIN)/mypy

format: $(INSTALLED)  ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tables: $(INSTALLED)  ## write the tables of README and docs from benchmarks/results
	$(BIN)/python -m benchmarks.tables

clean:  ## remove the virtual environment, caches and build files (outputs/ stays)
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(INSTALLED): requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install $(TORCH_INSTALL) --editable '.[dev]'
	@touch $@
