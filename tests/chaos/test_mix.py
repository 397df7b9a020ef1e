"""Many jobs under every fault at once, seeded: none lost, none doubled, none corrupt, on both sets of services.

ESPALIER_CHAOS_JOBS (100) and ESPALIER_CHAOS_SEED make one part of the table's row; 1,000 jobs are four parts of 250.
ESPALIER_CHAOS_SECONDS is the time budget of a part.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from app.db.migrate import run_migrations
from app.storage.s3 import S3Store
from tests.chaos.arena import Arena
from tests.chaos.pruned import pruning, undisturbed
from tests.chaos.s3_proxy import MOODS, S3Proxy
from tests.fixtures.servers.killable import Postgres
from tests.fixtures.servers.services import BUCKET, new_postgres_database
from tests.fixtures.suite.figures import load, record
from tests.fixtures.workers.results import model
from tests.fixtures.workers.runs import Bench

JOBS = int(os.environ.get("ESPALIER_CHAOS_JOBS", "100"))
SEED = int(os.environ.get("ESPALIER_CHAOS_SEED", "0"))
SECONDS = float(os.environ.get("ESPALIER_CHAOS_SECONDS", "900"))
WORKERS = 4
EVERY_SECONDS = 0.5
FETCH_KILLS = {"fetcher killed", "worker killed while it fetched"}
KILLS = {"child killed", "worker killed", "Postgres killed", *FETCH_KILLS}
ATTEMPTS = 1000

pytestmark = pytest.mark.timeout(2 * SECONDS)


def fight(arena: Arena, faults: list[Callable[[], None]], case: str, folder: Path) -> None:
    """Nine jobs of ten follow a script, one in thirty of those runs out of memory once; every tenth prunes."""
    bench, request = arena.bench, pruning(folder)
    arena.environment["ESPALIER_LOCAL_ROOTS"] = str(folder)
    pruned, scripted = undisturbed(bench, request, folder), model(6)
    expected = {}
    for number in range(JOBS):
        if number % 10 == 0:
            expected[bench.add("tiny", request=request, max_attempts=ATTEMPTS)] = pruned
        else:
            script = "hungry-under-fire" if number % 30 == 1 else "under-fire"
            expected[bench.add(script, max_attempts=ATTEMPTS)] = scripted
    with arena.open(WORKERS):
        seconds = arena.rage(faults, count=JOBS * 2 // 3, every=EVERY_SECONDS, seconds=SECONDS)
    lost = arena.verdict(expected, attempts=ATTEMPTS)
    kills = sum(count for what, count in arena.faults.items() if what in KILLS)
    fetches = sum(arena.faults[what] for what in FETCH_KILLS)
    assert fetches, "no fault befell a fetch"
    record(
        "chaos",
        f"jobs, a tenth of them real prunings, under a mix of faults; {case}",
        "1,000 jobs, >= 200 kills; 0 lost, 0 doubled, 0 corrupt",
        "{jobs:.0f} jobs ({real:.0f} real), {kills:.0f} kills ({fetches:.0f} of them of fetches), "
        "{zombies:.0f} zombies, {drained:.0f} drained, "
        "{others:.0f} other faults, {lost:.0f} attempts lost and made up for; 0 lost, 0 doubled, 0 corrupt; "
        "{seconds:.0f} s, {parts} parts by seed",
        part=f"seed {SEED}, {JOBS} jobs",
        jobs=JOBS,
        real=len(range(0, JOBS, 10)),
        kills=kills,
        fetches=fetches,
        zombies=arena.faults["zombie"],
        drained=arena.faults["worker drained"],
        lost=lost,
        seconds=seconds,
        others=arena.faults.total() - kills - arena.faults["zombie"] - arena.faults["worker drained"],
    )


def test_a_mix_of_faults_on_sqlite_and_folders(sqlite_url: str, tmp_path: Path) -> None:
    bench = Bench(sqlite_url, tmp_path)
    arena = Arena(bench, seed=SEED, environment={})
    kills = [arena.kill_child, arena.strike_fetch, arena.kill_worker]
    faults = [*kills, arena.stop_worker, arena.drain_worker]
    fight(arena, faults, "SQLite + folders", tmp_path)
    bench.database.dispose()


@pytest.fixture
def production(
    killable_postgres: Postgres, clock_shim: dict[str, str], redis_url: str, s3_server: str, tmp_path: Path
) -> Iterator[tuple[Arena, S3Proxy]]:
    """An arena over Postgres, Redis and an S3 server that misbehaves when told to."""
    with S3Proxy(s3_server, SEED).listening() as proxy, new_postgres_database(killable_postgres.url) as made:
        url = made.replace("postgresql://", "postgresql+psycopg://", 1)
        run_migrations(url)
        prefix = f"c-{uuid.uuid4().hex[:12]}"
        store = S3Store(BUCKET, prefix, endpoint_url=s3_server)
        with contextlib.suppress(Exception):
            store.client.create_bucket(Bucket=BUCKET)
        environment = {
            "ESPALIER_BROKER_URL": redis_url,
            "ESPALIER_STORE_URL": f"s3://{BUCKET}/{prefix}",
            "ESPALIER_S3_ENDPOINT_URL": proxy.url,
        }
        bench = Bench(url, tmp_path)
        arena = Arena(bench, seed=SEED, environment=environment, store=store)
        arena.shim = clock_shim
        yield arena, proxy
        bench.database.dispose()


def test_a_mix_of_faults_on_postgres_redis_and_s3(
    production: tuple[Arena, S3Proxy], killable_postgres: Postgres, redis_url: str, tmp_path: Path
) -> None:
    arena, proxy = production

    def flush_redis() -> None:
        with contextlib.closing(Redis.from_url(redis_url)) as client:
            client.flushall()
        arena.faults["Redis flushed"] += 1

    def kill_postgres() -> None:
        if arena.random.random() > 0.2:
            return
        killable_postgres.kill()
        arena.faults["Postgres killed"] += 1
        time.sleep(arena.random.uniform(0.2, 3))
        killable_postgres.start()

    def s3_fault() -> None:
        proxy.mood = arena.random.choice(MOODS)
        arena.faults["S3 mood"] += 1

    kills = [arena.kill_child, arena.kill_child, arena.strike_fetch, arena.kill_worker]
    faults = [*kills, arena.stop_worker, arena.drain_worker, flush_redis, s3_fault, kill_postgres]
    fight(arena, faults, "Postgres + Redis + S3, clocks an hour off", tmp_path)
    assert proxy.faults.total() > 0
    record(
        "fault",
        "S3 answers spoiled within that mix",
        "typed errors, budget respected",
        "{errors:.0f} errors, {slow:.0f} slow, {cut:.0f} cut, {wrong:.0f} wrong; " + load(),
        part=f"seed {SEED}, {JOBS} jobs",
        **{mood: proxy.faults[mood] for mood in MOODS if mood != "good"},
    )
