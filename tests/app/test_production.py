"""Production starts with nothing that is only safe on one machine, and commands fail with a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _run(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ESPALIER_")}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        cwd="/",
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("module", ["workers.main", "workers.reconciler", "app.services.bootstrap"])
def test_no_process_of_production_starts_with_what_is_only_safe_on_one_machine(module: str, tmp_path: Path) -> None:
    refused = _run(module, ESPALIER_MODE="production", ESPALIER_HOME=str(tmp_path))
    assert refused.returncode == 1
    last_line = refused.stderr.splitlines()[-1]
    assert last_line.startswith("production does not start: ")
    assert all(name in last_line for name in ("PEPPER", "CREDENTIALS_KEY", "DATABASE_URL", "STORE_URL"))


def test_a_key_of_a_database_without_tables_is_refused_with_the_way_out(tmp_path: Path) -> None:
    refused = _run("app.services.bootstrap", ESPALIER_DATABASE_URL=f"sqlite:///{tmp_path / 'empty.db'}")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "The database is not of this version: run `espalier migrate` first.\n"


def test_a_database_that_does_not_answer_is_named_without_a_trace() -> None:
    nowhere = "postgresql+psycopg://user:secret@127.0.0.1:1/espalier"
    for module in ("app.db.migrate", "app.services.bootstrap"):
        refused = _run(module, ESPALIER_DATABASE_URL=nowhere)
        assert refused.returncode == 1
        assert refused.stderr.startswith("The database does not answer: ")
        assert not {"secret", "Traceback"} & set(refused.stderr.replace(":", " ").split())
