# Every target makes what it needs: a fresh clone with Python 3.11 or newer, make and pip is enough.
# What the tests additionally drive (mosquitto, curl, kcat, Node and Java clients, nats-server) comes by `make clients` and, on Debian, .ci/run.

PYTHON  ?= python3
VENV    := .venv
PY      := $(VENV)/bin/python
STAMP   := $(VENV)/.installed
NODE    := tests/clients/node
NODE_OK := $(NODE)/node_modules/.package-lock.json
JAVA    := tests/clients/java
JAVA_OK := .clients/java/.installed
NATS    := .clients/bin/nats-server
NATS_VERSION := v2.15.2
GMQTT   := .clients/gmqtt/tests/test_mqtt5.py
GMQTT_VERSION := 0.8.0
ARGS    ?=

.DEFAULT_GOAL := help
.PHONY: help demo test check bench build interop clients format clean

help: ## what each target does
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | \
		while IFS="$$(printf '\t')" read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done
	@echo "  ARGS=... is handed on, as in: make test ARGS='tests/routing -x'"

demo: $(STAMP) ## starts a mesh and plays the story with real clients, each in its own process
	@$(PY) -m tests.demo.demo $(ARGS)

test: $(STAMP) ## the whole test suite, a file in one of two processes; a foreign client that is absent is skipped with the command that installs it
	$(PY) -m pytest -n 2 --dist loadfile $(ARGS)

check: $(STAMP) ## formatting, lint, types and the house rules, in under a minute
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest -q tests/house -m "not slow"

bench: $(STAMP) ## throughput and latency of us and of mosquitto and nats-server, in the same run
	@$(PY) -m bench $(ARGS)

build: $(STAMP) ## compiles the hot modules in place (mypyc; needs a C compiler); ARGS=--clean takes that back
	@$(PY) -m dragoman.build $(ARGS)

interop: $(STAMP) ## aims a foreign MQTT conformance suite at us: make interop SUITE=path/to/its/checkout
	@test -n "$(SUITE)" || { echo "name the checkout of a suite: make interop SUITE=path; docs/mqtt-conformance.md lists those known"; exit 2; }
	@$(PY) -m tests.interop "$(SUITE)" $(ARGS)

clients: $(NODE_OK) $(GMQTT) ## installs the foreign clients that are not Debian packages: from npm, PyPI, Maven and Go
	@if command -v mvn >/dev/null; then $(MAKE) --no-print-directory $(JAVA_OK); else echo "no mvn: no Java clients"; fi
	@if command -v go >/dev/null; then $(MAKE) --no-print-directory $(NATS); else echo "no go: nats-server not built"; fi

format: $(STAMP) ## lays out the code and mends what lint can mend
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

clean: ## removes what the other targets made
	rm -rf $(VENV) .clients $(NODE)/node_modules build dist dragoman.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Dragoman needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(NODE_OK): $(NODE)/package.json $(NODE)/package-lock.json
	npm ci --prefix $(NODE) --no-audit --no-fund
	@touch $@

$(JAVA_OK): $(JAVA)/pom.xml
	rm -rf $(@D)
	mvn -q -B -f $< org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/$(@D)
	@touch $@

# The source distribution, for the tests that are in it.
$(GMQTT): | $(STAMP)
	$(PY) -m pip download --quiet --disable-pip-version-check --no-deps --no-binary gmqtt --dest .clients gmqtt==$(GMQTT_VERSION)
	mkdir -p .clients/gmqtt
	tar -xzmf .clients/gmqtt-$(GMQTT_VERSION).tar.gz --strip-components=1 -C .clients/gmqtt

$(NATS):
	GOBIN=$(CURDIR)/.clients/bin go install github.com/nats-io/nats-server/v2@$(NATS_VERSION)
