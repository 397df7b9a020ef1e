"""Uploads over both stores: opened, sent in parts, resumed, refused, completed, used by jobs, collected."""

from __future__ import annotations

import hashlib
import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from app.db.session import clock
from app.db.upload import Upload
from app.integrations.shared.sources import Access
from app.integrations.uploads.source import UploadSource
from app.services import uploads
from app.services.resources import Resources
from app.settings import Settings
from app.storage.s3 import S3Store
from tests.app.api.tenants import bearer, new_key, new_project
from tests.fixtures.library.carried import CARRIED, files_below
from tests.fixtures.library.demo_model import DEMO_MODEL
from workers.background import stale

SPEC = {"prune": {"method": "magnitude", "sparsity": 0.5}}
TEXT = b"A text about espaliers, trained flat against a wall. " * 40


@pytest.fixture(params=["directory", "s3"])
def settings(request: pytest.FixtureRequest, sqlite_url: str, tmp_path: Path) -> Settings:
    if request.param == "directory":
        return Settings(home=tmp_path, database_url=sqlite_url)
    store: S3Store = request.getfixturevalue("s3_store")
    url = f"s3://{store.bucket}/{store.prefix}"
    return Settings(
        home=tmp_path, database_url=sqlite_url, store_url=url, s3_endpoint_url=request.getfixturevalue("s3_server")
    )


def _file(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _model() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in DEMO_MODEL.iterdir()}


def _open(client: TestClient, kind: str, files: dict[str, bytes], **headers: str) -> dict[str, Any]:
    body = {"kind": kind, "files": [_file(name, data) for name, data in files.items()]}
    answer = client.post("/v1/uploads", json=body, headers=headers)
    assert answer.status_code in {200, 201}, answer.text
    document: dict[str, Any] = answer.json()
    return document


def _send(client: TestClient, upload: dict[str, Any], files: dict[str, bytes], *, corrupt: bool = False) -> list[int]:
    """Send every part that is missing; return the statuses."""
    statuses = []
    for file in client.get(f"/v1/uploads/{upload['id']}").json()["files"]:
        for number in sorted(set(range(1, file["parts"] + 1)) - set(file["received"])):
            start = (number - 1) * upload["part_bytes"]
            data = files[file["name"]][start : start + upload["part_bytes"]]
            body = {"file": file["name"], "number": number, "sha256": hashlib.sha256(data).hexdigest()}
            part = client.post(f"/v1/uploads/{upload['id']}/parts", json=body).json()
            assert part["bytes"] == len(data)
            sent = b"x" * len(data) if corrupt else data
            if part["url"].startswith("/"):
                answer: Any = client.put(part["url"], content=sent, headers=part["headers"])
            else:
                answer = httpx.put(part["url"], content=sent, headers=part["headers"])
            statuses.append(answer.status_code)
    return statuses


