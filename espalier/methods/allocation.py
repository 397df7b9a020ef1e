"""Budgets in numbers: sparsities that meet a mean exactly, and counts below one threshold over all matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from espalier.methods.base import Axes, MatrixFacts, Pattern
from espalier.methods.lazy_torch import torch

if TYPE_CHECKING:
    from torch import Tensor

Sweep = Callable[[], Iterable[tuple[str, "Tensor"]]]
"""Goes over all matrices in order and yields their names and scores, each time the same."""

HIGHEST = 0.999
"""No budget asks more of one matrix, unless the request itself does: something must be left of it."""


def bisect_to_mean(
    sparsities_at: Callable[[float], dict[str, float]], matrices: Sequence[MatrixFacts], sparsity: float, *, high: float
) -> dict[str, float]:
    """Bisect to the sparsities at the parameter in [-high, high] where their mean over the weights is `sparsity`.

    `sparsities_at` must rise with its parameter and reach below and above; bisection to the last bit.
    """
    low, best = -high, sparsities_at(high)
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        sparsities = sparsities_at(middle)
        if mean(sparsities, matrices) < sparsity:
            low = middle
        else:
            high, best = middle, sparsities
    return best


def mean(sparsities: Mapping[str, float], matrices: Sequence[MatrixFacts]) -> float:
    """Return the sparsity of all weights together."""
    total = sum(matrix.size for matrix in matrices)
    return sum(sparsities[matrix.name] * matrix.size for matrix in matrices) / total


def shift_to_mean(
    sparsities: Mapping[str, float], matrices: Sequence[MatrixFacts], sparsity: float, *, ceiling: float = 1.0
) -> dict[str, float]:
    """Move all sparsities by one number and clip them to [0, ceiling], so that their mean is `sparsity`."""
    top = min(ceiling, max(HIGHEST, sparsity))

    def at(shift: float) -> dict[str, float]:
        return {name: min(max(fraction + shift, 0.0), top) for name, fraction in sparsities.items()}

    return bisect_to_mean(at, matrices, sparsity, high=2.0)


def clip_to_pattern(
    sparsities: Mapping[str, float], matrices: Sequence[MatrixFacts], sparsity: float, pattern: Pattern
) -> dict[str, float]:
    """Fit sparsities to a pattern: below its ceiling, and where it has levels, on them block by block."""
    fractions = dict(sparsities)
    if max(fractions.values(), default=0.0) > pattern.ceiling():
        fractions = shift_to_mean(fractions, matrices, sparsity, ceiling=pattern.ceiling())
    levels = pattern.levels()
    if levels is None or len(set(fractions.values())) == 1:
        return fractions
    return _in_levels(fractions, matrices, sparsity, levels)


def _in_levels(
    sparsities: Mapping[str, float], matrices: Sequence[MatrixFacts], sparsity: float, levels: int
) -> dict[str, float]:
    """Round sparsities to multiples of 1/levels, one per block; the largest remainders go up until the mean is met."""
    blocks: dict[int, list[MatrixFacts]] = {}
    for matrix in matrices:
        blocks.setdefault(matrix.block, []).append(matrix)
    exact = {block: mean(sparsities, inside) * levels for block, inside in blocks.items()}
    sizes = {block: sum(matrix.size for matrix in inside) for block, inside in blocks.items()}
    chosen = {block: min(int(value + 1e-9), levels - 1) for block, value in exact.items()}
    missing = sparsity * levels * sum(sizes.values()) - sum(chosen[block] * sizes[block] for block in chosen)
    for block in sorted(chosen, key=lambda block: chosen[block] - exact[block]):
        if 2 * missing >= sizes[block] and chosen[block] < levels - 1:
            chosen[block] += 1
            missing -= sizes[block]
    return {matrix.name: chosen[matrix.block] / levels for matrix in matrices}


def refuse_global(axes: Axes, name: str) -> str | None:
    """Refuse a pattern that spreads the sparsity itself, for a budget that does so too; return why."""
    if axes.pattern.spans_model:
        return f"the global scope spreads the sparsity itself, and so does `{name}`: use scope row or matrix"
    return None


def refuse_fixed_sparsity(axes: Axes, name: str) -> str | None:
    """Refuse a pattern that dictates the sparsity, for a budget that gives every matrix its own; return why."""
    if axes.pattern.levels() is not None or axes.pattern.implied_sparsity() is not None:
        return f"the pattern dictates the share pruned, and `{name}` gives every matrix its own: use uniform or owl"
    return None


def refuse_units(axes: Axes, name: str) -> str | None:
    """Refuse a pattern that moves whole units, for a budget that counts single weights; return why."""
    if axes.pattern.line((1, 1)) is None:
        return f"`{name}` counts single weights and the pattern moves whole units: use uniform, owl or per_layer"
    return None


def counts_below_threshold(sweep: Sweep, *, num_pruned: int) -> dict[str, int]:
    """Count the weights of each matrix that go when the `num_pruned` lowest float32 scores of the model go.

    Exact, ties in matrix order, and without holding more than one matrix of scores: the bits of non-negative floats
    are ordered like the floats, so two histograms (upper, then lower half of the bits) find the threshold.
    """
    upper = torch.zeros(2**16, dtype=torch.int64)
    for _, score_OI in sweep():
        upper += torch.bincount(_bits(score_OI) >> 16, minlength=2**16)
    high, before = _locate(upper, num_pruned)

    below: dict[str, int] = {}
    lower: dict[str, Tensor] = {}
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


def _bits(score_OI: Tensor) -> Tensor:
    return score_OI.float().cpu().contiguous().view(torch.int32).flatten().to(torch.int64)


def _locate(histogram: Tensor, count: int) -> tuple[int, int]:
    """The bin in which the `count`-th lowest value lies, and how many values lie below that bin."""
    total = histogram.cumsum(dim=0)
    index = int(torch.searchsorted(total, torch.tensor(max(count, 1))))
    return index, int(total[index - 1]) if index else 0
