# symrun: run `make` for a list of what there is.
.DEFAULT_GOAL := help
.PHONY: help venv demo reproduce reproduce_cpu figures study test stress lint docs bench gpu clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= outputs/figures
BUDGET ?= 900

help:  ## This list
	@grep -E '^[a-z_-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

venv: $(VENV)/.installed  ## The environment, in .venv (PYTHON=python3.12 to choose one)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: venv  ## Two quickstart runs on the CPU, Figs. 1 and 5 in outputs/figures, the check tables
	bn=$$($(BIN)/symrun train experiment=quickstart_bn) && \
	plain=$$($(BIN)/symrun train experiment=quickstart_plain) && \
	$(BIN)/symrun plot fig1 $$bn --out $(OUT) && \
	$(BIN)/symrun plot fig5 $$bn $$plain --out $(OUT) && \
	$(BIN)/symrun check $$bn && \
	$(BIN)/symrun check $$plain

reproduce: venv  ## Figs. 1 and 5 at the paper's settings, on a GPU; PRECISION=bf16 EPOCHS=10 SETTINGS=...
	SYMRUN_PYTHON="$(abspath $(BIN))/python" scripts/reproduce.sh $(SETTINGS)

reproduce_cpu: venv  ## The same on a CPU at an eighth of the width, 20 epochs; two hours on 2 cores
	SYMRUN_PYTHON="$(abspath $(BIN))/python" OVER=reproduce_cpu scripts/reproduce.sh $(SETTINGS)

figures: venv  ## Every figure at quickstart scale, in outputs/figures; about 10 minutes on 2 cores
	PATH="$(abspath $(BIN)):$$PATH" scripts/figures.sh $(OUT)

study: venv  ## The tables of docs/accuracy.md, the figures of BatchNorm's eps and the equilibrium; 25 minutes
	$(BIN)/python scripts/laws_study.py
	$(BIN)/python scripts/constraints_against_eps.py --out $(OUT)
	sgd=$$($(BIN)/symrun train experiment=equilibrium) && \
	momentum=$$($(BIN)/symrun train experiment=equilibrium optim.momentum=0.9 optim.lr=0.02) && \
	adamw=$$($(BIN)/symrun train experiment=equilibrium optim=adamw optim.lr=2e-3 \
		optim.weight_decay=0.3 train.batch_size=32 train.steps=5000) && \
	$(BIN)/symrun plot equilibrium $$sgd $$momentum $$adamw --out $(OUT)

test: venv  ## All tests that run without a GPU, two at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

stress: venv  ## Runs killed 250 times, disks full, 10,000 damaged files; about half an hour
	$(BIN)/python -m pytest -m slow -s

lint: venv  ## Formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.documented  ## The documentation, as build/docs/index.html
	rm -rf build/docs
	PYTHONPATH=scripts $(BIN)/zensical build --clean --strict
	! grep -rE '<(script|link|img)[^>]+(src|href)="https?:' build/docs --include='*.html'  # no other server

$(VENV)/.documented: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

bench: venv  ## Tracking against none and against the paper's way, tables at full scale; 10 minutes
	$(BIN)/symrun bench --tables
	$(BIN)/python scripts/paper_tracking.py

gpu:  ## What only a GPU can show, in order of worth, in BUDGET=900 seconds: tests, timings, the paper's runs
	BUDGET=$(BUDGET) scripts/gpu_box.sh

clean:  ## Remove the environment and caches; runs in outputs/ stay
	rm -rf $(VENV) build .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
