# `make demo` and `make test` work on a fresh clone: both set up a virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := runs/demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: demo test lint docs nightly libraries bench wheel clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP) ## train an agent on the metals set; compare it and the shipped ones with BFGS on crystals they have never seen
	$(BIN)/relaxrl train configs/demo.yaml run.dir=$(DEMO)
	$(BIN)/relaxrl evaluate --agent $(DEMO) metals metals-planner --structures metals:test --calculator emt --workers 2 \
		--methods BFGS,BFGSLineSearch,BFGS-alpha10,GoodOldQuasiNewton,FIRE,untrained --out $(DEMO)/evaluation

test: $(STAMP) lint docs wheel ## all checks and the tests but the slow ones
	$(BIN)/python -m pytest -m 'not slow'

lint: $(STAMP) ## style, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP) ## the site, into build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --quiet

nightly: $(STAMP) ## the slow learning tests too
	$(BIN)/python -m pytest

libraries: ## train with the libraries that need environments of their own, and compare with steepest descent
	$(PYTHON) -m venv .venv-libraries
	.venv-libraries/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-libraries/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' \
		torchrl==0.14.1 tensordict==0.14.3 skrl==2.1.1
	.venv-libraries/bin/python -m pytest tests/integrations/test_library_examples.py -m slow -k 'torchrl or skrl or cleanrl'
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-ray/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	.venv-ray/bin/python -m pip install --quiet 'ray[rllib]==2.60.0' # brings gymnasium 1.2.2
	.venv-ray/bin/python -m pytest tests/integrations/test_library_examples.py -m slow -k rllib

bench: $(STAMP) ## measure speed, and write the tables of docs/benchmarks.md
	$(BIN)/python -m benchmarks

wheel: $(STAMP) ## build the wheel from the sdist, install it into an empty environment, use it away from the checkout
	PYTHON=$(abspath $(BIN)/python) sh tests/wheel_check.sh

clean: ## remove everything that make has made
	rm -rf $(VENV) .venv-libraries .venv-ray build dist runs
