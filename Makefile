# Two commands set everything up on a fresh machine (Debian, python3 >= 3.11, pip, make).
PYTHON ?= python3
VENV ?= .venv
# Errors only: pip warns about itself, about root in containers and about the user's own settings.
PIP_INSTALL := -m pip install -qq
RUN := $(VENV)/bin/python
# The test files that skip tests where JAX is not installed, and where JAX or PyTorch is not.
JAX_TESTS = $(sort $(shell grep -rl --include='test_*.py' -e 'importorskip."jax"' -e 'find_spec."jax"' tests))
PEERS = $(sort $(JAX_TESTS) $(shell grep -rl --include='test_*.py' -e 'importorskip."torch"' tests))
CHECK := $(VENV)/bin/check-jsonschema --builtin-schema

.PHONY: demo test slow peers slow-peers campaign mutants lowest lowest-jax newest newest-jax docs links \
	notebooks badges lint package tag clean

demo: $(VENV)/.demo  ## train a teacher, three students that see few images, and export the last one
	$(RUN) -m letkd_keras.recipes.digits --image-size 16 --student-examples 60 --batch-size 32 \
		--teacher-epochs 15 --epochs 20 --out runs/demo

test: $(VENV)/.test  ## the fast tests
	$(RUN) -m pytest -n 2

slow: $(VENV)/.test  ## the slow tests as well
	$(RUN) -m pytest -n 2 -m "slow or not slow"

peers: $(VENV)-peers/.test  ## the fast tests that need JAX or PyTorch
	$(VENV)-peers/bin/python -m pytest -n 2 $(PEERS)

slow-peers: $(VENV)-peers/.test  ## the slow tests of these files as well
	$(VENV)-peers/bin/python -m pytest -n 2 -m "slow or not slow" $(PEERS)

campaign: $(VENV)/.test  ## bad inputs, and commands killed at random moments: no command is begun after 20 minutes
	$(RUN) -m pytest -n 2 tests/campaign
	$(RUN) tests/campaign/kills.py --kills 40 --seconds 1200

mutants: $(VENV)/.mutants  ## whether the fast tests notice random changes of the program: half an hour
	$(RUN) tests/campaign/mutants.py --sample 300 --seed 0

lowest: $(VENV)-lowest/.test  ## the fast tests with the lowest versions that pyproject.toml allows
	$(VENV)-lowest/bin/python -m pytest -n 2

lowest-jax: $(VENV)-lowest/.test  ## of these, the tests that need JAX
	$(VENV)-lowest/bin/python -m pytest -n 2 $(JAX_TESTS)

newest: $(VENV)-newest/.test  ## the fast tests with the newest versions, whatever constraints.txt says
	$(VENV)-newest/bin/python -m pytest -n 2

newest-jax: $(VENV)-newest/.test  ## of these, the tests that need JAX
	$(VENV)-newest/bin/python -m pytest -n 2 $(JAX_TESTS)

docs: $(VENV)/.docs  ## the documentation site, in build/docs; a warning or a broken link is an error
	$(RUN) -m sphinx -b html -n -W --keep-going docs build/docs

links: $(VENV)/.docs  ## the links to other sites
	$(RUN) -m sphinx -b linkcheck -W --keep-going docs build/links

notebooks: $(VENV)/.test  ## run the notebooks and keep their outputs
	$(RUN) examples/run_notebooks.py

badges:  ## Colab badges of README and the notebooks, once pyproject.toml has the repository's address
	$(PYTHON) examples/badges.py

lint: $(VENV)/.test  ## code, workflows, issue forms, citation
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(CHECK) vendor.github-workflows .github/workflows/*.yml
	$(CHECK) vendor.dependabot .github/dependabot.yml
	$(CHECK) vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(CHECK) vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
	$(CHECK) vendor.citation-file-format CITATION.cff
	$(VENV)/bin/zizmor --offline .github

package: $(VENV)/.test  ## sdist and wheel in dist/, checked; the wheel is installed and imported
	rm -rf dist
	$(RUN) -m build -o dist
	$(RUN) -m twine check --strict dist/*
	$(PYTHON) -m venv --clear build/package
	build/package/bin/python $(PIP_INSTALL) -c constraints.txt dist/*.whl
	cd build/package && bin/python -c "import letkd_keras; print(letkd_keras.__version__)"
	cd build/package && bin/python -m letkd_keras.recipes --help

tag:  ## that TAG=v1.2.3 is the version of pyproject.toml and has its date in the changelog
	grep -qx 'version = "$(TAG:v%=%)"' pyproject.toml
	grep -q '^## $(TAG:v%=%) (20' CHANGELOG.md

clean:
	rm -rf $(VENV) $(VENV)-peers $(VENV)-lowest $(VENV)-newest build dist *.egg-info

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) $(PIP_INSTALL) -c constraints.txt -e ".[export]"
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) $(PIP_INSTALL) -c constraints.txt -e ".[dev]"
	touch $@

# The newest versions when it was made: `make clean` removes it.
$(VENV)-newest/.test: pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)-newest
	$(VENV)-newest/bin/python $(PIP_INSTALL) -U --upgrade-strategy eager -e ".[dev,jax]"
	touch $@

$(VENV)/.docs: $(VENV)/.test
	$(RUN) $(PIP_INSTALL) -c constraints.txt -e ".[dev,docs]"
	touch $@

$(VENV)/.mutants: $(VENV)/.test
	$(RUN) $(PIP_INSTALL) -c constraints.txt -e ".[dev,mutants]"
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
	$(VENV)-peers/bin/python $(PIP_INSTALL) -c constraints.txt -e ".[dev,jax,torch]" "$(TORCH)" || { \
		echo "No build of PyTorch for CPUs is in pip's index (see the Makefile): only JAX is tested."; \
		$(VENV)-peers/bin/python $(PIP_INSTALL) -c constraints.txt -e ".[dev,jax]"; }
	touch $@

# pip has no such resolution, uv has. Old versions without a wheel for this Python are not built from
# source: the next version with one is the lowest. promise has no wheels.
$(VENV)-lowest/.test: pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-lowest/bin/python $(PIP_INSTALL) uv
	$(VENV)-lowest/bin/uv pip install -q --python $(VENV)-lowest --resolution lowest-direct \
		--only-binary :all: --no-binary promise -e ".[dev,jax]"
	touch $@
