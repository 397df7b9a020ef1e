"""An S3 server that errs, dawdles, cuts answers and changes bytes under running workers: nothing is lost or spoiled."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from app.db.job import Attempt, Job
from app.storage.s3 import S3Store
from tests.chaos.arena import Arena
from tests.chaos.s3_proxy import MOODS, Mood, S3Proxy
from tests.fixtures.servers.services import BUCKET
from tests.fixtures.suite.figures import record
from tests.fixtures.workers.results import model
from tests.fixtures.workers.runs import Bench

SEED, JOBS, WORKERS = 20261124, 12, 2


@pytest.fixture
def arena(sqlite_url: str, s3_server: str, tmp_path: Path) -> Iterator[tuple[Arena, S3Proxy]]:
    """Workers whose store lies behind the proxy; what is verified is read past it."""
    with S3Proxy(s3_server, SEED).listening() as proxy:
        prefix = f"b-{uuid.uuid4().hex[:12]}"
        store = S3Store(BUCKET, prefix, endpoint_url=s3_server)
        with contextlib.suppress(Exception):
            store.client.create_bucket(Bucket=BUCKET)
        environment = {"ESPALIER_STORE_URL": f"s3://{BUCKET}/{prefix}", "ESPALIER_S3_ENDPOINT_URL": proxy.url}
        bench = Bench(sqlite_url, tmp_path)
        yield Arena(bench, seed=SEED, environment=environment, store=store), proxy
        bench.database.dispose()


def errors(bench: Bench) -> Counter[str]:
    """Classes of the errors that ended attempts."""
    with bench.database.reading() as session:
        return Counter(error["class"] for error in session.scalars(select(Attempt.error)) if error)


@pytest.mark.parametrize("mood", [mood for mood in MOODS if mood != "good"])
def test_a_third_of_the_answers_may_be_bad(arena: tuple[Arena, S3Proxy], mood: Mood) -> None:
    workers, proxy = arena
    expected = {workers.bench.add("under-fire"): model(6) for _ in range(JOBS)}
    proxy.mood = mood
    with workers.open(WORKERS):
        seconds = workers.rage([], count=0, every=0.3, seconds=240)
    proxy.mood = "good"
    workers.verdict(expected)
    classes = errors(workers.bench)
    assert proxy.faults[mood] > 0
    assert set(classes) <= {"storage"}
    record(
        "fault",
        f"S3: {mood} in 30 % of the answers",
        "0 lost, typed errors, budget respected",
        f"{JOBS} of {JOBS} jobs succeeded with their bytes in {seconds:.0f} s; {proxy.faults[mood]} answers spoiled, "
        f"{classes['storage']} attempts ended with `storage`",
    )


def test_s3_may_be_away_altogether(arena: tuple[Arena, S3Proxy]) -> None:
    workers, proxy = arena
    bench = workers.bench
    expected = {bench.add("under-fire"): model(6) for _ in range(4)}
    proxy.mood, proxy.share = "errors", 1.0
    with workers.open(WORKERS):
        deadline = time.monotonic() + 90
        while errors(bench)["storage"] < len(expected):
            assert time.monotonic() < deadline, errors(bench)
            time.sleep(0.2)
        proxy.mood = "good"
        workers.rage([], count=0, every=0.3, seconds=120)
    workers.verdict(expected)
    assert set(errors(bench)) == {"storage"}
    with bench.database.reading() as session:
        max_attempts = max(session.scalars(select(Job.attempt)))
    assert max_attempts <= 6
    record(
        "fault",
        "S3 answers nothing but errors until every job has failed once",
        "0 lost, typed errors",
        f"{len(expected)} of {len(expected)} jobs succeeded after it was back, "
        f"{max_attempts} attempts at most; all `storage`",
    )


pytestmark = pytest.mark.timeout(600)
