"""The artifact's weights are written, loaded again by stock transformers, and measured: that is the result's score.

Where memory does not hold the whole model, its blocks are loaded one by one from the artifact's files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from espalier.evaluate import benchmarks
from espalier.evaluate.scoring import compare, count_windows, score, score_weights
from espalier.evaluate.speed import measure
from espalier.export import adapter
from espalier.export.export import Written, write_model
from espalier.model.numerics import autocast, free_bytes
from espalier.model.stock import load
from espalier.model.weights import Weights
from espalier.prune import collapse
from espalier.session import Context, PhaseRun


def run(context: Context) -> tuple[Written, dict[str, float]]:
    """Write the model directory and score it."""
    with context.phase("evaluating", total=count_windows(context), unit="window") as phase:
        written = write_model(context)
        if context.adapter is not None:
            adapter.write(context, context.adapter)
        done = phase.finished()
        if done is None or done["model_sha256"] != written.sha256:
            told: dict[str, Any] = {}
            if context.by_blocks:  # the artifact's own files, through the stock class, one block at a time
                phase.perplexity = score_weights(context, Weights(context.artifact_dir), phase=phase)
                context.compared = {"divergence": {}, "tasks": {}}  # asked for, they would have been refused
            else:
                told = _score_whole(context, phase)
            collapse.check(context, phase.perplexity or {})
            phase.finish(
                {
                    "model_sha256": written.sha256, "compared": context.compared, "recovery": told,
                    "latency": context.latency,
                }
            )  # fmt: skip
        else:
            context.compared, context.latency, told = done["compared"], done["latency"], done["recovery"]
        collapse.warn(context, phase.perplexity or {})
        context.recovery |= told
    return written, phase.perplexity or {}


def _score_whole(context: Context, phase: PhaseRun) -> dict[str, Any]:
    """Score the artifact as stock transformers loads it, and all that compares whole models; what an adapter tells."""
    model = _load(context, context.artifact_dir)
    phase.perplexity = score(context, model, phase=phase)
    context.compared = {"divergence": compare(context, model), "tasks": benchmarks.score(context, model)}
    if context.request.spec.evaluate.latency:
        context.latency = _latency(context, model)
    return {} if context.adapter is None else _with_adapter(context, model)


def _with_adapter(context: Context, model: nn.Module) -> dict[str, Any]:
    """The numbers of the model with its adapter; those of the model alone are the result's."""
    with autocast(context.device, context.compute_dtype):
        return {"adapter": {"folder": adapter.FOLDER, "perplexity": score(context, adapter.apply(context, model))}}


def _latency(context: Context, model: nn.Module) -> dict[str, Any]:
    """Dense and compressed by turns; where memory does not hold both, the compressed one alone."""
    device, longest = context.device, context.length_of(context.request.spec.calibration)
    size = sum(context.source_streamed.parameters.values()) * context.compute_dtype.itemsize
    if free_bytes(device) < 2 * size:
        return {"compressed": measure(model, device=device, longest=longest)[0]}
    dense, compressed = measure(_load(context, context.source_dir), model, device=device, longest=longest)
    return {"dense": dense, "compressed": compressed}


def _load(context: Context, folder: Path) -> nn.Module:
    return load(folder, dtype=context.compute_dtype, device=context.device)
