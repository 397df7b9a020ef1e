"""What a report says besides perplexity: divergence from the dense model, and tasks."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from espalier.errors import MissingExtraError
from espalier.messages import Message, PhaseCompleted
from espalier.model import lm_eval_tasks as tasks
from tests.fixtures.library.jobs import KilledError, local_job

WINDOWS = {"name": "text", "dataset": None, "sequence_length": 32, "max_windows": 6}


def _evaluate(texts: Path, **more: Any) -> dict[str, Any]:
    windows = WINDOWS | {"dataset": {"kind": "local", "path": str(texts / "valid.txt")}}
    return {"perplexity": [windows], **more}


def _evaluated(message: Message) -> bool:
    return isinstance(message, PhaseCompleted) and message.phase == "evaluating"


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
def test_the_divergence_stands_beside_the_perplexity(tmp_path: Path, llama: Path, texts: Path, sparsity: float) -> None:
    prune = {"method": "magnitude", "sparsity": sparsity}
    job = local_job(tmp_path, llama, texts, prune=prune, evaluate=_evaluate(texts, divergence=True))
    with pytest.raises(KilledError):
        job.attempt(kill_at=_evaluated)
    report = job.attempt().report  # the numbers of the attempt before
    measured = report["compressed"]["divergence"]["text"]
    assert report["protocol"]["divergence"].keys() == {"windows", "kl", "top1_agreement"}
    if sparsity == 0:
        assert measured == {"kl": 0.0, "top1_agreement": 1.0}
    else:
        assert measured["kl"] > 0
        assert 0 < measured["top1_agreement"] < 1
    card = (job.artifact / "README.md").read_text()
    assert f"| same likeliest token on text | | {measured['top1_agreement']:.1%} |" in card


def test_nothing_is_compared_unless_asked_for(tmp_path: Path, llama: Path, texts: Path) -> None:
    report = local_job(tmp_path, llama, texts).attempt().report
    assert report["compressed"]["divergence"] == report["compressed"]["tasks"] == report["dense"]["tasks"] == {}
    assert "divergence" not in report["protocol"]


def test_tasks_without_the_extra_end_the_job_before_it_begins(
    tmp_path: Path, llama: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    job = local_job(tmp_path, llama, texts, evaluate=_evaluate(texts, tasks=["piqa"]))
    with pytest.raises(MissingExtraError, match="lm-eval"):
        job.attempt()
    assert job.messages == []


def test_tasks_are_scored_on_the_dense_model_and_on_the_artifact(
    tmp_path: Path, llama: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[int] = []

    def evaluate(model: Any, *, tasks: list[str], **_: Any) -> dict[str, Any]:
        weight = model.pretrained.model.layers[0].mlp.up_proj.weight
        scored.append(int((weight == 0).sum()))
        row = {"alias": tasks[0], "acc,none": 0.5 / len(scored), "acc_stderr,none": "N/A", "sample_len": 9}
        return {"results": {tasks[0]: row}}

    manager = SimpleNamespace(task_index={"piqa": None}, load=lambda _: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(tasks, "version", lambda _: "0.0")
    monkeypatch.setattr(
        tasks,
        "import_late",
        lambda _: SimpleNamespace(TaskManager=lambda **_: manager, HFLM=SimpleNamespace, simple_evaluate=evaluate),
    )
    job = local_job(tmp_path, llama, texts, evaluate=_evaluate(texts, tasks=["piqa"]))
    report = json.loads(json.dumps(job.attempt().report))
    assert (report["dense"]["tasks"], report["compressed"]["tasks"]) == (
        {"piqa": {"acc": 0.5}},
        {"piqa": {"acc": 0.25}},
    )
    assert scored[0] < scored[1]
    assert report["protocol"]["tasks"] == {"names": ["piqa"], "few_shot": "as each task says", "lm_eval": "0.0"}
