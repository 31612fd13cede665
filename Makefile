# Every target does its own set-up: a virtual environment in .venv, installed from pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test test-slow test-torch test-oldest guard kill fuzz bench bench-imagenet zoo lint format docs docs-serve clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.installed  ## make .venv and install the project with its development tools

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version): a few minutes the first time."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: setup  ## train on the embedded digits, convert, evaluate every mode (under 3 minutes)
	$(BIN)/python -m train.digits --act qcfs --out runs/digits --overwrite
	$(BIN)/python -m convert.evaluate --ann runs/digits --out runs/digits/snn \
		--modes baseline shuffle tpp rounded unbiased --T 1 2 4 8 16 32 --seeds 5

test: setup  ## the tests, under 8 minutes on 2 cores
	$(BIN)/python -m pytest -n auto --dist worksteal --cov

test-slow: setup  ## whole runs of commands and pages, on several hosts too (a quarter of an hour)
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow

test-torch: setup  ## the importers' tests against PyTorch, which this installs (large; a CPU build will do)
	$(BIN)/python -m pip install --quiet --editable '.[dev,torch]'
	$(BIN)/python -m pytest tests/convert/torch

test-oldest:  ## the tests with the oldest versions that pyproject.toml allows, in .venv-oldest
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet uv
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct --editable '.[dev]'
	.venv-oldest/bin/python -m pytest -n auto --dist worksteal

guard: setup  ## that the published costs hold, but for a factor that noise never reaches (two minutes)
	$(BIN)/python -m benchmarks.guard

fuzz: setup  ## thousands of damaged files, senseless options and arguments (two minutes)
	$(BIN)/python -m tests.fuzz

kill: setup  ## kill every command that writes 50 times: nothing may be lost (half an hour)
	$(BIN)/python -m tests.kill

bench: setup  ## costs against the ANN, PyTorch and SpikingJelly, which this installs (half an hour)
	$(BIN)/python -m pip install --quiet --editable '.[dev,bench]'
	$(BIN)/python -m pip install --quiet --no-deps spikingjelly # its neurons need none of what it asks for
	$(BIN)/python -m benchmarks

bench-imagenet: setup  ## time and memory of networks of ImageNet's size, on made pictures (ten minutes)
	$(BIN)/python -m benchmarks.imagenet

zoo: setup  ## which of torchvision's and timm's networks convert; installs both (an hour, and goes on if stopped)
	$(BIN)/python -m pip install --quiet --editable '.[dev,torch]' torchvision timm
	$(BIN)/python -m benchmarks.zoo

lint: setup  ## formatter, linter and type checker, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: setup  ## let formatter and linter mend what they can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup  ## the documentation in site/, tutorials executed; broken links and undocumented names fail (3 minutes)
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: setup  ## the same at http://localhost:8000, built again whenever a page changes
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

clean:  ## remove the virtual environment and caches (runs/ stays)
	rm -rf $(VENV) .venv-oldest .pytest_cache .ruff_cache .coverage
