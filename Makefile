# The verbs that people, README and CI share. `make help` lists them.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PYTHON ?= python3
BIN := .venv/bin
# The client is in this repository: the locks hold no path, so each environment installs it beside them.
COMPILE = $(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --no-emit-package anya-mesh-client
PROTOS := $(shell find protos -name '*.proto' | sort)
SERVICES := $(shell grep -l '^service ' $(PROTOS))
# A file's tests share a process, and with it the services that the file starts.
TEST = $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder
PROTOC = PATH="$(CURDIR)/$(BIN):$$PATH" ../$(BIN)/python -m grpc_tools.protoc -I.
CLIENT := clients/python
STUBS := $(CLIENT)/src

export ANYA_TEST_DATA ?= $(realpath ../shared/data)

.PHONY: help demo up test test-faults check manifests protos lock bench clean

help:  ## list the verbs
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo 'Anya Mesh needs Python 3.11 to 3.13: make PYTHON=python3.12 demo' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo 'Python cannot make environments here: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q uv
	@touch $@

# A development environment keeps its tools: both locks pin the same versions.
.venv/run: .venv/pip requirements.lock pyproject.toml $(CLIENT)/pyproject.toml
	@if [ -e .venv/dev ]; then $(MAKE) -s .venv/dev; else \
	  $(BIN)/uv pip sync -q --python $(BIN)/python --require-hashes requirements.lock && \
	  $(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e $(CLIENT) -e .; fi
	@touch $@

.venv/dev: .venv/pip requirements-dev.lock pyproject.toml $(CLIENT)/pyproject.toml
	$(BIN)/uv pip sync -q --python $(BIN)/python --require-hashes requirements-dev.lock
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e $(CLIENT) -e .
	@touch $@ .venv/run

demo: .venv/run  ## run the main job: a verified payment, end to end
	$(BIN)/anya demo

up: .venv/run  ## run the mesh until Ctrl-C
	$(BIN)/anya up

test: .venv/dev  ## run every test, in two processes
	$(TEST)

test-faults: .venv/dev  ## run every test in full, and 1,000 payments while services are killed: STORE=postgres SEED=N
	ANYA_TEST_PROFILE=full $(TEST)
	$(BIN)/python -m tests.faults $(if $(SEED),--seed $(SEED)) $(if $(PAYMENTS),--payments $(PAYMENTS)) $(if $(STORE),--store $(STORE))

# From 0.2.0 on, buf compares the contracts with protos/released.binpb instead of the last tag.
check: .venv/dev manifests  ## lint, types, contracts, manifests, and the model retrained
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf format --exit-code --diff protos
	@if git describe --tags --abbrev=0 --match 'v*' >/dev/null 2>&1; then \
	  $(BIN)/buf breaking --against ".git#tag=$$(git describe --tags --abbrev=0 --match 'v*')"; \
	else echo 'no release tag yet: there is no contract to break'; fi
	$(MAKE) -s protos
	git diff --exit-code -- $(STUBS)
	@test -z "$$(git ls-files --others --exclude-standard $(STUBS))" || { echo '$(STUBS) has files that are not committed' >&2; exit 1; }
	$(BIN)/pytest -q tests/test_architecture.py tests/deploy
	$(BIN)/python -m services.ml.training --check

manifests: .venv/dev
	@set -e; for folder in deploy/k8s/base deploy/k8s/overlays/*; do \
	  $(BIN)/kubectl kustomize $$folder > .venv/rendered.yaml; \
	  $(BIN)/kubernetes-validate --strict .venv/rendered.yaml > .venv/validated 2>&1 || { cat .venv/validated >&2; exit 1; }; \
	  if grep "Couldn't find schema" .venv/validated; then exit 1; fi; \
	  echo "$$folder: $$(grep -c ' passed ' .venv/validated) resources are valid"; \
	done

bench: .venv/dev  ## measure against peers: make -s bench, or NAME=mesh ONLY=chain_vs_bare JSON=1; RESUME=1
	@$(BIN)/python -m benchmarks $(NAME) $(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json) $(if $(RESUME),--resume)

protos: .venv/dev  ## rewrite the stubs in clients/python from protos/
	find $(STUBS) -name '*_pb2*.py*' -delete
	cd protos && $(PROTOC) --python_out=../$(STUBS) --mypy_out=quiet:../$(STUBS) $(PROTOS:protos/%=%)
	cd protos && $(PROTOC) --grpc_python_out=../$(STUBS) --mypy_grpc_out=quiet:../$(STUBS) $(SERVICES:protos/%=%)

lock: .venv/pip  ## resolve the dependencies again
	$(COMPILE) pyproject.toml --all-extras --group build --group dev -o requirements-dev.lock
	$(COMPILE) pyproject.toml --group build -c requirements-dev.lock -o requirements.lock

clean:  ## remove what the verbs made, but never .anya/
	rm -rf .venv .venv-peers .bench dist .mypy_cache .ruff_cache .pytest_cache
