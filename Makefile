# Everything runs in .venv, which the first target that needs it sets up. `make help` lists the targets.
#
# The set-up is done once for each content of pyproject.toml and constraints.txt, and again if the folder has moved:
# the name of the stamp is a checksum of all three. Once it is there, nothing needs the network.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.set-up-$(shell { pwd; cat pyproject.toml constraints.txt; } | cksum | cut -d ' ' -f 1)

.PHONY: help lab test lint notebooks stamp pictures faults bench
.DEFAULT_GOAL := help

help:
	@echo "make lab        open the course in JupyterLab           (LAB_FLAGS=--no-browser: more options)"
	@echo "make test       run every notebook and every test       (PYTEST_FLAGS=-x: more options)"
	@echo "make lint       check the style, and that the stored outputs belong to this code"
	@echo "make notebooks  run the notebooks and store the outputs (NB=notebooks/02_bigram.ipynb: only these;"
	@echo "                                                         FRESH=1: also what is random or timed)"
	@echo "make stamp      write the set-up cell and the Colab badge into every notebook"
	@echo "                (ADDRESS=https://github.com/teacher/fork: for your fork, the README too)"
	@echo "make pictures   draw the README's picture, with the trained model, and the diagrams again"
	@echo "make faults     put faults into a copy of the package, one by one, and see that the tests notice each"
	@echo "make bench      measure training, drawing text, byte-pair encoding and loading beside other implementations"
	@echo "Each sets up $(VENV) first if it is missing. PYTHON=python3.12 chooses the Python to set it up with."

lab: $(STAMP)
	@$(PY) -m jupyterlab --ServerApp.root_dir="$(CURDIR)" \
		--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $(LAB_FLAGS) notebooks/00_start_here.ipynb

test: $(STAMP)
	@$(PY) -m pytest --nbval $(PYTEST_FLAGS)

lint: $(STAMP)
	@$(PY) -m ruff check .
	@$(PY) .ci/execute.py --check

notebooks: $(STAMP)
	@$(PY) .ci/execute.py $(if $(FRESH),--fresh) $(NB)

stamp: $(STAMP)
	@$(PY) .ci/stamp.py $(if $(ADDRESS),"$(ADDRESS)")

pictures: $(STAMP)
	@$(PY) .ci/pictures.py
	@$(PY) .ci/diagrams.py

faults: $(STAMP)
	@$(PY) tests/faults.py

bench: $(STAMP)
	@set -e; for file in tests/benchmarks/[!_]*.py; do echo "$$file"; $(PY) "$$file"; done

$(STAMP): $(PY)
	@echo "Setting up $(VENV). This happens once, and takes some minutes: PyTorch is large."
	@rm -f $(VENV)/.set-up-*
	@$(PY) -m pip install --quiet "pip>=22"
	@$(PY) -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@# JupyterLab would otherwise ask, over the page, whether to fetch news.
	@$(PY) -m jupyter labextension disable --level=sys_prefix "@jupyterlab/apputils-extension:announcements" \
		> /dev/null 2>&1
	@touch $@

$(PY):
	@command -v "$(PYTHON)" > /dev/null || { echo "There is no $(PYTHON) here: install Python 3.10 or newer," \
		"or name yours: make $(MAKECMDGOALS) PYTHON=..."; exit 1; }
	@"$(PYTHON)" -c "import sys; sys.exit(sys.version_info < (3, 10))" || { echo "The course needs Python 3.10 or newer," \
		"and $(PYTHON) is `$(PYTHON) --version 2>&1`. Name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" -m venv --clear $(VENV)
