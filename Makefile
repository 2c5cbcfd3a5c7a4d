PROFILE ?= quick
BASE    ?= tiny_base
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready

.PHONY: help run check test chaos bench lab figures adopt-base clean
.DEFAULT_GOAL := help

help:            ## list the commands
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

# The stamp is made last: an install that broke off is repeated.
$(READY): requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed, not " + sys.version.split()[0] + ": run make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(READY)

run: $(READY)    ## run every notebook of a profile that is not up to date (PROFILE=quick, tcga, paper)
	@$(BIN)/cancerllm run $(PROFILE)

check: $(READY)  ## say what a profile lacks on this machine (PROFILE=...)
	@$(BIN)/cancerllm check $(PROFILE)

test: $(READY)   ## run the tests (no network, no GPU, no data needed)
	@$(BIN)/python -m ruff check --quiet .
	@OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

chaos: $(READY)  ## break the intake (10,000 rows, 200 files) and the training (kills, torn checkpoints, NaN) on purpose
	@CANCERLLM_CHAOS_ROWS=10000 CANCERLLM_CHAOS_FILES=200 CANCERLLM_CHAOS_KILLS=32 $(BIN)/python -m pytest -q tests/chaos

bench: $(READY)  ## measure speed and memory (minutes; alone on the machine)
	@export OMP_NUM_THREADS=1 RAYON_NUM_THREADS=1; for script in tests/bench/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || [ $$? -eq 2 ] || exit 1; done  # 2: this machine lacks what it measures, and it says so

lab: $(READY)    ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

figures: $(READY) ## copy the figures of a finished run to figures/ (PROFILE=tcga for the reference run; of a run of further studies, theirs)
	@$(BIN)/python -m cancerllm_utils.report --figures $(PROFILE)

adopt-base: $(READY) ## embed the model trained by a profile (BASE=tiny_base, tiny_llama)
	@$(BIN)/python -m cancerllm_utils.modeling.tiny_base $(BASE)

clean:           ## delete a run with all its text (PROFILE=...)
	rm -rf $${CANCERLLM_RUNS:-runs}/$(PROFILE)
