"""The list of jobs stays quick with 10,000 of them."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import insert, select

from app.db.job import Job
from app.main import create_app
from app.platform.ids import new_id
from app.settings import Settings
from tests.fixtures.suite.figures import record

JOBS = 10_000
MAX_SECONDS = 0.2
_BODY = {
    "source": {"kind": "huggingface", "repo": "org/model"},
    "spec": {"prune": {"method": "wanda", "sparsity": 0.5}},
}


@pytest.mark.load
def test_the_jobs_page_renders_within_200_ms_with_10_000_jobs(sqlite_url: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, database_url=sqlite_url)
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        assert client.post("/v1/jobs", json=_BODY).status_code == 202
        database = client.app.state.resources.database  # type: ignore[attr-defined]
        with database.unit_of_work() as session:
            job = session.scalars(select(Job)).one()
            row = {column.key: getattr(job, column.key) for column in Job.__table__.columns}
            states = ("queued", "running", "succeeded", "failed")
            others = [{**row, "id": new_id("job"), "state": states[index % 4]} for index in range(JOBS - 1)]
            session.execute(insert(Job), others)
        seconds = []
        for query in ("", "?state=queued", "?model=org/model&method=wanda", "?label=team%3Dnlp"):
            for _ in range(5):
                begun = time.perf_counter()
                answer = client.get(f"/portal/jobs{query}")
                seconds.append(time.perf_counter() - begun)
                assert answer.status_code == 200
    measured = f"median {median(seconds) * 1000:.0f} ms, worst {max(seconds) * 1000:.0f} ms"
    record("load", f"page of jobs, {JOBS:,} of them", "below 200 ms", measured)
    assert median(seconds) < MAX_SECONDS
