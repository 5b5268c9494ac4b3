# Each target makes .venv first when it is missing, incomplete or older than pyproject.toml.
#   PYTHON=python3.12        the interpreter that .venv is made with (3.11 or newer)
#   TORCH_INDEX_URL=URL      the package index torch, and only torch, is installed from
#   VIDEO=clip.mp4           a video for the demo instead of the made one

# The tests that reach into transformers.
SEAMS := $(patsubst %,tests/runtime/test_%.py,compiled conversation drop_point equivalence generate golden \
	graph leaks masked measure memory meta patch prompts selfcheck validate video_prompts)

SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
OLDEST := .venv-oldest/.ready
# Without its dependencies, torchvision among them: these are all that a model class imports.
LMMS_EVAL := lmms-eval==0.7.3 loguru==0.7.3 pytz==2026.6
export TORCH_INDEX_URL

.DEFAULT_GOAL := help
.PHONY: help demo notebooks test test-oldest lint check clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)
	@sed -n 's/^#   //p' $(MAKEFILE_LIST)

demo: $(READY)  ## the main job: published tables, a real run, predicted beside measured
	$(BIN)/python -m benchmarks.demo $(if $(VIDEO),--video "$(VIDEO)")

notebooks: $(READY)  ## run the notebooks and keep their outputs
	$(BIN)/python scripts/run_notebooks.py notebooks/*.ipynb

test: export OMP_NUM_THREADS := 1
test: $(READY)  ## pytest
	$(BIN)/python -m pytest -n 2

test-oldest: export OMP_NUM_THREADS := 1
test-oldest: $(OLDEST)  ## the runtime's tests with the oldest transformers we support
	.venv-oldest/bin/python -m pytest -n 2 $(SEAMS) tests/contract/test_flops.py

lint: $(READY)  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict aim_cost

check: lint test  ## both

clean:  ## remove what demo, tests and builds wrote; .venv stays
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

$(OLDEST): $(READY)
	@rm -f $@
	.venv-oldest/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python scripts/install_torch.py
	.venv-oldest/bin/python -m pip install --quiet --editable ".[runtime,dev]" "transformers==5.17.*"
	@touch $@

# The stamp is written last: an installation that was interrupted is done again.
$(READY): pyproject.toml scripts/install_torch.py
	@rm -f $@
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python scripts/install_torch.py
	$(BIN)/python -m pip install --editable ".[runtime,dev,notebooks]"
	$(BIN)/python -m pip install --quiet --no-deps $(LMMS_EVAL)
	@touch $@
