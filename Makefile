# Two commands do everything: `make demo` and `make test`. Everything else is a part of them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where pip would fetch a CUDA build for a machine without a GPU: TORCH_INDEX_URL=<PyTorch's CPU index> make setup
PIP_TORCH := $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL),)

.PHONY: setup demo serve test chaos load numbers check lint types contracts bench results clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_TORCH) -c constraints.txt -e '.[worker,test]'
	touch $@

demo: setup
	$(BIN)/espalier demo

serve: setup
	$(BIN)/espalier serve

test: setup
	REQUIRE_SERVICES=1 $(BIN)/python -m pytest

# The slow proofs, which `make test` leaves out and counts.
chaos load numbers: setup
	REQUIRE_SERVICES=1 $(BIN)/python -m pytest -m $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy app workers tests

contracts: setup
	$(BIN)/lint-imports

check: lint types contracts

bench: setup
	$(BIN)/python -m tests.bench

# Tables of numbers through the API; rows that results/ holds already are not measured again.
results: setup
	$(BIN)/python -m tests.results methods
	$(BIN)/python -m tests.results recovery
	$(BIN)/python -m tests.results structure

clean:
	rm -rf $(VENV) .espalier .demo demo-output
