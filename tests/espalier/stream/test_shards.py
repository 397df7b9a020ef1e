"""Sums over calibration windows keep their order, whoever adds them up."""

from __future__ import annotations

import pytest
import torch

from espalier.distributed.group import RankGroup
from espalier.distributed.shards import Shards
from espalier.distributed.tree_sum import TreeSum
from espalier.memory.pruning import NUM_SHARDS, partial_sums


@pytest.mark.parametrize("count", [0, 1, 5, 8, 12, 129])
def test_windows_are_cut_as_torch_cuts(count: int) -> None:
    windows = torch.arange(count)
    parts = [part.tolist() for part in torch.tensor_split(windows, NUM_SHARDS)]
    assert list(Shards.of(count, RankGroup.alone()).sizes) == [len(part) for part in parts]
    for size in (1, 2, 4, 8):
        of_ranks = [Shards.of(count, RankGroup(rank, size, None)) for rank in range(size)]
        assert torch.equal(torch.cat([shards.own(windows) for shards in of_ranks]), windows)
        batches = [batch for shards in of_ranks for batch in shards.own_batches(3)]
        assert batches == list(Shards.of(count, RankGroup.alone()).batches(3)), "the same for every number of ranks"


def test_the_first_windows_keep_their_shards_and_batches() -> None:
    shards = Shards.of(24, RankGroup.alone())
    assert shards.first(5).sizes == (3, 2, 0, 0, 0, 0, 0, 0)
    assert list(shards.first(4).batches(2)) == [2, 1, 1]


@pytest.mark.parametrize("nothing", [set(), {0}, {7}, {2, 3, 6}, set(range(8))])
def test_leaves_are_added_in_a_binary_tree(nothing: set[int]) -> None:
    draws = torch.Generator().manual_seed(0)
    leaves = [None if i in nothing else torch.randn(9, generator=draws) * 10.0**i for i in range(8)]

    def tree(first: int, count: int) -> torch.Tensor | None:
        if count == 1:
            return leaves[first]
        one, other = tree(first, count // 2), tree(first + count // 2, count // 2)
        return (other if one is None else one) if one is None or other is None else one + other

    expected, total = tree(0, 8), TreeSum()
    for index, leaf in enumerate(leaves):
        if leaf is not None:  # what is left out is nothing
            total.put(index, leaf.clone())
    found = total.total(8)
    assert (found is None) is (expected is None)
    assert found is None or expected is None or torch.equal(found, expected)


def test_as_many_sums_are_held_as_memory_counts() -> None:
    for windows in range(1, 40):
        total, held = TreeSum(), 0
        for index in range(min(windows, NUM_SHARDS)):
            held = max(held, total.held + 1)
            total.put(index, torch.zeros(1))
        assert held == partial_sums(windows)
    assert partial_sums(128, ranks=8) == 2, "its own, and one that another rank sent"
