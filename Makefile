# PYTHON picks the interpreter that makes the virtual environment: make PYTHON=python3.13 test
PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# pytest compiles each test anew unless it may keep what it compiled: 33 s to collect them all, or 7 s.
export PYTHONDONTWRITEBYTECODE :=
PLUGINS := $(patsubst %/pyproject.toml,%,$(sort $(wildcard plugins/*/pyproject.toml)))

.DELETE_ON_ERROR:
.PHONY: run test lint docs build bench soak lock clean
.NOTPARALLEL:

run: $(VENV)/.stamp-run
	sh examples/desk/run.sh $(BIN)

test: $(VENV)/.stamp-dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy meshflow verifier $(wildcard plugins/*/src)
	$(BIN)/lint-imports

docs: $(VENV)/.stamp-dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

# The root wheel and one for each plugin folder; then the root wheel must work in an environment that never saw the sources.
build: $(VENV)/.stamp-dev
	rm -rf dist build/clean
	for project in . $(PLUGINS); do $(BIN)/python -m build --no-isolation --outdir dist $$project || exit 1; done
	$(BIN)/python -m venv build/clean
	build/clean/bin/python -m pip install --quiet --require-hashes -r constraints/run.txt
	build/clean/bin/python -m pip install --quiet --no-deps --no-index dist/meshflow-[0-9]*.whl
	cd build && clean/bin/meshflow --help

bench: $(VENV)/.stamp-dev
	$(BIN)/python -m benchmarks

soak: $(VENV)/.stamp-dev
	MESHFLOW_SOAK=full $(BIN)/python -m pytest -m soak $(PYTEST_ARGS)

# Maintainers: resolve anew and rewrite the lock files. Everything else installs from them with plain pip.
LOCK := uv pip compile --quiet --no-config --universal --python-version 3.11 --upgrade --generate-hashes \
	--no-header --no-annotate --no-emit-index-url pyproject.toml
lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet uv
	build/lock/bin/$(LOCK) --group build --output-file constraints/run.txt
	build/lock/bin/$(LOCK) --group dev --all-extras --constraints constraints/run.txt --output-file constraints/dev.txt

clean:
	rm -rf $(VENV) build dist docs/_build

$(VENV)/.stamp-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "meshflow needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Choose another: make PYTHON=python3.13" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# The development lock holds all of the run lock at the same versions, so either may follow the other.
$(VENV)/.stamp-run: constraints/run.txt pyproject.toml $(VENV)/.stamp-python
	$(BIN)/python -m pip install --quiet --require-hashes -r constraints/run.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.stamp-dev: constraints/dev.txt constraints/golib.txt pyproject.toml $(VENV)/.stamp-python
	$(BIN)/python -m pip install --quiet --require-hashes -r constraints/dev.txt
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --ignore-requires-python -r constraints/golib.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@
