"""A production set of services on this machine, without torch: API processes, null workers, Postgres and Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.load.stack import Stack


@pytest.fixture
def stack(tmp_path: Path, postgres_url: str, redis_url: str) -> Iterator[Stack]:
    """The stack over a fresh Postgres and an empty Redis."""
    url = postgres_url.replace("postgresql://", "postgresql+psycopg://", 1)
    stack = Stack(tmp_path / "home", url, redis_url)
    yield stack
    stack.database.dispose()
