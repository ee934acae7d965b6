# Every target creates or reuses a virtual environment and installs what it needs; nothing is done twice.
# Needed on the machine: make and Python 3.10 to 3.13. PYTHON=... chooses which one.

PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.10 python)
VENV := .venv
ONEDL_VENV := .venv-onedl
PIP_FLAGS := --disable-pip-version-check

OPENMMLAB := mmcv-lite mmdet mmsegmentation mmengine
ONEDL := onedl-mmcv onedl-mmdetection onedl-mmsegmentation onedl-mmengine

.DEFAULT_GOAL := help
.PHONY: help install demo test lint test-onedl

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

install: $(VENV)/.installed ## Install swin-dense into .venv

demo: install ## Train a small Mask R-CNN from random weights and show what it learnt
	$(VENV)/bin/swin-dense demo

test: lint ## Run linters, type checker and all tests
	$(VENV)/bin/python -m pytest

lint: $(VENV)/.installed-test ## Run linters and type checker
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test-onedl: $(ONEDL_VENV)/.installed-test ## Run all tests on the onedl-* forks of the OpenMMLab packages
	$(ONEDL_VENV)/bin/python -m pytest

# A stamp is as new as the last installation that succeeded.
$(VENV)/.installed: pyproject.toml $(VENV)/bin/python
	$(VENV)/bin/python -m pip install $(PIP_FLAGS) -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/bin/python
	$(VENV)/bin/python -m pip install $(PIP_FLAGS) -e ".[test]"
	@touch $(VENV)/.installed $@

$(ONEDL_VENV)/.installed-test: pyproject.toml $(ONEDL_VENV)/bin/python
	$(ONEDL_VENV)/bin/python -m pip install $(PIP_FLAGS) -e ".[test]"
	$(ONEDL_VENV)/bin/python -m pip uninstall --yes $(OPENMMLAB) $(ONEDL)
	$(ONEDL_VENV)/bin/python -m pip install $(PIP_FLAGS) $(ONEDL)
	@touch $@

$(VENV)/bin/python $(ONEDL_VENV)/bin/python:
	@for python in $(PYTHONS); do \
	    $$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null || continue; \
	    echo "Creating $(patsubst %/bin/python,%,$@) with $$($$python --version)"; \
	    $$python -m venv --clear $(patsubst %/bin/python,%,$@) && exit 0; \
	    rm -rf $(patsubst %/bin/python,%,$@); \
	    echo "$$python cannot create a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; \
	    exit 1; \
	done; \
	echo "Python 3.10 to 3.13 is needed; none of these is one: $(PYTHONS). Name yours: make PYTHON=/path/to/python3" >&2; \
	exit 1
