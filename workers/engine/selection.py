"""From scores to masks: one matrix at a time, or one exact budget over the whole model."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from workers.engine.numerics import require_finite
from workers.methods.base import Criterion, InputStatistics

Sweep = Callable[[], Iterable[tuple[str, torch.Tensor]]]
"""Goes over all matrices in order and yields their names and scores, each time the same."""


def score(
    criterion: Criterion,
    weight_OI: torch.Tensor,
    statistics: InputStatistics,
    *,
    module: str,
    generator: torch.Generator,
) -> torch.Tensor:
    """Score one matrix; NumericalError names the module whose weights or scores are not finite."""
    require_finite(weight_OI, what="the weights", module=module)
    score_OI = criterion.score(weight_OI, statistics, generator=generator)
    require_finite(score_OI, what="the scores", module=module)
    return score_OI


def shares_of_global_budget(sweep: Sweep, *, num_pruned: int) -> dict[str, int]:
    """How many weights of each matrix go when the `num_pruned` lowest float32 scores of the model go.

    Exact, ties in matrix order, and without holding more than one matrix of scores: the bits of non-negative floats
    are ordered like the floats, so two histograms (upper, then lower half of the bits) find the threshold.
    """
    upper = torch.zeros(2**16, dtype=torch.int64)
    for _, score_OI in sweep():
        upper += torch.bincount(_bits(score_OI) >> 16, minlength=2**16)
    high, before = _locate(upper, num_pruned)

    below: dict[str, int] = {}
    lower: dict[str, torch.Tensor] = {}
    for name, score_OI in sweep():
        bits = _bits(score_OI)
        below[name] = int((bits >> 16 < high).sum())
        lower[name] = torch.bincount(bits[bits >> 16 == high] & 0xFFFF, minlength=2**16)
    low, _ = _locate(torch.stack(list(lower.values())).sum(dim=0), num_pruned - before)

    counts = {name: below[name] + int(lower[name][:low].sum()) for name in below}
    rest = num_pruned - sum(counts.values())
    for name in counts:
        tied = min(rest, int(lower[name][low]))
        counts[name] += tied
        rest -= tied
    assert rest == 0
    return counts


def _bits(score_OI: torch.Tensor) -> torch.Tensor:
    return score_OI.float().cpu().contiguous().view(torch.int32).flatten().to(torch.int64)


def _locate(histogram: torch.Tensor, count: int) -> tuple[int, int]:
    """The bin in which the `count`-th lowest value lies, and how many values lie below that bin."""
    total = histogram.cumsum(dim=0)
    index = int(torch.searchsorted(total, torch.tensor(max(count, 1))))
    return index, int(total[index - 1]) if index else 0
