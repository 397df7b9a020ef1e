"""The proof runs on the pretend accelerator, writes each row when it is done, and claims what it has measured."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.suite.pages import ROOT
from tests.gpu import proof
from tests.gpu.pretend import Standin
from tests.gpu.setting import Setting
from tests.gpu.table import Measured, OutOfTime, Row, anonymous, prove


def written(folder: Path) -> dict[str, dict[str, Any]]:
    document = json.loads((folder / "gpu.json").read_text())
    return {row["row"]: row for row in document["rows"]}


def row(name: str, measure: Any, *, seconds: float = 0.1) -> Row:
    return Row(name, "something", "the best", seconds, measure)


def test_each_row_is_written_when_it_is_done_and_an_error_is_a_verdict(tmp_path: Path) -> None:
    setting, seen = Setting(Standin(), tmp_path), list[str]()

    def breaks(_: Setting) -> Measured:
        seen.extend(item["verdict"] for item in written(tmp_path).values())
        raise ValueError(f"no | in {tmp_path}/model, GPU-01234567-89ab-cdef")

    def holds(_: Setting) -> Measured:
        return Measured("42", numbers={"answer": 42})

    rows = [row("one", holds), row("two", breaks), row("three", lambda _: Measured("41", holds=False))]
    rows += [row("four", holds, seconds=1e6), row("five", holds)]
    assert not prove(rows, setting, tmp_path, deadline=time.monotonic() + 60)
    assert seen == ["ok", *["not run"] * 4]
    verdicts = [item["verdict"] for item in written(tmp_path).values()]
    assert verdicts[:3] == ["ok", "error: ValueError: no | in model, GPU", "does not hold"]
    assert verdicts[3].startswith("not run: ")
    assert verdicts[3].endswith("and it may take 1000000")
    assert verdicts[4] == "ok", "what is shorter is still run"
    assert written(tmp_path)["five"]["numbers"] == {"answer": 42}
    table = (tmp_path / "gpu.md").read_text()
    assert "| two | something | the best |  | error: ValueError: no / in model, GPU |" in table
    assert "**No result**" in table


def test_a_row_is_stopped_when_time_is_up(tmp_path: Path) -> None:
    def hangs(_: Setting) -> Measured:
        while True:
            try:
                time.sleep(0.01)
            except Exception:  # noqa: BLE001 - as code may that tries again
                continue

    rows = [row("long", hangs), row("next", lambda _: Measured("1"))]
    began = time.monotonic()
    assert not prove(rows, Setting(Standin(), tmp_path), tmp_path, deadline=began + 0.3)
    assert time.monotonic() - began < 10
    verdicts = [item["verdict"] for item in written(tmp_path).values()]
    assert verdicts[0].startswith("stopped: time was up after 0 s")
    assert verdicts[1].startswith("not run: 0 s were left")
    assert not issubclass(OutOfTime, Exception)


def test_nothing_tells_whose_machine_it_was() -> None:
    text = {"file": ["/usr/lib/x86_64/libcuda.so.1 and ~/models/a.json", 3]}
    assert anonymous(text) == {"file": ["libcuda.so.1 and a.json", 3]}
    assert anonymous("12 GB/s, 1/2") == "12 GB/s, 1/2"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an accelerator")
def test_without_an_accelerator_it_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(proof.NoAcceleratorError, match="--standin"):
        proof.run(tmp_path, tmp_path, standin=False, only="", deadline=time.monotonic() + 60)
    assert not (tmp_path / "gpu.json").exists()


def test_the_first_rows_hold_on_the_pretend_card(tmp_path: Path) -> None:
    only = "^(opt|kill|patterns)$"
    assert proof.run(tmp_path, tmp_path / "out", standin=True, only=only, deadline=time.monotonic() + 400)
    assert list(written(tmp_path / "out")) == ["device", "opt", "kill", "patterns"]


@pytest.mark.deep
@pytest.mark.timeout(1200)
def test_all_of_it_holds_on_the_pretend_card(tmp_path: Path) -> None:
    proof.run(tmp_path, tmp_path / "out", standin=True, only="", deadline=time.monotonic() + 1000)
    rows = written(tmp_path / "out")
    assert {name: item["verdict"] for name, item in rows.items()} == dict.fromkeys(rows, "ok")
    assert len(rows) == len(proof.rows()) > 15


def test_the_table_in_the_results_is_a_real_cards_and_the_documents_say_whether_there_is_one() -> None:
    table, text = ROOT / "results/gpu.json", " ".join((ROOT / "docs/results.md").read_text().split())
    assert ("It has not been run on a GPU yet" in text) != table.exists()
    if table.exists():
        assert json.loads(table.read_text())["pretend"] is False
