# Every target sets up what it needs. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# --no-compile: Python compiles what is really imported, which is a small part of what is installed.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-test
LINT_STAMP := $(VENV)/.installed-lint
GPU_VENV := .venv-gpu
GPU_STAMP := $(GPU_VENV)/.installed
ARGS ?=
ROUNDS ?= 20

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all bench bench-accuracy bench-grading bench-gpu gpu-env fuzz check fmt starter clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("mathgrpo needs Python 3.11 or newer, not " + sys.version.split()[0] + "; set PYTHON=python3.12, say") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) .
	@touch $@

$(TEST_STAMP): $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) '.[test]'
	@touch $@ $(STAMP)

$(LINT_STAMP): $(TEST_STAMP)
	$(INSTALL) '.[test,lint]'
	@touch $@

$(GPU_STAMP): benchmarks/gpu/machine.txt benchmarks/gpu/machine_env.sh
	benchmarks/gpu/machine_env.sh $(GPU_VENV)

setup: $(STAMP)  ## make .venv with the mathgrpo command in it
	@echo "ready: $(BIN)/mathgrpo --help"

demo: $(STAMP)  ## train a small maths reasoner on this machine's CPU, offline, in about a minute on two cores
	$(BIN)/mathgrpo demo $(ARGS)

test: $(TEST_STAMP)  ## run the tests (about 4 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2 -m "not slow and not gpu" $(ARGS)

test-all: $(TEST_STAMP) gpu-env  ## run every test, the slow ones too
	$(BIN)/python -m pytest --timeout 1200 $(ARGS)

bench: $(TEST_STAMP)  ## measure a step against TRL's on this CPU (under 15 minutes; ARGS=--quick: one minute)
	$(BIN)/python -m benchmarks $(ARGS)

bench-accuracy: $(TEST_STAMP)  ## wall-clock to 80 % held-out accuracy, against TRL (2 minutes)
	$(BIN)/python -m benchmarks.accuracy $(ARGS)

bench-grading: $(TEST_STAMP)  ## grade answers beside math-verify: agreement, false positives, speed (2 minutes)
	$(BIN)/python -m benchmarks.grading $(ARGS)

bench-gpu: $(TEST_STAMP)  ## whether this machine's GPU works, how fast, what to mend (9 minutes)
	$(BIN)/python -m benchmarks.gpu $(ARGS)

gpu-env: $(GPU_STAMP)  ## make .venv-gpu: the packages of a bare GPU machine, to rehearse the GPU kit in

fuzz: $(TEST_STAMP)  ## the property tests again and again, each round on new random inputs (ROUNDS=20)
	@for round in $$(seq $(ROUNDS)); do \
	  seed=$$(od -An -N4 -tu4 /dev/urandom | tr -d ' '); echo "round $$round of $(ROUNDS), --hypothesis-seed=$$seed"; \
	  $(BIN)/python -m pytest -n 2 -m "hypothesis and not gpu" --hypothesis-seed=$$seed $(ARGS) || exit 1; \
	done

check: $(LINT_STAMP)  ## linters, types, import order; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(LINT_STAMP)  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

starter: $(STAMP)  ## train the starter model anew (hours on a CPU)
	$(BIN)/mathgrpo sft starter-base
	$(BIN)/mathgrpo sft starter-sft

clean:  ## remove the environment and the caches
	rm -rf $(VENV) $(GPU_VENV) .gpu-kit .pytest_cache .mypy_cache .ruff_cache
