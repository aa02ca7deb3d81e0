# Everything that people and CI run. `make help` explains itself from the comments behind ##.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m
# All but torch is installed by hash: a machine's own build is used, and the torchvision that fits it
# (docs/decisions/0002-torch-is-a-range.md, 0035).
HASHED := requirements/dev.txt
TORCH := 'torch>=2.13,<3' 'torchvision>=0.28,<1'
# Tests wait for servers and processes as much as they compute, so three at once fill two cores.
TESTERS ?= 3
.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-gpu check format lock schema bench equality chaos chaos-ranks audit sbom pin setup-system hooks clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Make the virtual environment (.venv) and install Lathe with everything into it

$(VENV)/.installed: pyproject.toml $(HASHED)
	@echo "Installing into $(VENV), for one to five minutes ..."
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --require-hashes --no-deps --requirement $(HASHED)
	$(RUN) pip install --quiet --constraint constraints.txt $(TORCH)
	$(RUN) pip install --quiet --no-deps --no-build-isolation --editable .
	$(RUN) pip check
	@touch $@

demo: setup ## A real model through a real job to a downloaded, reopened checkpoint
	$(BIN)/python scripts/demo.py

up: setup ## Run the embedded set for daily use; Ctrl-C stops it
	$(BIN)/lathe up

test: setup ## Every test, on SQLite and on a real PostgreSQL
	$(RUN) pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder

# Not the environment above where it has another torch than the card's: make test-gpu CARD_PYTHON=python3
CARD_PYTHON ?= $(BIN)/python
test-gpu: ## The tests that need a card, alone; CARD_PYTHON=python3 takes another Python, with its own torch
	$(CARD_PYTHON) -m pytest --confcutdir=tests/gpu tests/gpu

check: setup ## Style, types and the directions of dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(RUN) mypy
	$(BIN)/lint-imports

format: setup ## Mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## Resolve all dependencies anew: constraints.txt pins all but torch, requirements/ has their hashes
	$(PYTHON) scripts/lock.py

schema: setup ## Write the schema of before.json to docs/before.schema.json
	$(RUN) scripts.schema

bench: setup ## Measure: each figure a ratio against a baseline of the same run
	$(RUN) bench

equality: setup ## Compare int8 answers under AVX2, SSE4.1 and Arm, emulated (qemu-user); half an hour, goes on if stopped
	$(BIN)/python scripts/fetch_examples.py .cache/examples model data decoder texts
	$(RUN) bench.portability.equality

JOBS ?= 200
KILLS ?= 200
SEED ?= 1
chaos: setup ## JOBS=200 jobs under KILLS=200 kills at random (SEED=1), then an audit; about an hour on two cores
	$(RUN) tests.chaos --jobs $(JOBS) --kills $(KILLS) --seed $(SEED)

chaos-ranks: setup ## A hundred kills of processes that train together (KILLS=100), SEED=1; about an hour on two cores
	$(RUN) tests.chaos.ranks --kills $(if $(filter command line,$(origin KILLS)),$(KILLS),100) --seed $(SEED)

audit: setup ## Ask OSV for known vulnerabilities of what is locked, and of torch; 3, "not checked", where it is not reached
	$(BIN)/python scripts/audit.py

sbom: setup ## List what is installed as CycloneDX, in lathe.cdx.json
	$(BIN)/python scripts/sbom.py lathe.cdx.json

pin: ## Ask the registries for the digests of all images, into compose.pinned.yaml (needs Docker)
	$(PYTHON) -m venv .venv-pin
	.venv-pin/bin/pip install --quiet --no-deps --constraint constraints.txt pyyaml
	.venv-pin/bin/python scripts/pin_images.py compose.pinned.yaml

setup-system: ## Debian, as root: what no wheel brings
	apt-get update
	before=$$(command -v nginx); \
	apt-get install --yes --no-install-recommends apertium apertium-eng-spa bubblewrap ca-certificates chromium curl \
		libnginx-mod-stream nginx openssl python3-venv qemu-user wordnet-base \
	&& { [ -n "$$before" ] || systemctl disable --now nginx 2> /dev/null || true; }  # its own service, on port 80

hooks: setup ## Run the checks before each commit
	$(BIN)/pre-commit install

clean: ## Remove what the targets above made
	rm -rf $(VENV) .venv-* .cache demo-output
