"""Memory limits: refused early with both numbers, and kept without changing a bit."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from espalier import pipeline
from espalier.diagnosis import classify
from espalier.errors import InsufficientMemoryError
from espalier.memory import MemoryEstimate
from espalier.memory.constants import FLOAT_BYTES
from espalier.messages import Done, Message
from espalier.model import numerics
from espalier.model.numerics import CPU
from espalier.session import Session, limits
from tests.fixtures.library.jobs import LocalJob, local_job
from tests.fixtures.library.tiny_models import VOCABULARY

PARTS = MemoryEstimate(process=10, text=0, outer=20, block=25, samples=5, hidden_states=5, model=50)
"""Forty bytes are enough for the smallest walk, eighty for retraining in the test of it."""


def _attempt(job: LocalJob, **bounds: int) -> tuple[Done, Session]:
    messages: list[Message] = []
    session = Session(job.request().model_copy(update=bounds), messages.append)
    done = pipeline.compute(session)
    assert isinstance(done, Done)
    return done, session


def _measured(job: LocalJob) -> MemoryEstimate:
    return limits.measured(Session(job.request(), lambda _: None))


@pytest.mark.parametrize(
    "spec",
    [
        {"propagation": "sequential"},
        {"propagation": "dense"},
        {"reconstruct": {"window": "submodule", "mode": "sparse_inputs_dense_targets", "epochs": 1}},
        {"reconstruct": {"window": "matrix", "mode": "dense_inputs", "trainable": ["weights"], "epochs": 1}},
        {"reconstruct": {"window": "block", "interleave": True, "epochs": 1}},
    ],
    ids=str,
)
def test_a_limit_changes_where_things_lie_and_no_bit(
    spec: dict[str, Any], tmp_path: Path, texts: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = local_job(tmp_path / "free", llama, texts, **spec)
    expected, _ = _attempt(free)
    bound = local_job(tmp_path / "bound", llama, texts, **spec)
    monkeypatch.setattr(limits, "measured", lambda _: PARTS)
    done, session = _attempt(bound, max_host_memory_bytes=42)
    assert isinstance(session.states_in, Path)
    assert list(session.states_in.iterdir()) == [], "files of hidden states have no name"
    assert session.by_blocks
    assert done.report["compressed"] == expected.report["compressed"]
    assert done.report["dense"] == expected.report["dense"]
    for name in ("model.safetensors", "masks.safetensors"):
        assert (bound.artifact / name).read_bytes() == (free.artifact / name).read_bytes()


def test_a_limit_below_one_block_is_refused_with_both_numbers(tmp_path: Path, texts: Path, llama: Path) -> None:
    job = local_job(tmp_path, llama, texts)
    with pytest.raises(InsufficientMemoryError) as caught:
        _attempt(job, max_host_memory_bytes=2**28)
    error = classify(caught.value, phase=None)
    assert error.class_ == "host_oom"
    assert not error.retryable
    assert str(2**28) in error.message
    (needed,) = re.findall(r"takes about (\d+)", error.message)
    assert int(needed) > 2**28
    assert needed in error.hint


def test_a_wide_limit_leaves_everything_in_memory(tmp_path: Path, texts: Path, llama: Path) -> None:
    _, session = _attempt(local_job(tmp_path, llama, texts), max_host_memory_bytes=2**40)
    assert session.states_in == CPU
    assert not session.by_blocks


def test_the_states_of_a_long_measurement_lie_where_there_is_memory_for_them(
    tmp_path: Path, texts: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = local_job(tmp_path, llama, texts).session()
    windows_NT = torch.zeros(10, 32, dtype=torch.int64)
    size = 10 * 32 * 32 * 4  # windows, tokens, numbers of a hidden state, bytes
    for free, place in ((size * 10 // 9 + 2, numerics.CPU), (size * 10 // 9 - 2, tmp_path / "hidden")):
        monkeypatch.setattr(numerics, "free_bytes", lambda _, free=free: free)
        assert limits.states_of(session, windows_NT) == place


def test_retraining_needs_the_whole_model(
    tmp_path: Path, texts: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = replace(PARTS, training=60, training_batches=((8, 10),))
    monkeypatch.setattr(limits, "measured", lambda _: there)
    with pytest.raises(InsufficientMemoryError, match="retraining"):
        _attempt(local_job(tmp_path, llama, texts, retrain={"steps": 1}), max_host_memory_bytes=79)


PARAMETERS = 2 * (3 * 32 * 64 + 2 * 32 * 32 + 2 * 32 * 16 + 2 * 32) + 32 + 2 * VOCABULARY * 32
"""Of two blocks, the last norm, embeddings and head."""
EDGES = 2 * (2 * 64 + 2 * 48 + 3 * 96)


@pytest.mark.parametrize(
    ("retrain", "expected"),
    [
        ({"trainable": ["norms", "mask_lora"], "rank": 2}, 4 * PARAMETERS + 20 * 2 * EDGES + 18_432 // 8),
        ({"method": "full"}, 21 * PARAMETERS),
        ({"method": "full", "loss": "kl"}, 25 * PARAMETERS),
        ({"trainable": ["norms"], "loss": "squarehead"}, 8 * PARAMETERS),
    ],
)
def test_retraining_counts_what_moves_and_the_teacher(
    retrain: dict[str, Any], expected: int, tmp_path: Path, texts: Path, llama: Path
) -> None:
    needed = _measured(local_job(tmp_path, llama, texts, retrain=retrain))
    assert needed.training == expected


def test_reconstruction_keeps_four_streams_where_there_is_room_and_needs_that_of_a_window(
    tmp_path: Path, texts: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = replace(PARTS, streams=4, window=(40, 3))
    monkeypatch.setattr(limits, "measured", lambda _: there)
    job = local_job(tmp_path, llama, texts, reconstruct={"window": "block"})
    for limit, spilled, wrong in ((60, False, False), (59, True, False), (53, True, False), (52, False, True)):
        session = Session(job.request().model_copy(update={"max_host_memory_bytes": limit}), lambda _: None)
        with pytest.raises(InsufficientMemoryError, match="fitting a window") if wrong else nullcontext():
            limits.check(session)
        assert (session.states_in != CPU) == spilled


def test_a_cpu_job_says_that_it_ignores_the_device_limit(tmp_path: Path, texts: Path, llama: Path) -> None:
    done, _ = _attempt(local_job(tmp_path, llama, texts), max_device_memory_bytes=1)
    assert "device_limit_ignored" in [warning["code"] for warning in done.report["warnings"]]


def test_gram_matrices_count(tmp_path: Path, texts: Path, llama: Path) -> None:
    norms = _measured(local_job(tmp_path / "a", llama, texts))
    gram = _measured(
        local_job(
            tmp_path / "b", llama, texts, prune={"method": "magnitude", "sparsity": 0.5, "update": {"kind": "alps"}}
        )
    )
    # Without: work on the largest map, and its errors on all 384 tokens. With: a batch takes more than a solver here,
    # and self_attn and mlp read two inputs each. Of eight shards four sums are held at once.
    work, batch = 32 * 64 * 32 + 384 * (4 * 32 + 20 * 64), 3 * 384 * 4 * (32 + 64)
    assert gram.block - norms.block == 4 * FLOAT_BYTES * (3 * 32**2 + 64**2) + batch - work
    assert norms.hidden_states == 12 * 32 * 32 * 4
    assert norms.samples == 384 * 4 * (3 * 32 + 64)
    assert gram.samples == 0, "a Gram matrix tells the errors"


@pytest.mark.parametrize(("limit", "overlaps"), [(42, False), (43, True)])
def test_blocks_overlap_only_where_one_more_fits(
    limit: int, overlaps: bool, tmp_path: Path, texts: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "measured", lambda _: replace(PARTS, overlapping=3))
    job = local_job(tmp_path, llama, texts)
    session = Session(job.request().model_copy(update={"max_host_memory_bytes": limit}), lambda _: None)
    limits.check(session)
    assert session.overlaps is overlaps
