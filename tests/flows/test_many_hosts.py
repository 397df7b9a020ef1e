"""Workers on many hosts share nothing but Postgres, the broker and S3: here each has a folder that no other sees."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.storage.s3 import S3Store
from espalier.parent_death import die_with_parent
from tests.fixtures.servers.services import Services
from tests.fixtures.workers.results import model
from tests.fixtures.workers.runs import Bench

ROOT = Path(__file__).resolve().parents[2]
LEASE_SECONDS = 10.0
Host = Callable[[str, str], subprocess.Popen[bytes]]


@pytest.fixture
def bench(postgres_url: str, s3_store: S3Store, tmp_path: Path) -> Iterator[Bench]:
    """The shared state, seen from no host."""
    bench = Bench(postgres_url, tmp_path / "nobody")
    bench.store = s3_store  # type: ignore[assignment]
    yield bench
    bench.database.dispose()


@pytest.fixture
def host(bench: Bench, services: Services, redis_url: str, tmp_path: Path) -> Iterator[Host]:
    """Start one of our modules on a host of its own: home, cache, scratch and current folder are its alone."""
    with ExitStack() as stack:

        def start(name: str, module: str) -> subprocess.Popen[bytes]:
            folder = tmp_path / name
            folder.mkdir()
            store = services.s3_environment()
            store["ESPALIER_STORE_URL"] = f"s3://{bench.store.bucket}/{bench.store.prefix}"  # type: ignore[attr-defined]
            env = {
                **{key: value for key, value in os.environ.items() if not key.startswith("ESPALIER_")},
                **store,
                "PYTHONPATH": str(ROOT),
                "HOME": str(folder),
                "TMPDIR": str(folder),
                "ESPALIER_HOME": str(folder),
                "ESPALIER_DATABASE_URL": bench.database.url,
                "ESPALIER_BROKER_URL": redis_url,
                "ESPALIER_LEASE_SECONDS": str(LEASE_SECONDS),
            }
            with (folder / "log").open("wb") as log:
                process = subprocess.Popen(
                    die_with_parent([sys.executable, "-m", module]), cwd=folder, env=env, stdout=log, stderr=log
                )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield start


@pytest.mark.deep
@pytest.mark.slow
def test_a_job_goes_on_at_another_host_when_its_own_is_gone_with_all_its_files(
    bench: Bench, host: Host, tmp_path: Path
) -> None:
    host("third", "workers.reconciler")
    first = host("first", "tests.fixtures.workers.scripted_worker")
    job_id = bench.add("slow")
    bench.wait_for_event(job_id, "job.checkpoint", count=5, seconds=120)
    first.kill()
    first.wait()
    shutil.rmtree(tmp_path / "first")
    stored = len(bench.job(job_id).checkpoints)
    host("second", "tests.fixtures.workers.scripted_worker")
    job = bench.wait(job_id, "succeeded", seconds=240)
    lost, *_, won = bench.attempts(job_id)  # on a busy machine a lease may lapse once more
    assert (lost.outcome, won.outcome, job.attempt) == ("lost", "succeeded", won.number)
    assert lost.worker_id != won.worker_id
    assert won.resumed_from is not None
    names = [event.data["name"] for event in bench.events(job_id) if event.type == "job.checkpoint"]
    assert stored >= 5
    assert len(names) == len(set(names)), "a block that was stored is not computed again"
    data = b"".join(bench.store.open(next(key for key in _keys(bench, job_id) if key.endswith("model.safetensors"))))
    assert hashlib.sha256(data).hexdigest() == model(30)


def _keys(bench: Bench, job_id: str) -> list[str]:
    return [stored.key for stored in bench.store.list(f"projects/prj_default/jobs/{job_id}/")]
