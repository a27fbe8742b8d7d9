# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` do all set-up themselves. `make help` lists the targets.

PYTHON ?= python3
# On a machine without a GPU, the CPU index that pytorch.org names saves a download of 2 GB:
#     make demo TORCH='torch==2.13.0 --index-url <that index>'
TORCH ?= torch==2.13.0
VENV ?= .venv
# What `make train-demo` learns from, and the slides that it reports on in the card.
TILES ?= ../shared/tiles/oral-scc-rahman2020
SLIDES ?= ../shared/slides
OUT ?= .cache/oral-scc-demo
TRIALS ?= .cache/trials.json
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help demo demo-ohif test test-browser test-ohif screenshots lint format setup system clean bench-slides bench-core bench-pipeline bench-queue test-faults install-worker-service test-openapi test-orthanc-versions \
	train-demo train-demo-trials
.PHONY: test-deploy test-install docs sbom bench-scale lock

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.ready ## analyse a slide with a real Orthanc, start to end (SLIDE=path.svs, MPP=0.5, FORCE=1)
	@$(RUN) -m demo $(if $(SLIDE),--slide "$$SLIDE") $(if $(MPP),--mpp "$$MPP") $(if $(FORCE),--force)

demo-ohif: $(VENV)/.ready ## the same with OHIF beside Orthanc (fetches 50 MB with npm once; OHIF=3.12.10 for the other version)
	@demo/system-packages.sh demo/system-packages-ohif.txt
	@$(RUN) -m demo --ohif $(OHIF) $(if $(SLIDE),--slide "$$SLIDE") $(if $(MPP),--mpp "$$MPP") $(if $(FORCE),--force)

test: $(VENV)/.dev-ready ## install what is missing and run all tests
	$(RUN) -m pytest

test-faults: $(VENV)/.dev-ready ## the queue through faults, for about a quarter of an hour (last line: JSON)
	$(RUN) -m tests.faults

test-browser: $(VENV)/.dev-ready ## all tests in a real Chromium, OHIF included (OHIF=3.13.2 for one version of it)
	@demo/system-packages.sh demo/system-packages-ohif.txt
	OHIF=$(or $(OHIF),all) $(RUN) -m pytest tests/browser

test-orthanc-versions: $(VENV)/.dev-ready ## the tests on newer Orthancs (as root; SUITES="trixie forky"; fetches 200 MB each once)
	tests/orthanc-versions.sh $(or $(SUITES),trixie forky)

test-openapi: $(VENV)/.dev-ready ## ask a running server what its OpenAPI document allows and what not, in each role (EXAMPLES=20)
	EXAMPLES=$(or $(EXAMPLES),20) $(RUN) -m pytest tests/server/test_openapi_run.py

test-deploy: $(VENV)/.dev-ready ## the way from lab to hospital (TLS, private CA, forward proxy): one to three minutes
	@demo/system-packages.sh system-packages-deploy.txt
	DEPLOY=1 $(RUN) -m pytest tests/deploy

test-install: $(VENV)/.dev-ready ## what install.md and operate.md tell, word by word in an empty Debian with systemd (as root; 3 GB; SUITE=trixie)
	@demo/system-packages.sh system-packages-install.txt
	INSTALL=1 SUITE=$(or $(SUITE),bookworm) $(RUN) -m pytest tests/install -x

test-ohif: $(VENV)/.dev-ready ## the tests in OHIF (a minute for each version of it; OHIF=3.13.2 for one only)
	@demo/system-packages.sh demo/system-packages-ohif.txt
	OHIF=$(or $(OHIF),all) $(RUN) -m pytest tests/browser/test_ohif.py

screenshots: $(VENV)/.dev-ready ## take the pictures of README and docs again, of a real run (look at them before they are kept)
	@demo/system-packages.sh demo/system-packages-ohif.txt
	$(RUN) -m tests.screenshots

lint: $(VENV)/.dev-ready ## formatting, rules, types, directions between the packages
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.dev-ready ## format the code
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

docs: $(VENV)/.dev-ready ## these pages as a site in build/docs, every warning an error
	$(VENV)/bin/pip install -q -c requirements/constraints.txt --no-build-isolation -e '.[docs]'
	$(VENV)/bin/sphinx-build -W --keep-going -q -b html docs build/docs
	@echo 'Open build/docs/index.html'

sbom: $(VENV)/.ready ## a CycloneDX bill of materials of the worker's environment in build/sbom.json
	$(PYTHON) -m venv $(VENV)-sbom
	$(VENV)-sbom/bin/pip install -q cyclonedx-bom==7.5.0
	@mkdir -p build
	$(VENV)-sbom/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --validate \
	    -o build/sbom.json $(RUN)
	@echo 'Written to build/sbom.json'

