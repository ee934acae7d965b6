# Every target creates or reuses a virtual environment and installs what it needs; nothing is done twice.
# Needed on the machine: make and Python 3.10 to 3.14. PYTHON=... chooses which one.

PYTHONS := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python3.10 python)
VENV := .venv
ONEDL_VENV := .venv-onedl
PIP_FLAGS := --disable-pip-version-check

OPENMMLAB := mmcv-lite mmdet mmsegmentation mmengine
ONEDL := onedl-mmcv onedl-mmdetection onedl-mmsegmentation onedl-mmengine
OPENCV := opencv-python opencv-contrib-python opencv-python-headless opencv-contrib-python-headless

# A file stays on one worker, so that its tests share what they train; each worker computes on one thread. A worker that
# dies ends the run: with another in its place the run has waited, after its last test, for ever.
PYTEST = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile --max-worker-restart 0

.DEFAULT_GOAL := help
.PHONY: help install demo docs test lint test-onedl

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

install: $(VENV)/.installed ## Install swin-dense into .venv

demo: install ## Train a small Mask R-CNN from random weights and show what it learnt
	$(VENV)/bin/swin-dense demo

docs: $(VENV)/.installed-docs ## Build the documentation as a site, in build/site, and check its links
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

test: lint ## Run linters, type checker and all tests
	$(PYTEST)

lint: $(VENV)/.installed-test ## Run linters and type checker
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test-onedl: VENV := $(ONEDL_VENV)
test-onedl: $(ONEDL_VENV)/.installed-test ## Run all tests on the onedl-* forks of the OpenMMLab packages
	$(PYTEST)

# mmcv asks for opencv-python, which needs libGL and glib, and others for the headless build, over whose files it lies.
# Both go, and the headless one comes back whole.
headless = $(@D)/bin/python -m pip uninstall $(PIP_FLAGS) --quiet --yes $(OPENCV) && \
	$(@D)/bin/python -m pip install $(PIP_FLAGS) opencv-python-headless

# A stamp is as new as the last installation that succeeded.
$(VENV)/.installed: pyproject.toml $(VENV)/bin/python
	$(@D)/bin/python -m pip install $(PIP_FLAGS) -e .
	$(headless)
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/bin/python
	$(@D)/bin/python -m pip install $(PIP_FLAGS) -e ".[test]"
	$(headless)
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml $(VENV)/bin/python
	$(@D)/bin/python -m pip install $(PIP_FLAGS) -e ".[docs]"
	$(headless)
	@touch $(VENV)/.installed $@

$(ONEDL_VENV)/.installed-test: pyproject.toml $(ONEDL_VENV)/bin/python
	$(@D)/bin/python -m pip install $(PIP_FLAGS) -e ".[test]"
	$(@D)/bin/python -m pip uninstall --yes $(OPENMMLAB) $(ONEDL)
	$(@D)/bin/python -m pip install $(PIP_FLAGS) $(ONEDL)
	$(headless)
	@touch $@

$(VENV)/bin/python $(ONEDL_VENV)/bin/python:
	@for python in $(PYTHONS); do \
	    $$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' 2>/dev/null || continue; \
	    echo "Creating $(patsubst %/bin/python,%,$@) with $$($$python --version)"; \
	    $$python -m venv --clear $(patsubst %/bin/python,%,$@) && exit 0; \
	    rm -rf $(patsubst %/bin/python,%,$@); \
	    echo "$$python cannot create a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; \
	    exit 1; \
	done; \
	echo "Python 3.10 to 3.14 is needed; none of these is one: $(PYTHONS). Name yours: make PYTHON=/path/to/python3" >&2; \
	exit 1
