"""The dense model, measured in the same job by the same protocol."""

from __future__ import annotations

from workers.phases.base import Context
from workers.phases.scoring import count_windows, describe, score_weights


def run(context: Context) -> None:
    """Score the source as it is."""
    context.protocol["perplexity"] = describe(context)
    with context.phase("baseline", total=count_windows(context), unit="window") as phase:
        if phase.finished() is None:
            phase.perplexity = score_weights(context, context.dense, phase=phase)
            phase.finish()
        context.dense_perplexity = phase.perplexity or {}
