"""Add up over the ranks what each of them captured at the inputs of a block's matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from espalier.distributed.group import RankGroup
from espalier.stream.statistics import InputAccumulator


def reduced(
    inputs: dict[str, InputAccumulator],
    names: Sequence[str],
    group: RankGroup,
    *,
    empty: Callable[[str], InputAccumulator],
) -> dict[str, InputAccumulator]:
    """Return name of a matrix -> what it read on all ranks, which is the same on every rank.

    `names`: all matrices, in order; `empty` makes the accumulator of one that this rank has not seen. A matrix that no
    rank has seen is left out.
    """
    leaders = _leaders(inputs, names, group)
    whole: dict[str, InputAccumulator] = {}
    for leader in dict.fromkeys(leaders.values()):
        sharing = [name for name, of in leaders.items() if of == leader]
        own = next((inputs[name] for name in sharing if name in inputs), None)
        accumulator = empty(leader) if own is None else own
        accumulator.reduce(group)
        whole |= dict.fromkeys(sharing, accumulator)
    return whole


def _leaders(inputs: dict[str, InputAccumulator], names: Sequence[str], group: RankGroup) -> dict[str, str]:
    """Return name of a matrix -> the first of those that read the same tensor, by a rank that saw it."""
    first: dict[int, str] = {}
    own = {name: first.setdefault(id(inputs[name]), name) for name in names if name in inputs}
    of_ranks = group.gather_objects(own)
    first_rank = {name: rank for rank in reversed(range(group.size)) for name in of_ranks[rank]}
    return {name: of_ranks[first_rank[name]][name] for name in names if name in first_rank}
