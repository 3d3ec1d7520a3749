# Two commands set everything up on a fresh machine (Debian, python3 >= 3.11, pip, make).
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

.PHONY: demo test slow lint clean

demo: $(VENV)/.demo  ## train a teacher, distil it three ways and export the student, on real digits
	$(RUN) -m letkd_keras.recipes.digits

test: $(VENV)/.test  ## the fast tests
	$(RUN) -m pytest -n 2

slow: $(VENV)/.test  ## the slow tests as well
	$(RUN) -m pytest -n 2 -m "slow or not slow"

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q -c constraints.txt -e ".[export]"
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@
