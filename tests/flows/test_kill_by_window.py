"""kill -9 of the child after one window's messages after the other, in every mode: the same bytes come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from espalier.messages import Checkpoint, Metric
from tests.fixtures.library.tiny_models import write_tiny_model
from tests.fixtures.suite.processes import running
from tests.fixtures.workers.runs import Bench
from workers.messages import RecordedMessage
from workers.processes.process import Commands
from workers.supervisor.recorder import Recorder


def _spec(reconstruct: dict[str, Any], selection: str) -> dict[str, Any]:
    return {
        "calibration": {"samples": 12, "sequence_length": 48, "selection": selection},
        "prune": {"method": "wanda", "sparsity": 0.6},
        "reconstruct": {"epochs": 2, "batch_size": 4, "rank": 4} | reconstruct,
        "evaluate": {"perplexity": [{"sequence_length": 48, "max_windows": 4}]},
    }


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("selection", "reconstruct"),
    [
        ("loss_gap", {"window": "submodule"}),
        ("random", {"window": "matrix", "mode": "sparse_inputs", "interleave": True}),
        ("random", {"window": {"blocks": 2}, "mode": "sparse_inputs_dense_targets", "trainable": ["mask_lora"]}),
        ("random", {"window": "auto", "mode": "sparse_inputs_dense_targets", "interleave": True, "loss": "cosine"}),
    ],
)
def test_a_child_killed_after_every_window_leaves_no_trace_in_the_result(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, selection: str, reconstruct: dict[str, Any]
) -> None:
    bench = Bench(sqlite_url, tmp_path)
    model = write_tiny_model(tmp_path / "model", num_hidden_layers=3)
    settings = bench.settings.model_copy(update={"local_roots": str(tmp_path), "threads": 1, "lease_seconds": 60.0})
    bench.services = replace(bench.services, commands=Commands(), settings=settings)
    body = {"source": {"kind": "local", "path": str(model)}, "spec": _spec(reconstruct, selection), "reuse": "never"}
    undisturbed = bench.work(bench.add(request=body))
    assert undisturbed.state == "succeeded", undisturbed.error
    seen: set[str] = set()
    take = Recorder.take

    def kill(self: Recorder, messages: Sequence[RecordedMessage]) -> None:
        take(self, messages)
        for message in messages:
            if isinstance(message, Metric | Checkpoint) and message.phase == "reconstructing":
                # Once within a block and once behind it: a job is given up after four losses without progress.
                at = str(message.step) if isinstance(message, Metric) else message.name
                if at not in seen:
                    seen.add(at)
                    for child in running("workers.child"):
                        child.kill()

    monkeypatch.setattr(Recorder, "take", kill)
    monkeypatch.setattr("workers.lease.transitions.backoff_seconds", lambda *_: 0.0)
    job = bench.add(request=body)
    for _ in range(60):
        disturbed = bench.work(job)
        if disturbed.state != "queued":
            break
    assert disturbed.state == "succeeded", disturbed.error
    assert disturbed.attempt > 3
    assert bench.digests(job) == bench.digests(undisturbed.id) != {}
