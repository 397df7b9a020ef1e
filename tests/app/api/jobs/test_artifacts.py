"""Files of results: streamed from a folder with ranges, redirected to S3."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from app.db.session import Database
from app.main import create_app
from app.services.resources import Resources
from app.settings import Settings
from app.storage.s3 import S3Store
from tests.fixtures.service import rows as make
from tests.fixtures.service.requests import submit

DATA = bytes(range(256)) * 40


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """One kind of database is enough here."""
    return sqlite_url


@pytest.fixture
def artifact(client: TestClient, rows: Database, resources: Resources) -> str:
    job = submit(client)
    make.start(rows, job)
    return make.publish(rows, resources.store, job, {"sub/model.safetensors": DATA, "config.json": b"{}"})[
        "sub/model.safetensors"
    ]


def test_files_are_listed_with_their_checksums(client: TestClient, artifact: str) -> None:
    row = client.get(f"/v1/artifacts/{artifact}").json()
    assert (row["name"], row["bytes"]) == ("sub/model.safetensors", len(DATA))
    assert row["sha256"] == hashlib.sha256(DATA).hexdigest()
    listed = client.get(f"/v1/jobs/{row['job_id']}/artifacts").json()["items"]
    assert [item["name"] for item in listed] == ["sub/model.safetensors", "config.json"]
    assert row in listed
    assert client.get("/v1/artifacts/art_x").status_code == 404


def test_a_whole_file_is_streamed_safely_named(client: TestClient, artifact: str) -> None:
    answer = client.get(f"/v1/artifacts/{artifact}/download")
    assert (answer.status_code, answer.content) == (200, DATA)
    assert answer.headers["ETag"] == f'"{hashlib.sha256(DATA).hexdigest()}"'
    assert answer.headers["Content-Disposition"] == 'attachment; filename="model.safetensors"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    head = client.head(f"/v1/artifacts/{artifact}/download")
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", str(len(DATA)))


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=100-", 100, len(DATA)),
        ("bytes=-5", len(DATA) - 5, len(DATA)),
        ("bytes=10-999999", 10, len(DATA)),  # ends at the end
        ("bytes=-999999", 0, len(DATA)),
    ],
)
def test_a_range_is_a_part(client: TestClient, artifact: str, asked: str, start: int, end: int) -> None:
    answer = client.get(f"/v1/artifacts/{artifact}/download", headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == DATA[start:end]
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(DATA)}"


@pytest.mark.parametrize("asked", ["bytes=99999-", "bytes=-0"])
def test_a_range_outside_of_the_file_is_416(client: TestClient, artifact: str, asked: str) -> None:
    answer = client.get(f"/v1/artifacts/{artifact}/download", headers={"Range": asked})
    assert (answer.status_code, answer.json()["code"]) == (416, "range-not-satisfiable")
    assert answer.headers["Content-Range"] == f"bytes */{len(DATA)}"


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "lines=1-2", "bytes=9-1", "bytes=", "bytes=a-b", "bytes=--1"])
def test_other_ranges_are_ignored(client: TestClient, artifact: str, asked: str) -> None:
    answer = client.get(f"/v1/artifacts/{artifact}/download", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, DATA)


def test_conditional_requests(client: TestClient, artifact: str) -> None:
    url = f"/v1/artifacts/{artifact}/download"
    etag = client.head(url).headers["ETag"]
    assert client.get(url, headers={"If-None-Match": etag}).status_code == 304
    assert client.get(url, headers={"If-None-Match": "*"}).status_code == 304
    assert client.get(url, headers={"Range": "bytes=0-1", "If-Range": etag}).status_code == 206
    assert client.get(url, headers={"Range": "bytes=0-1", "If-Range": '"other"'}).status_code == 200


def test_a_file_that_left_the_store_is_gone(client: TestClient, artifact: str, resources: Resources) -> None:
    resources.store.delete_prefix("")
    answer = client.get(f"/v1/artifacts/{artifact}/download")
    assert (answer.status_code, answer.json()["code"]) == (410, "object-missing")


@pytest.fixture
def s3_client(sqlite_url: str, tmp_path: Path, s3_store: S3Store, s3_server: str) -> Iterator[TestClient]:
    settings = Settings(
        home=tmp_path / "home",
        database_url=sqlite_url,
        store_url=f"s3://{s3_store.bucket}/{s3_store.prefix}",
        s3_endpoint_url=s3_server,
    )
    with TestClient(create_app(settings), follow_redirects=False) as client:
        yield client


def test_on_s3_the_client_is_sent_to_a_signed_url_that_knows_ranges(s3_client: TestClient, s3_store: S3Store) -> None:
    job = submit(s3_client)
    database = s3_client.app.state.resources.database  # type: ignore[attr-defined]
    make.start(database, job)
    artifact = make.publish(database, s3_store, job, {"model.safetensors": DATA})["model.safetensors"]
    answer = s3_client.get(f"/v1/artifacts/{artifact}/download")
    assert answer.status_code == 307
    url = answer.headers["Location"]
    with httpx.Client(trust_env=False) as outside:
        whole = outside.get(url)
        assert whole.content == DATA
        assert whole.headers["Content-Disposition"] == 'attachment; filename="model.safetensors"'
        assert outside.get(url, headers={"Range": "bytes=5-9"}).content == DATA[5:10]
        assert outside.get(url.replace("model.safetensors?", "other.safetensors?")).status_code == 403
    assert s3_client.get("/readyz").status_code == 200
