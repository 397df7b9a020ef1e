"""The result of pruning that a job takes over from another one, which may have needed no numbers of it, or more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.library.jobs import LocalJob, local_job

RETRAIN = {"retrain": {"steps": 2, "batch_size": 2}}


def _perplexity(report: dict[str, Any]) -> Any:
    (row,) = (row for row in report["phases"] if row["name"] == "pruning")
    return row["perplexity"]


def _started_from(first: LocalJob, second: LocalJob) -> LocalJob:
    """Give a job what the other has stored of pruning, where a worker would have put it."""
    second.stored = {key: item for key, item in first.stored.items() if key[0] == "pruning"}
    (second.folder / "checkpoints").mkdir(parents=True)
    (first.folder / "checkpoints" / "pruning").rename(second.folder / "checkpoints" / "pruning")
    return second


@pytest.mark.parametrize(("first", "second"), [({}, RETRAIN), (RETRAIN, {})], ids=["unscored", "scored"])
def test_a_job_reports_what_it_would_have_measured_alone(
    first: dict[str, Any], second: dict[str, Any], tmp_path: Path, llama: Path, texts: Path
) -> None:
    alone = local_job(tmp_path / "alone", llama, texts, **second).attempt().report
    other = local_job(tmp_path / "other", llama, texts, **first)
    other.attempt()
    report = _started_from(other, local_job(tmp_path / "job", llama, texts, **second)).attempt().report
    assert _perplexity(report) == _perplexity(alone)
    assert _perplexity(alone) is not None
