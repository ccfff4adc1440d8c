# Everything here needs Python 3.10+ and make; `make test` fetches the rest, and as root on Debian the servers too.
# Another interpreter: make test PYTHON=python3.13      CI=true: what is missing fails instead of being skipped.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ENVIRONMENT = sh tools/environment $(PYTHON)
# A choice of tests: make test TESTS=tests/servers/test_matrix.py; one after the other: JOBS=0
TESTS ?=
JOBS ?= 3
ARGS ?=

.PHONY: help demo test test-all lint soak coverage bench storm docs dist clean \
        system environments built-servers other-environments

help:
	@echo "make demo      the embedded broker, gunicorn, an example API: seen working in half a minute"
	@echo "make test      all tests, on real servers and a real RabbitMQ    (TESTS=path ARGS=-x); what fails is tried again"
	@echo "make test-all  unit and broker tests under every Python found here"
	@echo "make lint      ruff and mypy --strict"
	@echo "make soak      the tests that take minutes"
	@echo "make coverage  branch coverage; 100 % is asked of the pure modules"
	@echo "make bench     every row of the table of measurements, beside its peers    (ARGS=--quick for a minute)"
	@echo "make storm     10,000 workers reconnect after a loss, in virtual time: build/storm   (ARGS='--workers 1000')"
	@echo "make docs      the documentation in build/docs, with what make bench has measured"
	@echo "make dist      sdist and wheel in dist/"

demo:
	@$(ENVIRONMENT) $(VENV) demo -e '.[gunicorn]'
	@$(BIN)/python -m examples.demo

test: environments
	@sh tools/test $(BIN)/python -m "not soak" -n $(JOBS) $(ARGS) $(TESTS)

test-all: system
	@sh tools/test-all -n $(JOBS) tests/unit tests/broker tests/test_layers.py

soak: environments
	$(BIN)/python -m pytest -m soak -o timeout=3600 $(ARGS) $(TESTS)

lint:
	@$(ENVIRONMENT) $(VENV) lint -e '.[lint]'
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

coverage:
	@$(ENVIRONMENT) $(VENV) test -e '.[test]'
	$(BIN)/python -m coverage run -m pytest -m "not soak" -q tests/unit tests/broker
	$(BIN)/python -m coverage report

# Python 3.11 or so: the peers are compiled for it. The broker is the one of the tests.
bench: system
	@$(ENVIRONMENT) .venv-bench bench -e . -r benchmarks/requirements.txt
	.venv-bench/bin/python -m benchmarks --output build/bench $(ARGS)

storm:
	@$(ENVIRONMENT) .venv-bench storm -e . matplotlib
	.venv-bench/bin/python -m benchmarks.storm --output build/storm $(ARGS)

docs:
	@$(ENVIRONMENT) .venv-docs docs -e '.[docs]'
	.venv-docs/bin/python -m sphinx -W -n --keep-going docs build/docs

dist:
	@$(ENVIRONMENT) $(VENV) dist build
	rm -rf build dist
	$(BIN)/python -m build --outdir dist .

system:
	@sh tools/system-packages

# The servers that cannot share an environment have one each: gunicorn dropped its eventlet worker in 26; Debian's
# thread-less uWSGI runs the system's Python, and so does an Apache that may not read the interpreter of the user who
# runs the tests (root's pyenv). Two at once, but the first: two editable installs would write the same files.
environments: system
	@$(ENVIRONMENT) $(VENV) test -e '.[test,gunicorn,werkzeug,gevent]' eventlet
	@$(MAKE) --no-print-directory -j 2 built-servers other-environments

# Built here and not taken from pip's cache: a wheel of the same version may be linked to another interpreter.
built-servers:
	@$(ENVIRONMENT) $(VENV) uwsgi --optional --no-cache-dir --no-binary uWSGI uWSGI
	@$(ENVIRONMENT) $(VENV) mod_wsgi --optional --no-cache-dir --no-binary mod_wsgi mod_wsgi

other-environments:
	@$(ENVIRONMENT) .venv-eventlet eventlet 'gunicorn>=25,<26' eventlet -e .
	@$(ENVIRONMENT) .venv-oslo oslo -e '.[oslo]' oslotest testscenarios testtools requests
	@$(ENVIRONMENT) .venv-docs docs -e '.[docs]'
	@if [ -x /usr/bin/uwsgi-core ]; then \
	    sh tools/environment /usr/bin/python3 .venv-debian debian -e . gevent eventlet && \
	    sh tools/environment /usr/bin/python3 .venv-debian mod_wsgi --optional --no-cache-dir --no-binary mod_wsgi mod_wsgi; fi

clean:
	rm -rf build dist *.egg-info .venv .venv-* .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
