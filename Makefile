# AI Dock. `make help` lists what there is.
.DEFAULT_GOAL := help
PYTHON ?= python3
HOST ?=
PORT ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
SIDE_BY_SIDE := -n auto --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help run test soak lint format bench clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.runs ## Install and start on http://127.0.0.1:8080 (PORT=9000 HOST=0.0.0.0 ARGS="--config my.yaml")
	@$(BIN)/aidock serve $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT)) $(ARGS)

test: $(VENV)/.tests ## Run the whole suite (ARGS="-k words" narrows it)
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

soak: $(VENV)/.tests ## Run the fault tests at full length, for an hour or two, and print their table
	@table=$$(mktemp); AIDOCK_SOAK=1 AIDOCK_FAULT_TABLE=$$table $(BIN)/python -m pytest tests/faults $(ARGS); code=$$?; \
	$(BIN)/python -m tests.faults.table $$table; rm -f $$table; exit $$code

lint: $(VENV)/.lints ## Style, types and the import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.lints ## Rewrite the sources in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.tests ## Measure CPU per call beside nginx (ARGS=--quick for a minute's worth)
	@$(BIN)/python -m bench $(ARGS)

clean: ## Remove what the targets above made; data stays
	rm -rf $(VENV) .venv-clients tests/clients/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "AI Dock needs Python 3.11 or newer; set PYTHON=…"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed; on Debian: apt-get install python3-venv"; exit 1; }

$(VENV)/.runs: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing AI Dock into $(VENV) …"
	@$(PIP) install --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.tests: $(VENV)/.runs
	@echo "Installing what the tests need …"
	@$(PIP) install --constraint constraints.txt --editable '.[test]'
	@touch $@

$(VENV)/.lints: $(VENV)/.tests
	@echo "Installing the linters …"
	@$(PIP) install --constraint constraints.txt --editable '.[test,lint]'
	@touch $@
