# Everything a person or CI does, by name. `make run` and `make test` set up a fresh machine by themselves.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS := espeak piper transcribe
MODELS := $(CURDIR)/.venv/test-data/models/folders
export CORSAC_TEST_VOICE := $(MODELS)/piper@en_US-joe-medium
export CORSAC_TEST_WHISPER := $(MODELS)/whisper@tiny.en
COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url \
  --python-version 3.11 --exclude-newer $$(date -u -d '7 days ago' +%Y-%m-%d) \
  $(EXTRAS:%=--extra %) --group build pyproject.toml

.PHONY: run test test-slow check format bench lock clean system-packages models

run: .venv/installed
	$(BIN)/corsac serve

test: .venv/tested system-packages models
	$(BIN)/python -m pytest -m "not slow" -n 3 --dist loadfile

test-slow: .venv/tested system-packages models
	$(BIN)/python -m pytest -m slow

check: .venv/tested
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(MAKE) test

format: .venv/tested
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

bench: .venv/tested
	$(BIN)/python -m benchmarks

# One command refreshes the locks: hashes of everything, nothing younger than a week.
lock:
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) -o requirements.lock
	$(COMPILE) --group dev -o requirements-dev.lock

system-packages:
	@sh tests/system-packages.sh

# The starter models, for the tests of their engines; without a network they are skipped and say so.
models: .venv/installed
	-@for model in piper:en_US-joe-medium whisper:tiny.en; do \
	  CORSAC_DATA_DIRECTORY=.venv/test-data $(BIN)/corsac models pull $$model; done

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

.venv/tested: requirements-dev.lock .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	touch $@

clean:
	rm -rf .venv build dist src/*.egg-info
