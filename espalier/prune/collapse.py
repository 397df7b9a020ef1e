"""End the job of a pruned model that is no better than guessing, and suggest the next gentler setting."""

from __future__ import annotations

from collections.abc import Mapping

from espalier.errors import CollapsedError
from espalier.recipe.steps.prune import PruneStep
from espalier.session import Session

RATIO = 100.0
"""Perplexity over the dense model's from which a model that is worse than a uniform guess counts as collapsed."""


def check(session: Session, numbers: Mapping[str, float]) -> None:
    """Raise CollapsedError when a perplexity is above the vocabulary's size and above `RATIO` times the dense one."""
    guess = _guess(session)
    for name, value in numbers.items():
        dense = session.results.dense_perplexity.get(name)
        if dense is not None and value > max(guess, RATIO * dense):
            raise CollapsedError(
                f"perplexity on {name} went from {dense:.4g} to {value:.4g}: above that of a uniform guess over the "
                f"vocabulary ({guess:.0f}), and above {RATIO:.0f} times the dense model's ({RATIO * dense:.4g})",
                hint=f"Try {next_gentler_setting(session.step)}." if session.step else "The source model is damaged.",
            )


def warn(session: Session, numbers: Mapping[str, float]) -> None:
    """Warn of a result that is worse than a uniform guess, also where the job goes on."""
    guess = _guess(session)
    for name, value in numbers.items():
        if value > guess:
            session.reporter.warn(
                "worse_than_guessing",
                f"Perplexity on {name} is {value:.4g}, worse than a uniform guess over the vocabulary ({guess:.0f}): "
                "the result is of no use as it is.",
            )


def _guess(session: Session) -> float:
    """Return the perplexity of a uniform guess over the vocabulary."""
    return float(session.streamed.config.get_text_config().vocab_size)


def next_gentler_setting(step: PruneStep) -> str:
    """Suggest the next gentler setting of a step, in the words of a spec."""
    if step.solver is None:
        return 'prune.update {"kind": "admm"}, which refits the kept weights'
    if step.pattern.implied_sparsity() is not None:
        return "a pattern that keeps more, or an unstructured one"
    lower = max(0.0, step.target_sparsity - 0.1)
    return f"prune.sparsity {lower:.2g}"
