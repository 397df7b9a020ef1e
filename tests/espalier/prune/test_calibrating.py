"""Calibration text: too short, short, shared with the evaluation."""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics

import pytest

from espalier.errors import DatasetError
from tests.fixtures.library.jobs import LocalJob, local_job


def _warnings(job: LocalJob) -> list[str]:
    return [warning["code"] for warning in job.attempt().report["warnings"]]


def test_text_shorter_than_the_request_is_a_dataset_error(tmp_path: Path, texts: Path, llama: Path) -> None:
    dataset = {"kind": "local", "path": str(texts / "train.txt")}
    calibration = {"dataset": dataset, "samples": 10_000, "sequence_length": 128}
    with pytest.raises(DatasetError, match="10000 windows of 128 need 1280000"):
        local_job(tmp_path, llama, texts, calibration=calibration).attempt()


def test_the_builtin_text_is_enough_for_any_default(tmp_path: Path, texts: Path, llama: Path) -> None:
    calibration = {"dataset": {"kind": "builtin"}, "samples": 2000, "sequence_length": 128}
    prune = {"method": "magnitude", "sparsity": 0.5}
    job = local_job(tmp_path, llama, texts, calibration=calibration, prune=prune, evaluate={"perplexity": []})
    assert _warnings(job) == ["short_calibration_text"]


@pytest.mark.parametrize(("length", "run"), [(64, 32), (16, 16)])
def test_evaluation_windows_that_were_calibrated_on_are_counted(
    tmp_path: Path, texts: Path, llama: Path, length: int, run: int
) -> None:
    leak = tmp_path / "leak.txt"
    leak.write_text(topics["while"] + topics["yield"] * 2)
    dataset = {"kind": "local", "path": str(leak)}
    calibration = {"dataset": dataset, "samples": 768 // length, "sequence_length": length, "selection": "sequential"}
    job = local_job(tmp_path / "job", llama, texts, calibration=calibration)
    report = job.attempt().report
    (warning,) = [item for item in report["warnings"] if item["code"] == "evaluation_overlap"]
    assert warning["text"].startswith(f"6 of 6 evaluation windows of text share {run} or more tokens")


def test_clean_text_brings_no_warning(tmp_path: Path, texts: Path, llama: Path) -> None:
    assert _warnings(local_job(tmp_path, llama, texts)) == ["worse_than_guessing"], "a random model, and nothing else"
