"""The logical shards of calibration windows: eight, however many ranks there are, so that sums keep their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from espalier.distributed.group import RankGroup
from espalier.memory.pruning import NUM_SHARDS


@dataclass(frozen=True)
class Shards:
    """Windows cut into shards in order, as `torch.tensor_split` cuts; of fewer windows, some shards are empty."""

    sizes: tuple[int, ...]
    """Windows of each of the `NUM_SHARDS` shards."""
    group: RankGroup

    @classmethod
    def of(cls, count: int, group: RankGroup) -> Shards:
        """Cut `count` windows."""
        base, more = divmod(count, NUM_SHARDS)
        return cls(tuple(base + (index < more) for index in range(NUM_SHARDS)), group)

    def first(self, count: int) -> Shards:
        """Return the same shards with their first `count` windows alone."""
        sizes: list[int] = []
        for size in self.sizes:
            sizes.append(min(size, count - sum(sizes)))
        return Shards(tuple(sizes), self.group)

    @property
    def own_sizes(self) -> tuple[int, ...]:
        """Windows of each shard that this rank holds."""
        return self.sizes[self._own]

    def own(self, windows: torch.Tensor) -> torch.Tensor:
        """Select this rank's part of what lies along the first dimension, one for each window."""
        begin = sum(self.sizes[: self._own.start])
        return windows[begin : begin + sum(self.own_sizes)]

    def batches(self, max_windows: int) -> Iterator[int]:
        """Yield the sizes of batches of all windows in order; none of them reaches from one shard into the next."""
        for size in self.sizes:
            yield from _cut(size, max_windows)

    def own_batches(self, max_windows: int) -> list[int]:
        """Return the sizes of this rank's batches."""
        return [batch for size in self.own_sizes for batch in _cut(size, max_windows)]

    @property
    def _own(self) -> slice:
        each = NUM_SHARDS // self.group.size
        return slice(self.group.rank * each, (self.group.rank + 1) * each)


def _cut(size: int, max_windows: int) -> Iterator[int]:
    for begin in range(0, size, max_windows):
        yield min(max_windows, size - begin)
