# Two commands set everything up on a fresh machine (Debian, python3 >= 3.11, pip, make).
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
# The test files that skip tests where JAX or PyTorch is not installed.
PEERS = $(shell grep -rl --include='test_*.py' -e 'importorskip."jax"' -e 'importorskip."torch"' \
	-e 'find_spec."jax"' tests)

.PHONY: demo test slow peers campaign mutants lowest newest lint clean

demo: $(VENV)/.demo  ## train a teacher, distil it three ways and export the student, on real digits
	$(RUN) -m letkd_keras.recipes.digits

test: $(VENV)/.test  ## the fast tests
	$(RUN) -m pytest -n 2

slow: $(VENV)/.test  ## the slow tests as well
	$(RUN) -m pytest -n 2 -m "slow or not slow"

peers: $(VENV)-peers/.test  ## the fast tests that need JAX or PyTorch
	$(VENV)-peers/bin/python -m pytest -n 2 $(PEERS)

campaign: $(VENV)/.test  ## bad inputs, and commands killed at random moments: half an hour
	$(RUN) -m pytest -n 2 tests/campaign
	$(RUN) tests/campaign/kills.py --kills 40 --seconds 1200

mutants: $(VENV)/.mutants  ## whether the fast tests notice random changes of the program: half an hour
	$(RUN) tests/campaign/mutants.py --sample 300 --seed 0

lowest: $(VENV)-lowest/.test  ## the fast tests with the lowest versions that pyproject.toml allows
	$(VENV)-lowest/bin/python -m pytest -n 2

newest:  ## the fast tests with the newest versions, whatever constraints.txt says
	$(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install -q -U --upgrade-strategy eager -e ".[dev,jax]"
	$(VENV)-newest/bin/python -m pytest -n 2

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV) $(VENV)-peers $(VENV)-lowest $(VENV)-newest build dist *.egg-info

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q -c constraints.txt -e ".[export]"
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@

$(VENV)/.mutants: $(VENV)/.test
	$(RUN) -m pip install -q -c constraints.txt -e ".[mutants]"
	touch $@

# PyTorch as pinned, in its build for CPUs. From the plain index of PyPI, Linux on x86 gets a build
# with CUDA, which is several gigabytes. Without an index of builds for CPUs, such as PyTorch's own
# (`pip config`, or PIP_EXTRA_INDEX_URL), PyTorch is left out there and its tests are skipped.
ifeq ($(shell uname -sm),Linux x86_64)
TORCH = torch==$(shell sed -n 's/^torch==//p' constraints.txt)+cpu
else
TORCH = torch
endif

$(VENV)-peers/.test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python -m pip install -q -c constraints.txt -e ".[dev,jax,torch]" "$(TORCH)" || { \
		echo "No build of PyTorch for CPUs is in pip's index (see the Makefile): only JAX is tested."; \
		$(VENV)-peers/bin/python -m pip install -q -c constraints.txt -e ".[dev,jax]"; }
	touch $@

# pip has no such resolution, uv has. Old versions without a wheel for this Python are not built from
# source: the next version with one is the lowest. promise has no wheels.
$(VENV)-lowest/.test: pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install -q uv
	$(VENV)-lowest/bin/uv pip install -q --python $(VENV)-lowest --resolution lowest-direct \
		--only-binary :all: --no-binary promise -e ".[dev,jax]"
	touch $@
