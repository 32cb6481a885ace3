# Every target sets itself up: python3.11 and make are all that a clean machine needs. Another Python needs another place:
# make PYTHON=python3.13 VENV=build/py313 test
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
SEED ?= 0
SECONDS ?= 60
REPLICAS ?= 1
BENCHES ?= engine server client ring prefetch

.PHONY: help setup demo test check fix clean soak fuzz sim chaos absence bench docs helm-image helm-mutants clean-compiled
help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	STRATACACHE_COMPILE=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

# The hot modules of a node, compiled where they lie; without a C compiler they stay plain Python (setup.py). What another
# VENV's Python loads lies beside it, and is as old as it was.
$(VENV)/.compiled: $(VENV)/.installed setup.py $(shell find node -name '*.py')
	$(BIN)/python setup.py --quiet build_ext --inplace
	find node -name "*$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')" -exec touch {} +
	touch $@

# mypy reads the three root folders under their import names.
build/types/stratacache:
	mkdir -p $@
	for name in node client cluster; do ln -sfn ../../../$$name $@/$$name; done

setup: $(VENV)/.compiled ## create .venv with everything the tests need

demo: setup ## run the main job: an AI pipeline on a local Ray cluster with three shards
	$(BIN)/stratacache demo

test: setup ## run the whole suite on two cores
	$(BIN)/python -m pytest -n 2 --dist loadgroup

soak: setup ## ten minutes at full load with all three levels: memory stays in its budget
	$(BIN)/python -m benchmarks.soak --seconds 600

helm-image: setup ## replay the image's build in full, and run its entry points as an unprivileged user
	$(BIN)/python -m tests.helm.image

helm-mutants: setup ## put faults into the chart's templates: each must be caught
	$(BIN)/python -m tests.helm.mutants

sim: setup ## simulate the cluster under faults: make sim SEED=17, or SEED=0:2000
	$(BIN)/python -m tests.simulation --seeds $(SEED)

check: setup build/types/stratacache ## ruff and mypy, strict
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

fix: setup ## let ruff mend what it can
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

fuzz: setup ## throw random input at the RESP parser and the command table for SECONDS
	$(BIN)/python -m tests.wire.fuzz $(SECONDS)

chaos: setup ## kill processes of a real cluster under load for SECONDS, and check every read
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) --seed $(SEED) --replicas $(REPLICAS)

absence: setup ## keep a shard away for SECONDS while what it holds is invalidated, three times
	$(BIN)/python -m tests.chaos.absence --seconds $(SECONDS)

docs: setup build/types/stratacache ## the documentation as a site in build/site, links checked
	STRATACACHE_COMPILE=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open build/site/index.html"

bench: setup ## every benchmark, side by side with its peers, into build/bench (the machine should be quiet)
	STRATACACHE_COMPILE=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	mkdir -p build/bench
	for name in $(BENCHES); do $(BIN)/python -m benchmarks.$$name --json build/bench/$$name.json || exit 1; done

clean-compiled: ## remove what was compiled of node/, so that it runs as plain Python until the next `make setup`
	find node -name '*.so' -delete
	rm -f $(VENV)/.compiled

clean: clean-compiled ## remove what the targets above made
	rm -rf $(VENV) build
