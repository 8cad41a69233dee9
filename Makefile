# Two commands for a fresh machine with Python >= 3.11 and make:
#   make demo   set everything up, train, evaluate, index, search
#   make test   set everything up, run the tests
# make demo DATA=/path/to/photos does the same with your own photos.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DATA   ?= digits
JOBS   ?= 2
# Slow tests wait for processes, servers and clocks: one more than there are cores keeps these busy.
SLOW_JOBS ?= 3
READY  := $(VENV)/.ready

.PHONY: help setup demo test lint slow bench docs clean
help:
	@sed -n '1,4s/^# \{0,1\}//p' Makefile

setup: $(READY)

# uv resolves and links in seconds what pip needs minutes for; it lives inside the environment.
comma := ,
define install
@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[$(1)]'
@touch $@
endef

$(READY): pyproject.toml
	$(call install,all$(comma)dev)

$(VENV)/.ready-for-demo: pyproject.toml
	$(call install,train$(comma)search)

# Trains on handwritten digits without their labels, or on the photos in DATA; installs only what that needs.
demo: $(if $(wildcard $(READY)),$(READY),$(VENV)/.ready-for-demo)
	@$(BIN)/python examples/demo.py --data "$(DATA)" --out demo

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

slow: $(READY)
	$(BIN)/python -m pytest -n $(SLOW_JOBS) --dist worksteal -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A static site of docs/ and a reference from the code, in site/; index.html opens from the disk.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[all,dev,bench]'

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
