# Every target sets up what it needs; nothing outside this folder changes.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
CONFIG ?= deployments/outrider_deployments/configs/local.yaml
POLICY ?=
OUT ?=
# Where torch comes from, if not from PyPI: https://download.pytorch.org/whl/cpu is smaller without a GPU.
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Torch is resolved alone first, so that no other requirement can move it.
INSTALL_TORCH = $(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "torch>=2.11,<2.14"
# The check needs torch, transformers, triton, numpy, pydantic, msgspec; a machine without network may have no more.
CHECK = $(if $(wildcard $(BIN)/python),$(BIN)/python,PYTHONPATH=platform:kernels $(PYTHON))
# Installed, and up to date with pyproject.toml.
RUN_READY := $(VENV)/.ready-run
DEV_READY := $(VENV)/.ready-dev

.PHONY: help
help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: serve
serve: $(RUN_READY) ## run the platform on this machine (HOST, PORT, CONFIG, POLICY)
	@exec $(BIN)/python -m outrider_deployments.serve_local --config $(CONFIG) --host $(HOST) --port $(PORT) \
	    $(if $(POLICY),--policy $(POLICY))

.PHONY: test
test: lint ## lint, types and every test
	$(BIN)/python -m pytest

.PHONY: lint
lint: $(DEV_READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: format
format: $(DEV_READY) ## rewrite the sources the way lint wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: gpu-check
gpu-check: ## check this machine's GPU: correctness, kernels, engine (OUT=FILE keeps the profile; smoke without a GPU)
	@$(CHECK) -m outrider.bench.gpu $(if $(OUT),--out $(OUT))

.PHONY: models
models: $(RUN_READY) ## rebuild the demo models from nothing (long; can be stopped and resumed)
	$(BIN)/outrider models build

.PHONY: clean
clean: ## remove the virtual environment and every cache
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	    { echo "outrider needs Python 3.11 or 3.12, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1);" \
	           "try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(RUN_READY): pyproject.toml | $(VENV)/bin/python
	@echo "installing what serving needs (once; a few minutes)"
	@$(INSTALL_TORCH)
	@$(PIP) install --editable .
	@touch $@

$(DEV_READY): pyproject.toml | $(VENV)/bin/python
	@echo "installing what serving and testing need (once; a few minutes)"
	@$(INSTALL_TORCH)
	@$(PIP) install --editable ".[dev]"
	@touch $@ $(RUN_READY)