def test_a_model_is_sent_in_parts_looked_at_and_used(
    client: TestClient, resources: Resources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART_BYTES", 1_000_000)
    files = {**_model(), **CARRIED}
    upload = _open(client, "model", files)
    weights = next(file for file in upload["files"] if file["name"] == "model.safetensors")
    assert weights["parts"] > 2
    early = client.post(f"/v1/uploads/{upload['id']}/complete")
    assert (early.status_code, early.json()["code"]) == (409, "upload-incomplete")
    job = {"source": {"kind": "upload", "upload_id": upload["id"]}, "spec": SPEC}
    refused = client.post("/v1/jobs", json=job)
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/source/upload_id")
    assert {status // 100 for status in _send(client, upload, files)} == {2}
    done = client.post(f"/v1/uploads/{upload['id']}/complete")
    assert done.status_code == 200, done.text
    assert done.json()["state"] == "complete"
    assert client.post(f"/v1/uploads/{upload['id']}/complete").status_code == 200
    late = client.post(
        f"/v1/uploads/{upload['id']}/parts", json={"file": "config.json", "number": 1, "sha256": "0" * 64}
    )
    assert (late.status_code, late.json()["code"]) == (409, "upload-closed")
    made = client.post("/v1/jobs", json=job)
    assert made.status_code == 202, made.text
    assert made.json()["resolved_spec"]["output"]["dtype"] == "bfloat16"
    bad = client.post("/v1/jobs", json={**job, "spec": {**SPEC, "retrain": {"trainable": ["biases"]}}})
    assert bad.status_code == 422
    with resources.database.reading() as session:
        row = session.get_one(Upload, upload["id"])
    access = Access(tmp_path / "cache", uploads={row.id: uploads.located(resources.store, row, expires_seconds=60)})
    source = UploadSource(upload_id=row.id)
    folder = source.fetch(source.resolve(access), access)
    assert {name: data for name, data in files_below(folder).items() if name[0] != "."} == files


def test_a_part_with_other_bytes_is_refused_and_can_be_sent_again(client: TestClient) -> None:
    upload = _open(client, "dataset", {"notes.txt": TEXT})
    assert _send(client, upload, {"notes.txt": TEXT}, corrupt=True)[0] in {400, 422}
    assert client.get(f"/v1/uploads/{upload['id']}").json()["files"][0]["received"] == []
    assert _send(client, upload, {"notes.txt": TEXT})[0] in {200, 204}
    assert client.post(f"/v1/uploads/{upload['id']}/complete").json()["state"] == "complete"
    dataset = {"kind": "upload", "upload_id": upload["id"]}
    body = {"source": {"kind": "huggingface", "repo": "a/b"}, "spec": {**SPEC, "calibration": {"dataset": dataset}}}
    assert client.post("/v1/jobs", json=body).status_code == 202
    as_model = client.post("/v1/jobs", json={"source": {"kind": "upload", "upload_id": upload["id"]}, "spec": SPEC})
    assert as_model.status_code == 422


def test_a_model_that_is_unsafe_or_unsupported_is_refused_when_it_is_complete(client: TestClient) -> None:
    files = _model()
    config = json.loads(files["config.json"])
    files["config.json"] = json.dumps({**config, "auto_map": {"AutoModel": "evil--code.Model"}}).encode()
    upload = _open(client, "model", files)
    _send(client, upload, files)
    answer = client.post(f"/v1/uploads/{upload['id']}/complete")
    assert (answer.status_code, answer.json()["code"]) == (422, "source-unsafe")
    assert client.get(f"/v1/uploads/{upload['id']}").json()["state"] == "open"


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.jsonl", b"no JSON"), ("a.jsonl", "{'ä'}".encode("cp1252")), ("a.parquet", b"x"), ("a.txt.gz", b"plain text")],
    ids=range(4),
)
def test_a_data_set_that_cannot_be_read_is_refused_when_it_is_complete(
    client: TestClient, name: str, data: bytes
) -> None:
    upload = _open(client, "dataset", {name: data})
    _send(client, upload, {name: data})
    answer = client.post(f"/v1/uploads/{upload['id']}/complete")
    assert (answer.status_code, answer.json()["code"]) == (422, "dataset-error")
    assert answer.json()["errors"][0]["pointer"] == "/files/0"


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("model", ["model.safetensors"]),
        ("model", ["config.json", "model.bin"]),
        ("model", ["config.json", "a.py"]),
        ("model", ["config.json", "../x.safetensors"]),
        ("model", ["config.json", "config.json"]),
        ("model", ["config.json", "text.txt"]),
        ("dataset", ["a.txt", "b.txt"]),
        ("dataset", ["a.csv"]),
        ("dataset", ["config.json"]),
        ("dataset", ["../a.txt"]),
        ("dataset", ["/etc/a.txt"]),
        ("dataset", []),
    ],
)
def test_files_that_no_model_or_data_set_has_are_refused(client: TestClient, kind: str, names: list[str]) -> None:
    body = {"kind": kind, "files": [_file(name, b"x") for name in names]}
    assert client.post("/v1/uploads", json=body).status_code == 422


def test_a_file_that_is_not_what_its_hash_promised_is_refused_when_it_is_read(
    client: TestClient, resources: Resources, tmp_path: Path
) -> None:
    body = {"kind": "dataset", "files": [{**_file("a.txt", TEXT), "sha256": "0" * 64}]}
    upload = client.post("/v1/uploads", json=body).json()
    _send(client, upload, {"a.txt": TEXT})
    with resources.database.reading() as session:
        row = session.get_one(Upload, upload["id"])
    access = Access(tmp_path, uploads={row.id: uploads.located(resources.store, row, expires_seconds=60)})
    source = UploadSource(upload_id=row.id)
    with pytest.raises(Exception, match="hash differs"):
        source.fetch(source.resolve(access), access)


def test_an_equal_call_opens_no_second_upload(client: TestClient) -> None:
    first = _open(client, "dataset", {"a.txt": TEXT}, **{"Idempotency-Key": "k"})
    again = _open(client, "dataset", {"a.txt": TEXT}, **{"Idempotency-Key": "k"})
    assert first["id"] == again["id"]
    assert len(client.get("/v1/uploads").json()["items"]) == 1


