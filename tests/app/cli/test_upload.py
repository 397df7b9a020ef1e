"""`espalier upload`: a folder or a text is on the service, whole, however often the way there was cut."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from app.services import uploads
from app.settings import Settings
from espalier.client.uploads import Uploader
from tests.app.cli.command import Espalier

Parts = list[tuple[str, int]]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    """What is sent, as (file, number); parts are small."""
    monkeypatch.setattr(uploads, "PART_BYTES", 2**20)
    seen: Parts = []
    send = Uploader.send_part

    def noted(self: Uploader, upload: dict[str, object], name: str, number: int, size: int) -> None:
        send(self, upload, name, number, size)
        seen.append((name, number))

    monkeypatch.setattr(Uploader, "send_part", noted)
    return seen


def test_a_model_is_uploaded_once_and_found_again(
    espalier: Espalier, service: Settings, model: Path, parts: Parts
) -> None:
    assert service.database
    (model / "notes.md").write_text("not a part of the model")
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    first = espalier("upload", str(model))
    assert first.status == 0, first.err
    upload_id = first.out.strip()
    assert upload_id.startswith("upl_")
    assert ("model.safetensors", 5) in parts
    assert ("additional_chat_templates/tools.jinja", 1) in parts
    assert "notes.md" not in {name for name, _ in parts}
    sent = len(parts)
    again = espalier("upload", str(model), "--json")
    assert json.loads(again.out)["id"] == upload_id
    assert json.loads(again.out)["state"] == "complete"
    assert len(parts) == sent
    planned = model.parent / "job.json"
    spec = {"prune": {"method": "magnitude", "sparsity": 0.5}}
    planned.write_text(json.dumps({"source": {"kind": "upload", "upload_id": upload_id}, "spec": spec}))
    assert espalier("submit", str(planned)).status == 0


def test_an_upload_that_was_cut_goes_on_where_it_stopped(
    espalier: Espalier, service: Settings, model: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert service.database
    put, calls = Uploader.put_part, iter(range(100))

    def cut(self: Uploader, part: dict[str, object], data: bytes) -> httpx.Response | None:
        if next(calls) == 4:
            raise OSError("the line is cut")
        return put(self, part, data)

    monkeypatch.setattr(Uploader, "put_part", cut)
    broken = espalier("upload", str(model))
    assert (broken.status, len(parts)) == (1, 4)
    assert "the line is cut" in broken.err
    done = espalier("upload", str(model))
    assert done.status == 0, done.err
    assert len(parts) == len(set(parts)), "no part is sent twice"


def test_a_lost_answer_is_asked_for_again(
    espalier: Espalier, service: Settings, tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert service.database
    monkeypatch.setattr("espalier.client.transport.FIRST_DELAY_SECONDS", 0.0)
    put, calls = Uploader.put_part, iter(range(100))
    monkeypatch.setattr(Uploader, "put_part", lambda *given: None if next(calls) < 2 else put(*given))
    text = tmp_path / "notes.txt"
    text.write_text("A text about espaliers. " * 100)
    done = espalier("upload", str(text), "--name", "notes")
    assert done.status == 0, done.err
    assert parts == [("notes.txt", 1)]


@pytest.mark.parametrize(("name", "text"), [("empty", "config.json"), ("none", "nothing at"), ("x.pdf", "*.parquet")])
def test_what_is_no_model_and_no_text_is_said_so(
    name: str, text: str, espalier: Espalier, service: Settings, tmp_path: Path
) -> None:
    assert service.database
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.pdf").write_bytes(b"%PDF")
    refused = espalier("upload", str(tmp_path / name))
    assert refused.status == 1
    assert text in refused.err.replace("\n", " ")
