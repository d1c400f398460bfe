# make demo | test | check | docs: each sets up .venv on a machine that has Python 3.10+ and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS := $(VENV)/.installed-docs
# One worker for each core, at most four; torch keeps one thread in each so that they do not fight.
WORKERS := $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); [ $$n -gt 4 ] && n=4; echo $$n)

.PHONY: demo test test-all stress fidelity check docs setup clean

demo: $(STAMP)
	$(BIN)/torchslots demo --out runs/demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-all: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

# ARGS: --parts mutants kills full readonly soak, --count of each (4,000 mutants of each kind of file: about 100,000 in
# all; every disk operation), --seconds, --seed, --only WORD.
stress: $(STAMP)
	cd tests && OMP_NUM_THREADS=1 $(abspath $(BIN))/python -m stress $(ARGS)

# CASES: folders with a recording of an original program; ARGS: --float64, --json FILE.
fidelity: $(STAMP)
	@test -n "$(CASES)" || { echo 'make fidelity CASES="DIR...": name folders with a recorded case'; exit 2; }
	cd tests && $(abspath $(BIN))/python -m fidelity $(foreach case,$(CASES),$(abspath $(case))) $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/pyright

# The site in site/; a broken link, anchor or docstring is an error (not with --quiet: then warnings are not counted).
docs: $(DOCS)
	PATH="$(abspath $(BIN)):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html, or with the search: $(PYTHON) -m http.server -b 127.0.0.1 -d site"

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "torchslots needs Python 3.10 or newer; run: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'torch>=2.6,<2.14'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(STAMP)

$(DOCS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $(DOCS)

clean:
	rm -rf $(VENV) build dist site src/*.egg-info .pytest_cache .ruff_cache