def test_uploads_count_against_the_stored_bytes(client: TestClient) -> None:
    project = new_project(client, max_stored_bytes=3000)
    headers = bearer(new_key(client, project)["key"])
    body = {"kind": "dataset", "files": [_file("a.txt", TEXT)]}
    assert client.post("/v1/uploads", json=body, headers=headers).status_code == 201
    assert client.get("/v1/usage", headers=headers).json()["stored_bytes"] == len(TEXT)
    assert client.post("/v1/uploads", json=body, headers=headers).status_code == 429


def test_what_stands_still_is_aborted_and_what_is_deleted_leaves_nothing(
    client: TestClient, resources: Resources
) -> None:
    database, store = resources.database, resources.store
    kept, dropped, deleted = (_open(client, "dataset", {f"{name}.txt": TEXT}) for name in "abc")
    for upload, name in ((kept, "a"), (dropped, "b"), (deleted, "c")):
        _send(client, upload, {f"{name}.txt": TEXT})
    client.post(f"/v1/uploads/{kept['id']}/complete")
    assert client.delete(f"/v1/uploads/{deleted['id']}").status_code == 204
    with database.unit_of_work() as session:
        session.execute(update(Upload).values(touched_at=clock(session) - stale.STALE_AGE - timedelta(hours=1)))
    assert stale.abort_uploads(database, store) == 1
    assert client.get(f"/v1/uploads/{dropped['id']}").status_code == 404
    left = [item.key for item in store.list("projects/")]
    assert [key.split("/")[3] for key in left] == [kept["id"]]
    orphan = f"projects/prj_default/uploads/upl_GONE/a.txt/{1:05d}"
    store.put_bytes(orphan, b"x")
    assert stale.collect_parts(database, store, [orphan, *left]) == 1
    assert [item.key for item in store.list("projects/")] == left


@pytest.mark.parametrize("settings", ["directory"], indirect=True)
def test_a_part_that_comes_while_its_upload_is_deleted_stays_nowhere(
    client: TestClient, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"notes.txt": TEXT}
    upload, put = _open(client, "dataset", files), resources.store.put_file

    def slow(*args: Any) -> None:
        assert client.delete(f"/v1/uploads/{upload['id']}").status_code == 204
        put(*args)

    monkeypatch.setattr(resources.store, "put_file", slow)
    url, sha256 = f"/v1/uploads/{upload['id']}/files/notes.txt/parts/1", hashlib.sha256(TEXT).hexdigest()
    assert client.put(url, content=TEXT, headers={"X-Content-SHA256": sha256}).status_code == 404
    assert list(resources.store.list("projects/")) == []


def test_a_template_of_many_megabytes_is_refused_before_it_is_sent(client: TestClient) -> None:
    files = [_file(name, data) for name, data in _model().items()]
    files.append({"name": "additional_chat_templates/a.jinja", "bytes": 2**20 + 1, "sha256": "0" * 64})
    answer = client.post("/v1/uploads", json={"kind": "model", "files": files})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"/files/{len(files) - 1}/bytes")


def _huge(number: int, size: int) -> dict[str, Any]:
    shards = [{"name": f"model-{n}.safetensors", "bytes": size, "sha256": "0" * 64} for n in range(number)]
    return {"kind": "model", "files": [_file("config.json", b"{}"), *shards]}


def test_parts_are_counted_and_never_spelled_out(client: TestClient) -> None:
    """As large as an upload may be: what a look at it costs depends on what was sent."""
    began = time.process_time()
    answer = client.post("/v1/uploads", json=_huge(999, 2**44 // 999))
    upload = answer.json()
    assert answer.status_code == 201, upload
    assert sum(file["parts"] for file in upload["files"]) < 11_000
    assert upload["part_bytes"] < 5 * 2**30, "more than S3 takes at once"
    assert client.get(f"/v1/uploads/{upload['id']}").json()["files"] == upload["files"]
    complete = client.post(f"/v1/uploads/{upload['id']}/complete")
    assert (complete.status_code, len(complete.json()["errors"])) == (409, 100)
    assert time.process_time() - began < 2


def test_an_upload_has_a_largest_size(client: TestClient) -> None:
    answer = client.post("/v1/uploads", json=_huge(4, 5 * 2**40))
    assert answer.status_code == 422
    assert [(item["pointer"], item["code"]) for item in answer.json()["errors"]] == [("/files", "upload-too-large")]


def test_a_project_has_a_most_of_open_uploads(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_OPEN", 2)
    made = [client.post("/v1/uploads", json=_huge(1, 10)).json()["id"] for _ in range(2)]
    refused = client.post("/v1/uploads", json=_huge(1, 10))
    assert (refused.status_code, refused.json()["code"]) == (429, "quota-exceeded")
    assert client.delete(f"/v1/uploads/{made[0]}").status_code == 204
    assert client.post("/v1/uploads", json=_huge(1, 10)).status_code == 201
