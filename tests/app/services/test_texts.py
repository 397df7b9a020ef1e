"""What POST tells of a text: format, column and length, before any work."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from app.bodies.job import JobRequest
from app.errors import InvalidRequest
from app.services.admission.admit import admit
from app.services.admission.text_checks import unreadable
from app.settings import Settings
from espalier.recipe.steps.dataset import LocalDataset
from tests.fixtures.library.demo_model import DEMO_MODEL

LONG = b'{"text": "a long row of text, with words"}\n' * 100


def refusal(folder: Path, name: str, data: bytes, **calibration: Any) -> tuple[str, str]:
    (folder / name).write_bytes(data)
    dataset = {"kind": "local", "path": str(folder / name), **calibration.pop("dataset", {})}
    given = {"samples": 4, "sequence_length": 32, **calibration, "dataset": dataset}
    spec = {"prune": {"method": "wanda", "sparsity": 0.5}, "calibration": given, "evaluate": {"perplexity": []}}
    body = {"source": {"kind": "local", "path": str(DEMO_MODEL)}, "spec": spec}
    settings = Settings(local_roots=f"{folder}:{DEMO_MODEL}")
    try:
        admit(JobRequest.model_validate_json(json.dumps(body)), settings)
    except InvalidRequest as error:
        return error.items[0].pointer.removeprefix("/spec/calibration/dataset"), error.items[0].detail
    return "", ""


@pytest.mark.parametrize(
    ("name", "data", "pointer", "word"),
    [
        ("rows.jsonl", LONG, "", ""),
        ("ROWS.JSONL", LONG, "", ""),
        ("rows.jsonl", b"\n" + LONG[:-10], "", ""),  # cut: the run tells
        ("rows.csv", b"text\nx\n" * 100, "/path", "to_json"),
        ("rows.jsonl", gzip.compress(LONG), "/path", ".gz"),
        ("rows.jsonl", LONG.replace(b"long", "länger".encode("cp1252")), "/path", "Windows-1252"),
        ("rows.parquet", LONG, "/path", "parquet"),
        ("rows.txt", LONG, "/path", "jsonl"),
        ("rows.jsonl", LONG.replace(b'"text"', b'"content"'), "/column", "content"),
        ("rows.jsonl", b'null\n{}\n{"id": 1}\n' + LONG, "", ""),  # the run leaves them out
        ("rows.json", b'[{"id": 1},' + LONG.strip().replace(b"\n", b",") + b"]", "", ""),
        ("rows.json", b"[" + b'{"id": 1},' * 99 + b'{"no": 2}]', "/column", "id, no"),
        ("rows.json", b"[{}]" + b" " * 999, "", ""),
        ("rows.jsonl", b'{"id": 1}\n' * 99 + b"[", "/column", "id"),
        ("rows.jsonl.gz", gzip.compress(gzip.compress(LONG)), "/path", "packed twice"),
        ("rows.jsonl", LONG.replace(b'"text"', b'"te\\ud83dxt"'), "/column", "te\ufffdxt"),
        ("rows.txt", b"[" + LONG.strip().replace(b"\n", b",\n") + b"]", "/path", "jsonl"),
        ("rows.txt", json.dumps([{"text": "long"}] * 100, indent=1).encode(), "/path", "jsonl"),
        ("rows.txt", b"{hello} [world] {" + LONG, "", ""),
    ],
    ids=range(19),
)
def test_a_file_that_cannot_be_read_is_refused(name: str, data: bytes, pointer: str, word: str, tmp_path: Path) -> None:
    refused_at, detail = refusal(tmp_path, name, data)
    assert refused_at == pointer
    assert word in detail


@pytest.mark.parametrize(
    ("data", "pointer", "word"),
    [
        (b'{"text": {"0": "one", "1": "two"}}' + b" " * 999, "/column", "orient='records'"),
        (b'{"0": {"text": "one"}}' + b" " * 999, "/column", "orient='records'"),
        (b'[["one"], ["two"]]' + b" " * 999, "/path", "orient='records'"),
        (LONG + b'{"text": 7}\n' + LONG, "/column", "a number"),
        (b'{"text": NaN}{"text": null}' + LONG, "", ""),
        (b'{"text": [{"role": "user", "content": "x"}]}\n' * 99, "/column", "chat template"),
    ],
    ids=range(6),
)
def test_rows_that_hold_no_text_are_told_before_any_work(data: bytes, pointer: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes(data)
    problems = list(unreadable("", LocalDataset(kind="local", path=str(tmp_path / "rows.json"))))
    assert [problem.pointer for problem in problems] == [pointer] * bool(pointer)
    assert not word or word in problems[0].detail


def test_a_text_of_fewer_bytes_than_tokens_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, "a.txt", b"x" * 120) == ("", "")  # 4 windows of 32, and special tokens
    pointer, detail = refusal(tmp_path, "a.txt", b"x" * 119)
    assert pointer == ""
    assert "119 bytes" in detail
    assert "128" in detail
    assert refusal(tmp_path, "a.txt.gz", gzip.compress(b"x" * 119)) == ("", "")
