# make demo: the pipeline on the embedded model and data. make test: all tests. Both set up .venv first.
.PHONY: setup demo test test-fast check lock clean

export PREFECT_SERVER_ANALYTICS_ENABLED ?= false

setup: .venv/.ready

.venv/.ready: pyproject.toml requirements/cpu.txt requirements/gpu.txt scripts/setup.sh
	scripts/setup.sh

demo: setup
	.venv/bin/equipoise demo

# a process per core with one thread each, since most of the time goes into starting things; a file's tests stay together
test: export OMP_NUM_THREADS ?= 1
test: setup
	.venv/bin/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-fast: setup
	.venv/bin/python -m pytest -m "not slow"

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# newest versions that pyproject.toml allows; no index addresses in the result
LOCK = .venv/bin/uv --quiet pip compile pyproject.toml --universal --upgrade --python-version 3.11 --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links --overrides requirements/overrides.txt --extra ray --extra dev
lock: setup
	$(LOCK) --extra cpu --torch-backend cpu --output-file requirements/cpu.txt
	$(LOCK) --extra gpu --output-file requirements/gpu.txt

clean:
	rm -rf .venv .equipoise
