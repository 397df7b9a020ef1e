"""A part that does not work is named to everybody, and explained in the log alone."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from app.errors import StorageError
from app.main import create_app
from app.services.readiness import Readiness
from app.settings import Settings


class _Parts:
    """A bucket that is not there, beside a broker that answers and no database at all."""

    settings = Settings(mode="production", database_url="postgresql://db/x", broker_url="redis://r", store_url="s3://b")
    database = property(lambda _: 1 / 0)

    @property
    def notifier(self) -> Any:
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
        "database": "division by zero",
        "store": "NoSuchBucket: espalier",
    }


ROOM = {"f_frsize": 4096, "f_bavail": 2**30, "f_files": 1000, "f_favail": 10, "f_flag": 0}
FULL: dict[str, tuple[dict[str, dict[str, int]], str]] = {
    "a full disk": ({"home": {"f_bavail": 0}}, "0 MiB are left for cache and scratch and wake-up signals and store"),
    "a full disk for the database": ({"data": {"f_bavail": 3 * 2**8}}, "3 MiB are left for database"),
    "no inodes": ({"home/cache": {"f_favail": 0}}, "no further file can be made for cache"),
    "mounted to be read": ({"home/store": {"f_flag": os.ST_RDONLY}}, "nothing can be written for store"),
    "two at once": (
        {"home/cache": {"f_bavail": 1}, "data": {"f_favail": 0}},
        "0 MiB are left for cache; no further file can be made for database",
    ),
    "a file system that counts no files": ({"home": {"f_files": 0, "f_favail": 0}}, ""),
}


@pytest.mark.parametrize(("disks", "reason"), FULL.values(), ids=FULL)
def test_a_disk_that_takes_nothing_more_is_told_without_a_path(
    disks: dict[str, dict[str, int]], reason: str, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "espalier.db").rename(tmp_path / "data/espalier.db")
    database = sqlite_url.replace("espalier.db", "data/espalier.db")
    settings = Settings(home=tmp_path / "home", database_url=database, cache_dir=tmp_path / "home/cache/models")

    def statvfs(path: Path) -> SimpleNamespace:
        assert path.exists()
        mounted = [disk for name, disk in disks.items() if path.is_relative_to(tmp_path / name)]
        return SimpleNamespace(**ROOM | (mounted[0] if mounted else {}))

    with TestClient(create_app(settings)) as client:
        (tmp_path / "home/cache").mkdir()  # a worker makes the folder inside of it
        monkeypatch.setattr(os, "statvfs", statvfs)
        answer = client.get("/readyz")
    if not reason:
        assert answer.json()["checks"] == dict.fromkeys(("database", "broker", "store", "disk"), "ok")
        return
    assert answer.status_code == 503
    (problem,) = answer.json()["errors"]
    assert (problem["code"], problem["detail"]) == ("disk", f"The disk is not usable: {reason}.")


def test_only_disks_that_the_process_writes_to_are_looked_at() -> None:
    readiness = Readiness(cast("Any", _Parts()))
    assert "disk" not in readiness.parts
    readiness.close()
