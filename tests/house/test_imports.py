"""The directions of the house hold, nothing imports itself by way of others, and the service never loads torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.graph import PRODUCT, ROOT, between_children, cycle, files, imports

HEAVY = ("torch", "transformers", "accelerate", "tokenizers")
PACKAGES = ["", *sorted(".".join(path.parent.parts) for path in files(*PRODUCT) if path.name == "__init__.py")]
""""": the three bodies."""


@pytest.mark.parametrize("module", ["app.main", "app.cli.main", "workers.main", "workers.fetcher"])
def test_the_service_and_the_supervisor_never_load_torch(module: str) -> None:
    code = f"import {module}, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_file_imports_itself_by_way_of_others() -> None:
    assert cycle(imports()) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_imports_itself_by_way_of_its_neighbours(package: str) -> None:
    assert cycle(between_children(package, imports())) == []
