# `make help` lists the targets. Each sets up what it needs in .venv, once.

SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.keytoll-set-up
PROTOS := protos/keytoll/envoy/messages
MESSAGES := src/keytoll/envoy/messages

# From outside they would mix other modules into the environment that is set up here.
unexport PYTHONPATH PYTHONHOME

.PHONY: help run test browser check format protos load replicas soak real-backends bench deploy-check clean FORCE
.DEFAULT_GOAL := help

help: ## List the targets
	@echo 'make TARGET, where TARGET is'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'Variables of make run: DATA_PORT (8080), MANAGEMENT_PORT (8081), METRICS_PORT (9090), BACKEND_PORT (8082, as'
	@echo '  in the catalog), RUN_DIR (run), CATALOG (keytoll.yaml). PYTHON names the Python to set up with (3.11 or newer).'

run: $(STAMP) ## Start Envoy, Keytoll and a demo backend; Ctrl-C stops them
	@exec $(BIN)/python -m keytoll.demo

test: $(STAMP) browser ## Run every test
	@$(BIN)/python -m pytest

# The console is tested in the system's Chromium.
browser:
	@for name in chromium chromium-browser google-chrome; do \
	  if command -v $$name >/dev/null; then exit 0; fi; \
	done; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
	  echo 'Chromium is missing, for the tests of the console: install it (on Debian: apt install chromium)' >&2; exit 1; fi; \
	echo 'Installing Chromium, for the tests of the console …'; \
	apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium >/dev/null

check: $(STAMP) ## Check format, lint, types, import direction and generated code
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(call generate,$$fresh) && \
	diff -r -x __init__.py -x __pycache__ $(BUT_VERSIONS) "$$fresh/keytoll/envoy/messages" $(MESSAGES) \
	  || { echo '$(MESSAGES) is not what $(PROTOS) gives: run make protos'; exit 1; }

format: $(STAMP) ## Format the code, and fix what ruff can
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

protos: $(STAMP) ## Generate the messages from protos/
	$(call generate,src)

load: $(STAMP) ## Put all of it under load, kill its parts, and audit the ledger (four minutes; root for one case)
	@cd tests && ../$(BIN)/python -m load

soak: $(STAMP) ## Mixed requests at half of the highest rate, then memory and an audit (ten minutes; MINUTES=N)
	@cd tests && ../$(BIN)/python -m load.soak $(MINUTES)

replicas: $(STAMP) ## Prove what replicas promise, while they are killed, cut off and slowed down (half an hour; PART=NAME for one part)
	@cd tests && ../$(BIN)/python -m replicas $(PART)

real-backends: $(STAMP) ## Compare the ledger with real backends (installs over a gigabyte once; needs node and npm)
	@cd tests && ../$(BIN)/python -m real_backends

bench: $(STAMP) ## Measure what Keytoll costs beside Envoy (eight minutes; PART=NAME for one part)
	@$(BIN)/python -m bench $(PART)

deploy-check: $(BIN)/promtool .venv/.keytoll-deploy ## Check deploy/ by hadolint, kubectl, Kubernetes' schemas and Prometheus (Debian, or one on the PATH)
	@$(BIN)/python -m pytest tests/deploy/check_*.py

clean: ## Remove what was made here, .venv too
	@if [ -e run/stack.lock ] && ! flock --nonblock run/stack.lock true; then \
	  echo 'make run is still running: stop it first' >&2; exit 1; fi
	rm -rf .venv run dist .real-backends .bench .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Another release of the compiler writes its own version into the code, and else the same.
BUT_VERSIONS := -I '^\# Protobuf Python Version' -I '^    [0-9]*,$$'

generate = $(BIN)/python -m grpc_tools.protoc -I protos --python_out=$(1) --pyi_out=$(1) $(PROTOS)/*.proto

# Whether .venv was made here, and its Python is there still: one that was moved or copied looks up to date by its time.
SOUND := grep -qsF '$(CURDIR)/.venv/bin' $(BIN)/pip && $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null

ifneq ($(shell $(SOUND) && echo sound),sound)
$(STAMP): FORCE
endif

$(STAMP): pyproject.toml
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python none; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; \
	done; \
	if [ "$$python" = none ]; then \
	  echo 'Python 3.11 or newer is missing: install it, or name it by make PYTHON=…' >&2; exit 1; fi; \
	if ! "$$python" -c 'import venv, ensurepip' 2>/dev/null; then \
	  echo "$$python can't make virtual environments: install its venv module (on Debian: apt install python3-venv)" >&2; exit 1; fi; \
	echo "Setting up .venv with $$("$$python" --version); the first time takes a minute …"; \
	if ! { $(SOUND); }; then "$$python" -m venv --clear .venv; fi && \
	$(PIP) --upgrade 'pip>=25.1' && $(PIP) --editable . --group dev && touch $@

PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet

.venv/.keytoll-deploy: $(STAMP)
	@$(PIP) --group deploy && touch $@

# Debian's package has both binaries; they are taken out of it, so that nothing is installed on the machine.
$(BIN)/promtool: | $(STAMP)
	@if promtool=$$(command -v promtool) && prometheus=$$(command -v prometheus); then \
	  ln -sf "$$promtool" "$$prometheus" $(BIN)/; exit; fi; \
	fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && cd "$$fresh" && \
	{ $(APT_DOWNLOAD) 2>/dev/null || { apt-get -qq update && $(APT_DOWNLOAD); }; } && dpkg -x prometheus_*.deb . && \
	mv usr/bin/prometheus usr/bin/promtool $(CURDIR)/$(BIN)/ \
	  || { echo 'Prometheus is missing: put prometheus and promtool on the PATH' >&2; exit 1; }

APT_DOWNLOAD = apt-get -qq -o APT::Sandbox::User=root download prometheus

FORCE:
