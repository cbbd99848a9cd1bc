# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
EXTRAS := onnx,trt,gguf,fast,serve,train,dev

.PHONY: demo test check docs clean
.DEFAULT_GOAL := test

# torch is installed first: whatever depends on it then finds the CPU build instead of fetching CUDA.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

demo: $(VENV)/.installed  ## distil an adapter into the shipped base model, then the whole path to three bundles
	rm -rf build/demo
	$(BIN)/python -m train.demo --out build/demo

test: $(VENV)/.installed  ## every test
	$(BIN)/pytest -n auto

check: $(VENV)/.installed  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.installed  ## the command reference in docs/commands.md
	$(BIN)/python docs/commands.py > docs/commands.md

clean:
	rm -rf build $(VENV) .mypy_cache .ruff_cache .pytest_cache
