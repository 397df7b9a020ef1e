"""Sums of shards in a fixed binary tree: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)), whoever adds which part of it."""

from __future__ import annotations

import torch


def added(one: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor | None:
    """Add a tensor to the first one, in place, and return it; None is nothing, and adds nothing."""
    if one is None or other is None:
        return other if one is None else one
    return one.add_(other)  # a + b and b + a are the same bits


class TreeSum:
    """The sum of leaves that come in order; of n leaves no more than log2(n) + 1 sums are held at once."""

    def __init__(self) -> None:
        self._sums: list[tuple[int, torch.Tensor | None]] = []
        """(number of leaves, their sum), larger ones first."""
        self._count = 0

    @property
    def held(self) -> int:
        """Number of sums that are held now."""
        return len(self._sums)

    def put(self, index: int, leaf: torch.Tensor | None) -> None:
        """Add the leaf of an index; those that were left out before it are nothing."""
        while self._count < index:
            self._push(None)
        self._push(leaf)

    def total(self, count: int) -> torch.Tensor | None:
        """Return the sum of `count` leaves, a power of two; None where all of them are nothing."""
        while self._count < count:
            self._push(None)
        ((size, total),) = self._sums
        assert size == count
        return total

    def _push(self, total: torch.Tensor | None) -> None:
        size = 1
        while self._sums and self._sums[-1][0] == size:
            total = added(self._sums.pop()[1], total)
            size *= 2
        self._sums.append((size, total))
        self._count += 1
