# Each target makes .venv first when it is missing, incomplete or older than the lock.
#   PYTHON=python3.12        the interpreter that .venv is made with (3.11 or newer)
#   TORCH_INDEX_URL=URL      the package index torch, and only torch, is installed from
#   VIDEO=clip.mp4           a video for the demo instead of the made one

# The tests that reach into transformers.
SEAMS := $(patsubst %,tests/runtime/test_%.py,caches compiled conversation copies drop_point equivalence \
	generate generate_arguments golden graph images last_layer leaks llava_generate llava_prompts masked measure memory \
	meta patch prompts qwen qwen_errors qwen_turns refusals scores seams selfcheck threads tiny uneven validate \
	video_prompts vision_merge wrappers)

SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
OLDEST := .venv-oldest/.ready
PIP := pip==26.3
LOCK := requirements.lock
PROJECT := --editable ".[runtime,dev,notebooks]"
# Without its dependencies, torchvision among them: these are all that a model class imports.
LMMS_EVAL := --no-deps lmms-eval==0.7.3
BESIDE := loguru pytz
FAILED = { echo "The set-up of $(@D) failed. See 'When a set-up step fails' in README.md." >&2; exit 1; }
export TORCH_INDEX_URL

.DEFAULT_GOAL := help
.PHONY: help setup setup-oldest demo notebooks test test-oldest test-newest fuzz compatibility lint check \
	lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)
	@sed -n 's/^#   //p' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv: torch, then exactly the versions of the lock

setup-oldest: $(OLDEST)

demo: $(READY)  ## the main job: published tables, a real run, predicted beside measured
	$(BIN)/python -m benchmarks.demo $(if $(VIDEO),--video "$(VIDEO)")

notebooks: $(READY)  ## run the notebooks and keep their outputs
	$(BIN)/python scripts/run_notebooks.py notebooks/*.ipynb

test: export OMP_NUM_THREADS := 1
test: $(READY)  ## pytest
	$(BIN)/python -m pytest -n 2

test-oldest: export OMP_NUM_THREADS := 1
test-oldest: $(OLDEST)  ## the runtime's tests with the oldest transformers we support
	.venv-oldest/bin/python -m pytest -n 2 $(SEAMS) tests/contract/test_flops.py tests/contract/test_flops_qwen.py

test-newest: export OMP_NUM_THREADS := 1
test-newest: $(READY)  ## for maintainers: what breaks with newer packages than pyproject.toml allows
	rm -rf .venv-newest
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet $(PIP)
	.venv-newest/bin/python scripts/install_torch.py
	$(BIN)/python scripts/newest.py requirements > .venv-newest/requirements.txt
	.venv-newest/bin/python -m pip install --quiet --requirement .venv-newest/requirements.txt
	.venv-newest/bin/python -m pip install --quiet --no-deps $(PROJECT)
	.venv-newest/bin/python -m pip install --quiet --upgrade --no-deps lmms-eval
	-.venv-newest/bin/python -m pytest -n 2
	.venv-newest/bin/python scripts/newest.py table

fuzz: export OMP_NUM_THREADS := 1
fuzz: export AIM_FUZZ := 10000
fuzz: $(READY)  ## for maintainers: thousands of inputs, none of which may crash or hang
	$(BIN)/python -m pytest tests/fuzz tests/runtime/test_kills.py

compatibility: $(READY)  ## for maintainers: which Pythons, torches and transformers pass
	$(BIN)/python scripts/compatibility.py

lint: $(READY)  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict aim_cost aim_runtime

check: lint test  ## both

lock:  ## for maintainers: resolve pyproject.toml anew into requirements.lock
	$(PYTHON) scripts/lock.py

clean:  ## remove what demo, tests and builds wrote; .venv stays
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name '.venv*' -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

# The stamp is written last: an installation that was interrupted is done again.
$(READY): pyproject.toml $(LOCK) scripts/install_torch.py
	@rm -f $@
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || $(FAILED)
	@$(BIN)/python -m pip install --quiet $(PIP) || $(FAILED)
	@$(BIN)/python scripts/install_torch.py || $(FAILED)
	@echo "Installing what $(LOCK) names into .venv"
	@$(BIN)/python -m pip install --quiet --constraint $(LOCK) --build-constraint $(LOCK) \
		$(PROJECT) $(BESIDE) || $(FAILED)
	@$(BIN)/python -m pip install --quiet $(LMMS_EVAL) || $(FAILED)
	@touch $@

# The same, but for transformers and the hub that it allows.
$(OLDEST): $(READY)
	@rm -f $@
	@.venv-oldest/bin/python -m pip --version >/dev/null 2>&1 \
		|| $(PYTHON) -m venv --clear .venv-oldest || $(FAILED)
	@.venv-oldest/bin/python -m pip install --quiet $(PIP) || $(FAILED)
	@.venv-oldest/bin/python scripts/install_torch.py || $(FAILED)
	@grep -Ev '^(transformers|huggingface-hub)==' $(LOCK) > .venv-oldest/requirements.lock
	@echo "Installing the same with transformers 5.17 into .venv-oldest"
	@.venv-oldest/bin/python -m pip install --quiet --constraint .venv-oldest/requirements.lock \
		--build-constraint $(LOCK) $(PROJECT) $(BESIDE) "transformers==5.17.*" || $(FAILED)
	@touch $@
