"""Text from the Hub and from this machine, as plain files."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from espalier.documents import gather
from espalier.messages import Failed
from espalier.recipe.base import fingerprint
from espalier.recipe.spec import CompressionSpec
from tests.app.integrations.fetches import SPEC, Fetch
from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.servers.hub import Hub, HubRepo
from workers.messages import Fetched

ROWS = ["", " = Title = ", "Größe und Maß", ""]


def parquet(folder: Path, rows: list[str], column: str = "text") -> bytes:
    path = folder / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({column: rows, "id": list(range(len(rows)))}), path)
    return path.read_bytes()


def lines(rows: list[str]) -> bytes:
    return b"".join(json.dumps({"text": row}).encode() + b"\n" for row in rows)


def calibrated_on(fetch: Fetch, dataset: dict[str, Any]) -> str:
    messages = fetch({"kind": "local", "path": str(DEMO_MODEL)}, {**SPEC, "calibration": {"dataset": dataset}})
    fetched = next((message for message in messages if isinstance(message, Fetched)), None)
    assert fetched is not None, messages[-1]
    spec = CompressionSpec.model_validate_json(json.dumps({**SPEC, "calibration": {"dataset": dataset}}))
    key = fingerprint(spec.calibration.dataset.model_dump(mode="json"))
    data = Path(fetched.datasets[key]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == fetched.data_sha256[key]
    return data.decode()


def refused(fetch: Fetch, dataset: dict[str, Any]) -> str:
    last = fetch({"kind": "local", "path": str(DEMO_MODEL)}, {**SPEC, "calibration": {"dataset": dataset}})[-1]
    assert isinstance(last, Failed)
    assert last.error.class_ == "dataset_error", last
    return f"{last.error.message} {last.error.hint}"


def test_wikitext2_is_the_raw_test_split_joined_by_two_newlines(
    hub: Hub, fetch_as_child: Fetch, tmp_path: Path
) -> None:
    files = {f"wikitext-2-raw-v1/{s}-00000-of-00001.parquet": parquet(tmp_path, [s, *ROWS]) for s in ("test", "train")}
    files["wikitext-103-v1/test-00000-of-00001.parquet"] = b"not this one"
    hub.datasets["Salesforce/wikitext"] = HubRepo(files)
    dataset = {"kind": "huggingface", "name": "wikitext2"}
    spec = {**SPEC, "evaluate": {"perplexity": [{"dataset": dataset}]}}
    fetched = next(
        m for m in fetch_as_child({"kind": "local", "path": str(DEMO_MODEL)}, spec) if isinstance(m, Fetched)
    )
    (path,) = fetched.datasets.values()
    assert Path(path).read_text() == "\n\n".join(["test", *ROWS])
    assert len(fetched.data_sha256) == 2  # the builtin calibration text counts too
    assert calibrated_on(fetch_as_child, dataset) == "\n\n".join(["train", *ROWS])


def test_c4_is_its_first_english_shard(hub: Hub, fetch: Fetch) -> None:
    shard = gzip.compress(lines(["one", "two"]))
    hub.datasets["allenai/c4"] = HubRepo(
        {
            "en/c4-train.00000-of-01024.json.gz": shard,
            "en/c4-validation.00000-of-00008.json.gz": gzip.compress(lines(["no"])),
            "realnewslike/c4-train.00000-of-00512.json.gz": gzip.compress(lines(["no"])),
        }
    )
    assert calibrated_on(fetch, {"kind": "huggingface", "name": "c4"}) == "one\n\ntwo"


def test_a_configuration_may_lie_in_a_folder_of_a_folder(hub: Hub, fetch: Fetch) -> None:
    files = {f"sample/{name}/train.jsonl": lines([name]) for name in ("small", "large")}
    hub.datasets["org/data"] = HubRepo(files)
    dataset = {"kind": "huggingface", "repo": "org/data"}
    for unclear in ({}, {"config": "sample"}):
        assert "`config`: sample/large, sample/small." in refused(fetch, {**dataset, **unclear})
    assert calibrated_on(fetch, {**dataset, "config": "sample/small"}) == "small"


def test_the_text_of_equal_files_is_made_once(hub: Hub, fetch: Fetch, tmp_path: Path) -> None:
    hub.datasets["org/data"] = HubRepo({"data/train-00000-of-00001.parquet": parquet(tmp_path, ROWS)})
    dataset = {"kind": "huggingface", "repo": "org/data"}
    first = calibrated_on(fetch, dataset)
    hub.asked.clear()
    assert calibrated_on(fetch, dataset) == first
    assert hub.downloads() == []


def test_a_column_of_any_name_writes_nothing_outside_of_the_cache(hub: Hub, fetch: Fetch, tmp_path: Path) -> None:
    column = f"x/{'../' * 5}escaped"
    hub.datasets["org/data"] = HubRepo({"train.jsonl": lines(["x"]).replace(b'"text"', json.dumps(column).encode())})
    assert calibrated_on(fetch, {"kind": "huggingface", "name": "org/data", "column": column}) == "x"
    assert list(tmp_path.rglob("*escaped*")) == []


def test_a_note_that_a_power_cut_emptied_is_written_again(hub: Hub, fetch: Fetch, tmp_path: Path) -> None:
    hub.datasets["org/data"] = HubRepo({"data/train-00000-of-00001.parquet": parquet(tmp_path, ROWS)})
    dataset = {"kind": "huggingface", "repo": "org/data"}
    first = calibrated_on(fetch, dataset)
    notes = [path for path in (tmp_path / "cache").rglob("*") if path.name == ".complete" or path.suffix == ".json"]
    assert notes
    for note in notes:
        note.write_bytes(b"")
    assert calibrated_on(fetch, dataset) == first


@pytest.mark.deep
@pytest.mark.parametrize(
    ("files", "dataset", "word"),
    [
        ({"data/test.jsonl": lines(["x"])}, {}, "split"),  # nothing to train on
        ({"a/train.jsonl": lines(["x"]), "b/train.jsonl": lines(["x"])}, {}, "config"),  # which of the two?
        ({"train.jsonl": lines(["x"]), "b/train.jsonl": lines(["x"]), "b/c/train.jsonl": b""}, {}, "`config`: b."),
        ({"train.jsonl": lines(["x"])}, {"column": "content"}, "content"),  # no such column
        ({"train.jsonl": b"{"}, {}, "JSON"),  # not what its name says
        ({"train.parquet": b"PAR?"}, {}, "parquet"),
        ({"train.txt": b"\xff\xfe"}, {}, "no text"),  # a mark of byte order and nothing else
        ({"train.txt.gz": gzip.compress(b"x" * 999)[:12] + b"\xff" * 9}, {}, "damaged"),
        ({"train.csv": b"text\nx\n"}, {}, "jsonl"),
        ({"train.py": b"boom"}, {}, "readable"),  # a loading script is never run
    ],
)
def test_data_that_cannot_be_read_is_refused_with_a_hint(
    hub: Hub, fetch: Fetch, files: dict[str, bytes], dataset: dict[str, str], word: str
) -> None:
    hub.datasets["org/data"] = HubRepo(files)
    assert word in refused(fetch, {"kind": "huggingface", "repo": "org/data", **dataset})


def test_a_missing_data_set_is_a_data_set_error(fetch: Fetch) -> None:
    assert "org/none" in refused(fetch, {"kind": "huggingface", "repo": "org/none"})


def test_local_text_and_lines_are_read_below_the_roots_only(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "roots/plain.txt").write_bytes(b"line one\r\nline two")
    (tmp_path / "roots/rows.jsonl").write_bytes(lines(["one", "two"]))
    (tmp_path / "outside.txt").write_text("no")
    assert calibrated_on(fetch, {"kind": "local", "path": str(tmp_path / "roots/plain.txt")}) == "line one\r\nline two"
    assert calibrated_on(fetch, {"kind": "local", "path": str(tmp_path / "roots/rows.jsonl")}) == "one\n\ntwo"
    assert "ESPALIER_LOCAL_ROOTS" in refused(fetch, {"kind": "local", "path": str(tmp_path / "outside.txt")})
    assert "no file" in refused(fetch, {"kind": "local", "path": str(tmp_path / "roots/none.txt")})


def test_text_beyond_the_bound_is_cut_at_a_document_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "MAX_TEXT_BYTES", 12)
    text = gather.keep(["aaaa", "bbbb", "cccc"], tmp_path, gather.Notes())
    assert text.path is not None
    assert text.path.read_text() == "aaaa\n\nbbbb"
    assert text.sha256 == hashlib.sha256(b"aaaa\n\nbbbb").hexdigest()
    assert "text-cut" in text.warnings
    one = gather.keep([iter("é" * 20)], tmp_path, gather.Notes())
    assert one.path is not None
    assert one.path.read_text() == "é" * 6


@pytest.mark.parametrize("form", ["{path}", "data/../../{path}", "data//{path}", "./{path}"])
def test_a_name_that_leads_out_of_the_repository_is_no_file_of_it(
    hub: Hub, fetch: Fetch, tmp_path: Path, form: str
) -> None:
    """A mirror may list what Git could not hold: what is read is what was downloaded, and no file of the worker."""
    elsewhere = tmp_path / "train.txt"
    elsewhere.write_text("a text of somebody else")
    hub.datasets["org/data"] = HubRepo({form.format(path=elsewhere): b"what the Hub sends"})
    assert "no readable file" in refused(fetch, {"kind": "huggingface", "repo": "org/data"})
