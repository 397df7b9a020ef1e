"""The dense model, measured in the same job by the same protocol."""

from __future__ import annotations

from espalier.evaluate import benchmarks, certificate
from espalier.evaluate.scoring import DIVERGENCE, count_windows, describe, score_weights
from espalier.session import Context


def run(context: Context) -> None:
    """Score the source as it is."""
    context.protocol["perplexity"] = describe(context)
    if context.request.spec.evaluate.divergence:
        context.protocol["divergence"] = DIVERGENCE
    certificate.warn(context)
    with context.phase("baseline", total=count_windows(context), unit="window") as phase:
        done = phase.finished()
        if done is None:
            context.certificate = certificate.run(context)
            phase.perplexity = score_weights(context, context.dense, phase=phase, dense=True)
            if context.tasks:
                with context.streamed.whole(context.dense) as model:
                    context.dense_tasks = benchmarks.score(context, model)
            phase.finish({"tasks": context.dense_tasks, "certificate": context.certificate})
        else:
            context.dense_tasks = done.get("tasks", {})
            context.certificate = done["certificate"]
        context.dense_perplexity = phase.perplexity or {}
