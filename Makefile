# p2p_lab: `make setup` once, then `make lab`, `make demo OUT=demo.png`, `make test`.
# Steps that were done are remembered by stamp files, so a second call costs nothing.

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.p2p-lab
EXTRAS := lab,test,grading,art
OUT    ?= demo.png
THREADS ?= 2

# Text and pictures must come out the same on the next machine: threads are fixed everywhere, and
# no check may depend on a hub.
export OMP_NUM_THREADS := $(THREADS)
export MKL_NUM_THREADS := $(THREADS)
# Threads that wait must sleep: spinning ones cost a factor of twenty beside any other program.
export OMP_WAIT_POLICY := PASSIVE
export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1
demo test bench: export HF_HUB_OFFLINE := 1
demo test bench: export TRANSFORMERS_OFFLINE := 1

NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout 120 \
         --nbval-sanitize-with tests/nbval_sanitize.cfg

.DEFAULT_GOAL := help
.PHONY: help setup lab demo test lint bench course course-test

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

setup: $(STAMP) ## install into .venv (again only when the requirements changed)

$(BIN)/python:
	@set -e; for py in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.10; do \
	  if $$py -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
	    echo "making $(VENV) with $$($$py --version)"; exec $$py -m venv $(VENV); \
	  fi; \
	done; \
	echo "p2p_lab needs Python 3.10 or newer, and none was found on the PATH." \
	     "Install one, or say where it is: make setup PYTHON=/path/to/python3.11" >&2; exit 1

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

lab: setup ## open the lessons in JupyterLab
	$(BIN)/python -m p2p_lab lab

demo: setup ## edit a picture of the bundled model and write it to OUT
	$(BIN)/python -m p2p_lab edit "a cat next to a house in a snowy field" \
	  "a dog next to a house in a snowy field" --seed 1 --figure '$(OUT)' --force

lint: setup ## ruff and mypy, nothing run
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## everything: lint, types, laws, every notebook (nbval), the browser
	$(BIN)/python -m pytest $(NBVAL) tests $(NOTEBOOKS)

bench: setup ## time the engine and score the model, quickly
	$(BIN)/python benchmarks/speed.py --quick
	$(BIN)/python benchmarks/model.py --quick
	$(BIN)/python benchmarks/edits.py --small

course: setup ## build the course kit into COURSE: problem sets, solutions, zip, guide
	$(BIN)/python tools/course.py build '$(or $(COURSE),out/course)' --salt '$(SALT)'

course-test: setup ## grade every known answer of the course kit through nbgrader, some minutes
	HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 \
	  $(BIN)/python -m pytest -s tests/test_course.py tests/course_round_trip.py
