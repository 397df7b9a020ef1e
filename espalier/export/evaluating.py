"""The phase `evaluating`: stock transformers loads the written artifact, and what it measures is the result's score.

Where memory does not hold the whole model, its blocks are loaded one by one from the artifact's files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from espalier.evaluate import benchmarks
from espalier.evaluate.latency import measure
from espalier.evaluate.scoring import compare, count_windows, score, score_weights
from espalier.export import adapter
from espalier.model.numerics import autocast, free_bytes
from espalier.model.stock import load
from espalier.model.weights import Weights
from espalier.prune import collapse
from espalier.session import Session
from espalier.session.reporter import PhaseRun


def run(session: Session) -> None:
    """Score the written artifact."""
    results = session.results
    with session.reporter.phase("evaluating", total=count_windows(session), unit="window") as phase:
        done = phase.finished()
        if done is not None and done["model_sha256"] == results.written.sha256:
            results.comparison, results.latency, recovery = done["compared"], done["latency"], done["recovery"]
        else:
            recovery = _score(session, phase)
        results.perplexity = phase.perplexity or {}
        collapse.warn(session, results.perplexity)
        results.recovery |= recovery


def _score(session: Session, phase: PhaseRun) -> dict[str, Any]:
    """Measure all that is asked for, and keep it for a later attempt; return what the report says of an adapter."""
    results, recovery = session.results, dict[str, Any]()
    if session.by_blocks:  # the artifact's own files, through the stock class, one block at a time
        phase.perplexity = score_weights(session, Weights(session.artifact_dir), phase=phase)
        results.comparison = {"divergence": {}, "tasks": {}}  # asked for, they would have been refused
    else:
        recovery = _score_whole(session, phase)
    collapse.check(session, phase.perplexity or {})
    phase.finish(
        {
            "model_sha256": results.written.sha256,
            "compared": results.comparison,
            "recovery": recovery,
            "latency": results.latency,
        }
    )
    return recovery


def _score_whole(session: Session, phase: PhaseRun) -> dict[str, Any]:
    """Score the artifact as stock transformers loads it, and all that compares whole models; what an adapter tells."""
    model = _load(session, session.artifact_dir)
    phase.perplexity = score(session, model, phase=phase)
    session.results.comparison = {"divergence": compare(session, model), "tasks": benchmarks.score(session, model)}
    if session.request.spec.evaluate.latency:
        session.results.latency = _latency(session, model)
    return {} if session.results.adapter is None else _with_adapter(session, model)


def _with_adapter(session: Session, model: nn.Module) -> dict[str, Any]:
    """The numbers of the model with its adapter; those of the model alone are the result's."""
    with autocast(session.device, session.compute_dtype):
        return {"adapter": {"folder": adapter.FOLDER, "perplexity": score(session, adapter.apply(session, model))}}


def _latency(session: Session, model: nn.Module) -> dict[str, Any]:
    """Dense and compressed by turns; where memory does not hold both, the compressed one alone."""
    device, longest = session.device, session.length_of(session.request.spec.calibration)
    size = sum(session.source_streamed.parameters.values()) * session.compute_dtype.itemsize
    if free_bytes(device) < 2 * size:
        return {"compressed": measure(model, device=device, longest=longest)[0]}
    dense, compressed = measure(_load(session, session.source_dir), model, device=device, longest=longest)
    return {"dense": dense, "compressed": compressed}


def _load(session: Session, folder: Path) -> nn.Module:
    return load(folder, dtype=session.compute_dtype, device=session.device)
