"""Perplexity on every text of the spec, with the protocol that stands beside the numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from torch import nn

from espalier.evaluate.divergence import divergence
from espalier.evaluate.perplexity import perplexity, perplexity_by_blocks
from espalier.model.numerics import dtype_name
from espalier.model.weights import Weights
from espalier.session import Session
from espalier.session.limits import states_of
from espalier.session.reporter import PhaseRun

DIVERGENCE = {
    "windows": "those of the perplexity",
    "kl": "KL(dense || compressed), nats, mean over the predicted tokens",
    "top1_agreement": "share of predicted tokens for which both models think the same token the likeliest",
}
"""The meaning of the numbers of `evaluate.divergence`."""


def score(
    session: Session, model: nn.Module, *, phase: PhaseRun | None = None, dense: bool = False
) -> dict[str, float]:
    """Measure a whole model on every text of `evaluate.perplexity`; `phase` shows the progress if it counts windows."""
    numbers: dict[str, float] = {}
    done = 0
    for item in session.request.spec.evaluate.perplexity:
        windows_NT = session.evaluation_windows(item)
        numbers[item.key] = perplexity(
            model, windows_NT, device=session.device, dense=dense, tick=_ticking(phase, done)
        )
        done += len(windows_NT)
    return numbers


def score_weights(
    session: Session, weights: Weights, *, phase: PhaseRun | None = None, dense: bool = False
) -> dict[str, float]:
    """Measure the model that `weights` make; `dense`: they are the source's."""
    if not session.request.spec.evaluate.perplexity:
        return {}
    if session.by_blocks:
        return _by_blocks(session, weights, phase, dense=dense)
    with session.streamed.whole(weights) as model:
        return score(session, model, phase=phase, dense=dense)


def compare(session: Session, model: nn.Module) -> dict[str, dict[str, float]]:
    """Measure KL divergence and top-1 agreement with the dense model on every text; nothing unless asked for."""
    evaluate = session.request.spec.evaluate
    if not evaluate.divergence:
        return {}
    with session.source_streamed.whole(session.source) as dense:
        return {
            item.key: asdict(divergence(dense, model, session.evaluation_windows(item), device=session.device))
            for item in evaluate.perplexity
        }


def _by_blocks(session: Session, weights: Weights, phase: PhaseRun | None, *, dense: bool) -> dict[str, float]:
    """Measure with one block in memory at a time."""
    numbers: dict[str, float] = {}
    done = 0
    for item in session.request.spec.evaluate.perplexity:
        windows_NT = session.evaluation_windows(item)
        numbers[item.key] = perplexity_by_blocks(
            session.streamed,
            windows_NT,
            weights,
            states_in=states_of(session, windows_NT),
            dense=dense,
            tick=_ticking(phase, done),
        )
        done += len(windows_NT)
    return numbers


def _ticking(phase: PhaseRun | None, before: int) -> Callable[[int], None]:
    def tick(count: int) -> None:
        if phase is not None and phase.unit == "window":
            phase.progress(before + count)

    return tick


def count_windows(session: Session) -> int:
    """Count the windows of all measurements together."""
    return sum(len(session.evaluation_windows(item)) for item in session.request.spec.evaluate.perplexity)


def describe(session: Session) -> dict[str, Any]:
    """Describe the protocol of every measurement, by its name."""
    protocol: dict[str, Any] = {}
    for item in session.request.spec.evaluate.perplexity:
        text, windows_NT = session.evaluation_text(item), session.evaluation_windows(item)
        count, length = windows_NT.shape
        protocol[item.key] = {
            "dataset": item.dataset.model_dump(mode="json"),
            **text.protocol(),
            "tokenizer": session.corpus.tokenizer_id,
            "sequence_length": length,
            "windows": count,
            "predicted_tokens": count * (length - 1),
            "dtype": dtype_name(session.compute_dtype),
        }
    return protocol
