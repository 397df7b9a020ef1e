"""A tensor in rows over the ranks, as `fully_shard` cuts it: equal chunks of the first dimension.

The last ones are shorter: of three rows on four ranks the last rank has none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import distributed

from espalier.distributed.group import RankGroup


def own_rows(tensor: torch.Tensor, group: RankGroup) -> torch.Tensor:
    """Return a view of the rows that this rank holds."""
    chunk = -(-len(tensor) // group.size)
    return tensor[group.rank * chunk : (group.rank + 1) * chunk]


def join_rows(own: torch.Tensor, shape: Sequence[int], group: RankGroup) -> torch.Tensor | None:
    """Return, on rank 0, the whole tensor that the ranks hold rows of; None on the others. All of it on the host."""
    if group.size == 1:
        return own
    chunk = -(-shape[0] // group.size)
    padded = own.new_zeros((chunk, *shape[1:]))
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in range(group.size)] if group.leads else None
    distributed.gather(padded, parts, dst=0)
    return None if parts is None else torch.cat(parts)[: shape[0]]
