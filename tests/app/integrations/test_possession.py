"""What one project has brought into the cache is given to those who could bring it themselves, and to nobody else."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from app.integrations.s3.source import S3Source
from app.integrations.shared import digests
from app.integrations.shared.cache import Place
from app.integrations.shared.sources import Access
from app.integrations.uploads.joining import Uploaded, join
from espalier.messages import PhaseCompleted
from tests.app.integrations.fetches import HUGGINGFACE, SPEC, Fetch, Read, demo, error, one
from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.servers.hub import Hub, HubRepo
from tests.fixtures.servers.mlflow import MlflowServer, mlflow
from workers.messages import AnyMessage, Fetched

__all__ = ["mlflow"]  # a fixture

TOKEN = "hf_a_project_with_access"
GATED = {"token": TOKEN, "gated": True, "open_page": True}
ROWS = b"".join(json.dumps({"text": f"sentence {number}"}).encode() + b"\n" for number in range(200))


def uploaded(folder: Path, name: str, files: dict[str, bytes], promised: dict[str, bytes]) -> dict[str, Any]:
    """An upload as the service describes it: the parts that lie there, and the hashes that it was opened with."""
    entries = []
    for file, data in files.items():
        part = folder / name / file / "00001"
        part.parent.mkdir(parents=True)
        part.write_bytes(data)
        digest = hashlib.sha256(promised[file]).hexdigest()
        entries.append({"name": file, "bytes": len(promised[file]), "sha256": digest, "parts": [part.as_uri()]})
    return {"files": entries}


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_hashes_of_anothers_upload_open_nothing(fetch: Fetch, tmp_path: Path, kind: str) -> None:
    whole = demo() if kind == "model" else {"text.jsonl": ROWS}
    hollow = {
        name: bytes(len(data)) if name.endswith((".safetensors", ".jsonl")) else data for name, data in whole.items()
    }
    uploads = {"upl_1": uploaded(tmp_path, "theirs", whole, whole), "upl_2": uploaded(tmp_path, "mine", hollow, whole)}

    def run(upload_id: str) -> list[AnyMessage]:
        named = {"kind": "upload", "upload_id": upload_id}
        mine = {upload_id: uploads[upload_id]}
        if kind == "model":
            return fetch(named, uploads=mine)
        local = {"kind": "local", "path": str(DEMO_MODEL)}
        return fetch(local, {**SPEC, "calibration": {"dataset": named}}, uploads=mine)

    assert isinstance(run("upl_1")[-1], PhaseCompleted)
    assert error(run("upl_2")).class_ == "source_unsafe"
    assert isinstance(run("upl_1")[-1], PhaseCompleted)


def test_an_upload_is_read_once(tmp_path: Path) -> None:
    document = Uploaded.model_validate(uploaded(tmp_path, "one", {"a.txt": b"text"}, {"a.txt": b"text"}))
    access = Access(cache_dir=tmp_path / "cache")
    first = join("upl_one", document, access)
    (tmp_path / "one/a.txt/00001").unlink()
    assert join("upl_one", document, access) == first
    assert (first / "a.txt").read_bytes() == b"text"


@pytest.mark.parametrize("token", [None, "hf_another"])
@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_what_is_gated_stays_gated_when_it_is_cached(hub: Hub, fetch: Fetch, kind: str, token: str | None) -> None:
    if kind == "model":
        hub.add_model("org/model", DEMO_MODEL, **GATED)
        run: Callable[[str | None], list[AnyMessage]] = lambda token: fetch(HUGGINGFACE, token=token)  # noqa: E731
    else:
        hub.datasets["org/text"] = HubRepo({"train.jsonl": ROWS}, **GATED)  # type: ignore[arg-type]
        dataset = {"kind": "huggingface", "name": "org/text"}
        spec = {**SPEC, "calibration": {"dataset": dataset}}
        run = lambda token: fetch({"kind": "local", "path": str(DEMO_MODEL)}, spec, token=token)  # noqa: E731
    refusal = {"model": "source_gated", "dataset": "dataset_error"}[kind]
    assert error(run(token)).class_ == refusal
    assert isinstance(run(TOKEN)[-1], PhaseCompleted)
    hub.asked.clear()
    assert error(run(token)).class_ == refusal
    assert isinstance(run(TOKEN)[-1], PhaseCompleted)
    assert hub.downloads() == []


def test_keys_that_may_list_a_bucket_and_read_nothing_get_nothing_of_the_cache(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(read(demo())[-1], PhaseCompleted)
    whole = S3Source.client

    class Lister:
        """A client whose keys may list, and neither look at an object nor get it."""

        def __init__(self, client: Any) -> None:
            self._client = client

        def get_paginator(self, name: str) -> Any:
            return self._client.get_paginator(name)

        def refuse(self, **_: object) -> Any:
            raise ClientError({"Error": {"Code": "403"}}, "HeadObject")

        head_object = get_object = refuse

    from contextlib import contextmanager  # noqa: PLC0415

    @contextmanager
    def listing(self: S3Source, access: Access) -> Any:
        with whole(self, access) as client:
            try:
                yield Lister(client)
            except ClientError as refusal:
                raise self._refusal(refusal.response["Error"]["Code"]) from None

    monkeypatch.setattr(S3Source, "client", listing)
    assert error(read({})).class_ == "source_gated"


def test_a_login_that_may_list_at_mlflow_and_read_nothing_gets_nothing_of_the_cache(
    mlflow: MlflowServer, fetch: Fetch
) -> None:
    mlflow.register("demo", DEMO_MODEL)
    source = {"kind": "mlflow", "name": "demo", "version": "1"}
    login = {"tracking_uri": mlflow.url}
    assert isinstance(fetch(source, mlflow=login)[-1], PhaseCompleted)
    mlflow.files_login = "Bearer reads"
    assert error(fetch(source, mlflow=login)).class_ == "source_gated"
    assert isinstance(fetch(source, mlflow={**login, "token": "reads"})[-1], PhaseCompleted)


@pytest.mark.parametrize("place", [".text-{choice}.json", "text-{choice}.json", ".complete", "../text-{choice}.json"])
def test_no_file_of_a_data_set_stands_in_for_our_notes(hub: Hub, fetch: Fetch, tmp_path: Path, place: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("another project's text " * 100)
    (tmp_path / "cache/text").mkdir(parents=True)
    choice = hashlib.sha256(json.dumps([None, ["text"], "text"]).encode()).hexdigest()[:32]
    leads_out = json.dumps(
        {"sha256": os.path.relpath(secret.with_suffix(""), tmp_path / "cache/text"), "warning": None}
    ).encode()
    name = place.format(choice=choice)
    hub.datasets["org/text"] = HubRepo({"text.jsonl": ROWS, name: leads_out})
    dataset = {"kind": "huggingface", "name": "org/text", "split": "text"}
    for _ in range(2):  # the second time a note of ours is there
        messages = fetch({"kind": "local", "path": str(DEMO_MODEL)}, {**SPEC, "calibration": {"dataset": dataset}})
        for message in messages:
            if isinstance(message, Fetched):
                assert all("another project" not in Path(path).read_text() for path in message.datasets.values())
    if not place.startswith(("..", "text")):  # no data, or data without a text
        fetched = one(messages, Fetched)
        assert isinstance(fetched, Fetched)
        assert any("sentence 1" in Path(path).read_text() for path in fetched.datasets.values())


@pytest.mark.parametrize(
    "text",
    [
        '{"sha256": "../../etc/passwd", "warning": null}',
        '{"sha256": "' + "A" * 64 + '", "warning": null}',
        "[]",
        "{",
        '{"sha256": "' + "a" * 64 + '", "warning": null, "more": 1}',
    ],
)
def test_a_note_holds_what_its_form_allows_or_nothing(hub: Hub, fetch: Fetch, tmp_path: Path, text: str) -> None:
    hub.datasets["org/text"] = HubRepo({"train.jsonl": ROWS})
    spec = {**SPEC, "calibration": {"dataset": {"kind": "huggingface", "name": "org/text"}}}
    source = {"kind": "local", "path": str(DEMO_MODEL)}
    first = one(fetch(source, spec), Fetched)
    (note,) = (tmp_path / "cache").rglob("text-*.json")
    note.write_text(text)
    second = one(fetch(source, spec), Fetched)
    assert first.data_sha256 == second.data_sha256  # type: ignore[union-attr]
    assert json.loads(note.read_text())["sha256"] in second.data_sha256.values()  # type: ignore[union-attr]


def test_a_digest_that_is_none_is_taken_anew(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    right = digests.remembered_sha256(file, tmp_path / "cache")
    (note,) = (tmp_path / "cache/digests").iterdir()
    note.write_text(json.dumps({**json.loads(note.read_text()), "sha256": "nothing of the kind"}))
    assert digests.remembered_sha256(file, tmp_path / "cache") == right


def test_files_and_notes_of_a_place_lie_apart(tmp_path: Path) -> None:
    place = Place.of(tmp_path, "source", "revision")
    place.files.mkdir(parents=True)
    place.note_whole(["a", "b"])
    assert place.whole() == {"a", "b"}
    assert list(place.files.iterdir()) == []
    assert not place.note("text").is_relative_to(place.files)