bench-core: $(VENV)/.ready ## time tissue, patches, CLAM and heatmaps (last line: JSON)
	$(RUN) bench/bench_core.py

bench-queue: $(VENV)/.dev-ready ## time the queue of a real Orthanc (last line: JSON)
	$(RUN) bench/bench_queue.py

bench-scale: $(VENV)/.dev-ready ## 100 workers and 100,000 requests against the queue's real code (10 minutes; last line: JSON)
	$(RUN) bench/bench_scale.py --plots build

bench-slides: $(VENV)/.dev-ready ## time tiles out of Orthanc beside local files and over a line (about 5 minutes; last line: JSON)
	$(RUN) bench/bench_slides.py

bench-pipeline: $(VENV)/.dev-ready ## time a slide's way through the worker beside its encoder (about 15 minutes; ONLY="demo" for a part; last line: JSON)
	$(RUN) bench/bench_pipeline.py $(if $(ONLY),--only $(ONLY))

bench-gpu: $(VENV)/.dev-ready ## time encoders on a GPU in each precision, and how busy a queue keeps them (last line: JSON)
	$(RUN) bench/bench_gpu.py

train-demo: $(VENV)/.ready ## train the demonstration model and write its card (TILES=folder, SLIDES=folder, OUT=folder)
	$(RUN) -m clam_core.training.demo --tiles '$(TILES)' --out '$(OUT)' --cache '$(OUT).features' \
	    $(if $(wildcard $(SLIDES)),--slides '$(SLIDES)')
	@diff -u clam_core/demo_model/model.json '$(OUT)/model.json' \
	    && echo 'The package is the one in clam_core/demo_model.' \
	    || echo 'Above: where $(OUT) differs from clam_core/demo_model.'

train-demo-trials: $(VENV)/.ready ## measure what was tried for the demonstration model (half an hour; TILES=folder, TRIALS=file.json)
	$(RUN) -m clam_core.training.trials --tiles '$(TILES)' --out '$(TRIALS)' --cache '$(OUT).features'

install-worker-service: ## the worker as a systemd service (as root; NAME=lab names its settings; TORCH=..., EXTRAS=cpu)
	@PYTHON='$(PYTHON)' TORCH='$(TORCH)' EXTRAS='$(EXTRAS)' NAME='$(or $(NAME),lab)' docker/systemd/install-worker.sh

lock: ## write requirements/locked.txt anew from pyproject.toml and constraints.txt
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install -q pip-tools==7.6.2
	$(VENV)-lock/bin/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
	    --strip-extras --unsafe-package torch -c requirements/constraints.txt -o $(VENV)-lock/locked.txt pyproject.toml
	@{ sed -n '/^#/p;/^[^#]/q' requirements/locked.txt; sed '/^# WARNING/,$$d' $(VENV)-lock/locked.txt | grep -v '^#'; } \
	    > $(VENV)-lock/new && mv $(VENV)-lock/new requirements/locked.txt

setup: $(VENV)/.dev-ready ## everything that the other targets need

system: ## the Debian packages only
	@demo/system-packages.sh system-packages.txt

clean: ## remove the environment, the demo's data and the caches
	rm -rf $(VENV) .demo .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info

$(VENV)/.ready: system-packages.txt pyproject.toml requirements/constraints.txt requirements/locked.txt requirements/demo-encoder.txt
	@demo/system-packages.sh system-packages.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V). Name another: make PYTHON=python3.12 ..." >&2; exit 3; }
	@echo 'Fetching $(TORCH) and the other Python packages into $(VENV), once: minutes without a word from pip.'
	@echo 'The PyTorch for GPUs is more than 2 GB; the one without is smaller: see TORCH in the Makefile.'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --no-deps --require-hashes -r requirements/locked.txt -r requirements/demo-encoder.txt
	@mkdir -p $(VENV)/tmp # for PyTorch's gigabytes: Debian 13 has /tmp in memory
	TMPDIR='$(abspath $(VENV))/tmp' $(VENV)/bin/pip install -q -c requirements/constraints.txt $(TORCH)
	@rm -rf $(VENV)/tmp
	$(VENV)/bin/pip install -q --no-deps --no-build-isolation -e .
	@$(VENV)/bin/pip check
	@touch $@

$(VENV)/.dev-ready: $(VENV)/.ready system-packages-test.txt
	@demo/system-packages.sh system-packages-test.txt
	$(VENV)/bin/pip install -q -c requirements/constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@
