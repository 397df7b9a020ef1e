"""A bench per kind of database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.workers.cards import nvidia_smi
from tests.fixtures.workers.runs import Bench

__all__ = ["bench", "nvidia_smi", "sqlite_bench"]


@pytest.fixture
def bench(database_url: str, tmp_path: Path) -> Iterator[Bench]:
    """Slots, jobs and a store on a fresh database, once per kind of database."""
    bench = Bench(database_url, tmp_path)
    yield bench
    bench.database.dispose()


@pytest.fixture
def sqlite_bench(sqlite_url: str, tmp_path: Path) -> Iterator[Bench]:
    """The same on SQLite alone, where the database makes no difference."""
    bench = Bench(sqlite_url, tmp_path)
    yield bench
    bench.database.dispose()
