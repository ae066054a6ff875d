# p2p_lab: `make lab` opens the lessons, `make demo OUT=demo.png` edits a picture, `make test` checks all.
# Steps that were done are remembered by stamp files, so a second call costs nothing.

VENV   := .venv
BIN    := $(VENV)/bin
LAB    := $(VENV)/.p2p-lab
DEV    := $(VENV)/.p2p-lab-dev
OUT    ?= demo.png
THREADS ?= 1
# Processes that share the tests; a file or notebook stays with one of them.
WORKERS ?= 2
# Which PyTorch: cpu (small), default (PyPI's, with CUDA on Linux), auto (cpu where no GPU is seen).
TORCH  ?= auto

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
.PHONY: help setup setup-dev lab demo test lint bench course course-test page

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

setup: $(LAB) ## install what the lessons need into .venv (again only when requirements changed)

setup-dev: $(DEV) ## add what tests, grading, the emoji art and the page need

# Run tools/set_up.py with the first Python that is new enough.
define SET_UP
@for py in $(PYTHON) python3 python3.13 python3.12 python3.11 python; do \
  if $$py -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
    exec $$py tools/set_up.py $(1) --venv '$(VENV)' --torch '$(TORCH)'; \
  fi; \
done; \
echo "p2p_lab needs Python 3.11 or newer, and none was found on the PATH." \
     "Install one, or say where it is: make setup PYTHON=/path/to/python3.12" >&2; exit 1
endef

$(LAB): pyproject.toml constraints.txt
	$(call SET_UP,lab)
	@touch $@

$(DEV): pyproject.toml constraints.txt
	$(call SET_UP,dev)
	@touch $(LAB) $@

lab: setup ## open your copy of the lessons (p2p_lessons/) in JupyterLab; more options: ARGS=…
	$(BIN)/python -m p2p_lab lab $(ARGS)

demo: setup ## edit a picture of the bundled model and write it to OUT
	$(BIN)/python -m p2p_lab edit "a cat next to a house in a snowy field" \
	  "a dog next to a house in a snowy field" --seed 0 --figure '$(OUT)' --force

page: setup-dev ## build the lab as a static web page into PAGE; any host serves it
	$(BIN)/python -m p2p_lab web --build '$(or $(PAGE),out/page)' $(ARGS)

lint: setup-dev ## ruff and mypy, nothing run
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## everything: lint, types, laws, every notebook (nbval), the browser
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(NBVAL) tests $(NOTEBOOKS)

bench: setup ## time the engine and score the model, quickly
	$(BIN)/python benchmarks/speed.py --quick
	$(BIN)/python benchmarks/model.py --quick
	$(BIN)/python benchmarks/edits.py --small
	$(BIN)/python benchmarks/rivals.py --quick

course: setup-dev ## build the course kit into COURSE: problem sets, solutions, zip, guide
	$(BIN)/python tools/course.py build '$(or $(COURSE),out/course)' --secret '$(SECRET)'

course-test: setup-dev ## grade twelve students and more through nbgrader, two cores, some minutes
	export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1; \
	  run="$(BIN)/python -m pytest -s"; trip=tests/course_round_trip.py; \
	  ( $$run tests/test_course.py tests/test_answers.py && $$run $$trip -k in_every_set ) & laws=$$!; \
	  $$run $$trip -k 'not in_every_set'; students=$$?; wait $$laws && exit $$students
