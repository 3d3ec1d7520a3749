# Two commands set everything up on a fresh machine (Debian, python3 >= 3.11, pip, make).
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

.PHONY: demo test slow lowest newest lint clean

demo: $(VENV)/.demo  ## train a teacher, distil it three ways and export the student, on real digits
	$(RUN) -m letkd_keras.recipes.digits

test: $(VENV)/.test  ## the fast tests
	$(RUN) -m pytest -n 2

slow: $(VENV)/.test  ## the slow tests as well
	$(RUN) -m pytest -n 2 -m "slow or not slow"

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
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-newest build dist *.egg-info

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q -c constraints.txt -e ".[export]"
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@

# pip has no such resolution, uv has. Old versions without a wheel for this Python are not built from
# source: the next version with one is the lowest. promise has no wheels.
$(VENV)-lowest/.test: pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install -q uv
	$(VENV)-lowest/bin/uv pip install -q --python $(VENV)-lowest --resolution lowest-direct \
		--only-binary :all: --no-binary promise -e ".[dev,jax]"
	touch $@
