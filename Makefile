# Two commands do everything: `make demo` and `make test`. Everything else is a part of them.
PYTHON ?= python3
PROCESSES ?= $(shell $(PYTHON) -c "import os; print(min(4, (os.cpu_count() or 1) + 2))")
VENV := .venv
BIN := $(VENV)/bin
# Where pip would fetch a CUDA build for a machine without a GPU: TORCH_INDEX_URL=<PyTorch's CPU index> make setup
PIP_TORCH := $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL),)

.PHONY: setup demo serve dist test chaos deep load numbers standin distributed registry browser screenshots check lint types contracts bench gpu results docs families families-table clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml library/pyproject.toml constraints.txt
	@echo 'setting up $(VENV): some minutes and about 2 GB, the first time'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip uninstall --quiet --yes espalier 2>/dev/null # what this distribution was called before: it owns the command
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_TORCH) -c constraints.txt -e ./library -e '.[worker,test]'
	touch $@

demo: setup
	$(BIN)/espalier demo

serve: setup
	$(BIN)/espalier serve

# Both distributions, as wheels; what an earlier build left behind would be packed again.
dist: setup
	rm -rf build library/build dist
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist ./library .

# Each process has its own Postgres, Redis and S3, and often waits for them: two more than there are cores, 4 at most.
test: setup
	REQUIRE_SERVICES=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist worksteal

# The slow proofs, which `make test` leaves out and counts; of `deep` it runs a fixed tenth.
chaos deep load numbers: setup
	REQUIRE_SERVICES=1 $(BIN)/python -m pytest -m $@

# The engine on a pretend accelerator: every word of a spec, and what each phase would cost on a card.
standin: setup
	$(BIN)/python -m pytest -m "deep or not deep" -n $(PROCESSES) tests/standin

# Jobs that several processes compute together, over gloo: what several cards do over NCCL.
distributed: setup
	$(BIN)/python -m pytest -m "deep or not deep" -n $(PROCESSES) tests/distributed

# The portal in Debian's chromium, which is installed where it is missing and may be; else the tests are skipped, and say so.
browser: setup $(VENV)/.browser
	REQUIRE_SERVICES=1 $(BIN)/python -m pytest -m browser tests/browser

screenshots: setup $(VENV)/.browser
	$(BIN)/python -m tests.browser.screenshots

$(VENV)/.browser: pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	command -v chromium >/dev/null || apt-get install -y chromium || echo 'no chromium, and it could not be installed'
	touch $@

# Every stock decoder: what works and what is refused and why, and a whole job on a tiny model of each that works.
families: setup
	$(BIN)/python -m tests.families list
	$(BIN)/python -m pytest -m "deep or not deep" -n $(PROCESSES) tests/contracts/test_every_stock_decoder.py

# The table of stock decoders, and docs/families.md, anew from the installed transformers.
families-table: setup
	$(BIN)/python -m tests.espalier.probe.stock_types
	$(BIN)/python -m tests.families write

# Against a real MLflow server, from a Python of its own.
registry: setup .venv-mlflow/.installed
	REQUIRE_SERVICES=1 $(BIN)/python -m pytest -m $@

.venv-mlflow/.installed: tests/registry/requirements.txt
	test -x .venv-mlflow/bin/python || $(PYTHON) -m venv .venv-mlflow
	.venv-mlflow/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy app espalier workers tests

contracts: setup
	$(BIN)/lint-imports

check: lint types contracts

bench: setup
	$(BIN)/python -m tests.bench

# The proof on a card, in seven minutes at most. It sets nothing up: on a rented machine there is a torch already.
gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,python3) -m tests.gpu

# Tables of numbers through the API; rows that results/ holds already are not measured again.
results: setup
	$(BIN)/python -m tests.results methods
	$(BIN)/python -m tests.results recovery
	$(BIN)/python -m tests.results structure

# The site of the documents, in build/site. A link that leads nowhere fails it.
docs: setup $(VENV)/.docs
	rm -rf build/pages && mkdir -p build/pages
	ln -s $(CURDIR)/LICENSE $(CURDIR)/*.md $(CURDIR)/docs $(CURDIR)/results build/pages/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict # not --quiet: then warnings would not count

$(VENV)/.docs: pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .venv-mlflow .espalier .demo demo-output build library/build dist
