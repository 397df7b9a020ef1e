"""A part that does not work is named to everybody, and explained in the log alone."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from structlog.testing import capture_logs

from app.errors import StorageError
from app.services.readiness import Readiness


class _Parts:
    """A bucket that is not there, beside a broker that answers and no database at all."""

    database = property(lambda _: 1 / 0)

    @property
    def doorbell(self) -> Any:
        return self

    @property
    def store(self) -> Any:
        return type("Store", (), {"check": staticmethod(self._refuse)})

    def check(self) -> None:
        pass

    @staticmethod
    def _refuse() -> None:
        raise StorageError("NoSuchBucket: espalier")


def test_why_a_part_does_not_work_is_in_the_log_and_not_in_the_answer() -> None:
    readiness = Readiness(cast("Any", _Parts()))
    with capture_logs() as logged:
        problems = asyncio.run(readiness.problems())
    readiness.close()
    assert {problem.code for problem in problems} == {"database", "store"}
    assert "NoSuchBucket" not in "".join(problem.detail for problem in problems)
    assert {entry["part"]: entry["detail"] for entry in logged} == {
        "database": "division by zero", "store": "NoSuchBucket: espalier",
    }  # fmt: skip
