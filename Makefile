# Two commands matter: `make demo` and `make test`. Each makes what it needs and nothing twice.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install -qq -c .ci/constraints.txt
PIP_SHOWN := $(subst -qq,,$(PIP)) # the longest one: downloads have a progress bar
COMPILE := $(BIN)/python setup.py -q build_ext --inplace
NATIVE := $(shell find csrc unify/include -name '*.cpp' -o -name '*.h' -o -name '*.inc') setup.py
CXX_FILES = $(shell git ls-files '*.c' '*.cpp' '*.h' '*.inc')

.DEFAULT_GOAL := help
.PHONY: help demo build test test-opencl test-oldest lint format stubs docs bench sanitize size nightly clean triton-conformance gpu-test gpu-bench

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 28

demo: $(VENV)/.built ## build, fetch a language model, and chat with it
	@if [ -t 0 ]; then $(BIN)/unify chat; else $(BIN)/unify chat < /dev/null; fi

build: $(VENV)/.built ## build into .venv, ready for `.venv/bin/unify`

test: $(VENV)/.dev $(VENV)/.toolchains ## build and run the whole test suite
	$(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal

OLDEST := $(VENV)/triton-3.6.0
TESTS ?= tests/compiler tests/triton
test-oldest: $(OLDEST) ## the tests of kernels with the oldest Triton that is supported; TESTS="tests/triton"
	PYTHONPATH=$(CURDIR)/$(OLDEST) $(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal $(TESTS)

lint: $(VENV)/.dev ## ruff, mypy, import contracts, clang-format, stubs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/python .ci/stubs.py --check

format: $(VENV)/.dev ## let ruff and clang-format rewrite
	$(BIN)/ruff check --fix-only -q
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CXX_FILES)

stubs: $(VENV)/.dev ## write unify/_core.pyi anew, after the bindings changed
	$(BIN)/python .ci/stubs.py

docs: $(VENV)/.docs ## the manual, in docs/_build/html; warnings are errors
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/.bench ## build the peers (llama.cpp: some minutes) and compare
	$(BIN)/unify bench

# In a folder of its own, as `make test` knows which devices there are.
test-opencl: $(VENV)/.dev ## build the OpenCL plugin and run the conformance suite on it
	$(PIP) --no-build-isolation --no-deps --upgrade --target $(VENV)/opencl ./examples/plugins/opencl
	PYTHONPATH=$(CURDIR)/$(VENV)/opencl $(BIN)/unify test-backend opencl -k "not slow"

# On a machine with an Nvidia GPU, in the environment of $(PYTHON) as it is: nothing is fetched or installed. Python's
# safe path keeps this folder's unify, which may not be built, from hiding the one that is installed.
ON_GPU = PYTHONSAFEPATH=1 UNIFY_GPU_MODEL="$(MODEL)" $(PYTHON)
gpu-test: ## with a GPU: conformance suite, ops, models; PYTHON=python3 MODEL=file.gguf
	$(ON_GPU) -m unify info
	$(ON_GPU) -m unify test-backend cuda
	$(ON_GPU) -m pytest -W default -m gpu tests/gpu

gpu-bench: ## with a GPU: against torch, Triton, CuPy, the driver; PYTHON=python3 CASES="launch matmul"
	$(ON_GPU) benchmarks/gpu.py $(CASES)

sanitize: $(VENV)/.dev ## conformance and core under AddressSanitizer and ThreadSanitizer
	.ci/sanitize $(BIN)/python $(SANITIZERS)

TRITON ?= ../triton
triton-conformance: $(VENV)/.dev ## Triton's own tests on the CPU target; TRITON=checkout, FILES="test_core.py --floor"
	$(PIP) tabulate
	$(BIN)/python .ci/triton_conformance.py $(TRITON) $(FILES)

size: $(VENV)/pyvenv.cfg ## the longest files and functions
	@$(BIN)/python .ci/size.py

LIBRARIES := fla-core==0.6.0 einops==0.8.2 conch-triton-kernels==1.3
nightly: test test-oldest sanitize ## the tests, the slow ones too, and under the sanitizers
	$(PIP) --no-deps $(LIBRARIES)
	$(BIN)/pytest -m slow
	$(BIN)/python .ci/ascend_table.py --check

clean: ## remove what was built; keep .venv and the user's caches
	rm -rf build dist docs/_build *.egg-info unify/_core*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f $(VENV)/.built $(VENV)/.dev

# From here on: what the targets stand on. A stamp says what .venv has; it is renewed when its inputs are newer.
$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "unify needs Python 3.10 or newer."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Making $(VENV) failed. On Debian and Ubuntu: apt install python3-venv python3-dev g++"; exit 1; }

$(VENV)/.tools: pyproject.toml .ci/constraints.txt | $(VENV)/pyvenv.cfg
	$(PIP) -U pip setuptools wheel pybind11
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.tools
	@echo "Compiling unify, then installing it and what it needs (300 MB to fetch) into $(VENV): some minutes the first time ..."
# Compiled first, since pip shows nothing of it.
	$(COMPILE)
	$(PIP_SHOWN) --no-build-isolation -e .
	@touch $@

$(VENV)/.built: $(NATIVE) $(VENV)/.installed
	$(COMPILE)
	@touch $@

$(VENV)/.dev: pyproject.toml .ci/constraints.txt $(VENV)/.built
	$(PIP) --no-build-isolation -e '.[dev]'
	@touch $@

# The vendors' compilers that tests run; where they cannot be had, those tests are skipped, but in CI (.ci/run).
$(VENV)/.toolchains: unify/compiler/toolchain.py | $(VENV)/.dev
	@if $(BIN)/unify toolchain install ascend; then touch $@; fi

$(OLDEST): $(VENV)/.dev
	$(filter-out -c .ci/constraints.txt,$(PIP)) --no-deps --upgrade --target $@ triton==$(@:$(VENV)/triton-%=%)
	@touch $@

$(VENV)/.docs: pyproject.toml .ci/constraints.txt $(VENV)/.built
	$(PIP) --no-build-isolation -e '.[docs]'
	@touch $@

$(VENV)/.bench: pyproject.toml benchmarks/requirements.txt $(VENV)/.built
	$(PIP) --no-build-isolation -e '.[bench]'
	$(PIP) -r benchmarks/requirements.txt
	@touch $@
