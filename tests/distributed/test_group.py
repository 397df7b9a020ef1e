"""What ranks exchange is the same on all of them, and sums do not depend on how many ranks there are."""

from __future__ import annotations

import pytest
import torch

from espalier.distributed.group import RankGroup
from espalier.errors import NumericalError
from tests.distributed.ranks import run_ranks


def leaf(index: int) -> torch.Tensor | None:
    """One of eight tensors whose sum in float32 depends on the order; the third and the last two are nothing."""
    draws = torch.Generator().manual_seed(index)
    return None if index in {2, 6, 7} else torch.randn(5, generator=draws) * 10.0**index


def tree(first: int, count: int) -> torch.Tensor | None:
    """The sum of some leaves in the binary tree."""
    if count == 1:
        return leaf(first)
    one, other = tree(first, count // 2), tree(first + count // 2, count // 2)
    if one is None or other is None:
        return other if one is None else one
    return one + other


def exchange(group: RankGroup) -> dict[str, object]:
    """Call every exchange once."""
    each = 8 // group.size
    sums = group.sum([tree(group.rank * each, each), None])
    values = torch.full((3,), float(group.rank))
    calls = []

    def work() -> str:
        calls.append(group.rank)
        return "done"

    return {
        "sums": [None if each is None else each.tolist() for each in sums],
        "broadcast": group.broadcast(values, source=group.size - 1).tolist(),
        "object": group.broadcast_object({"of": group.rank}),
        "gathered": group.gather_objects(group.rank * 2),
        "led": (group.led(work), calls == [0] if group.leads else calls == []),
    }


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.deep), pytest.param(8, marks=pytest.mark.deep)])
def test_every_rank_gets_what_one_process_would_have(size: int) -> None:
    whole = tree(0, 8)
    assert whole is not None
    for found in run_ranks(size, exchange):
        assert found["sums"] == [whole.tolist(), None]
        assert found["broadcast"] == [size - 1.0] * 3
        assert found["object"] == {"of": 0}
        assert found["gathered"] == [2 * rank for rank in range(size)]
        assert found["led"] == ("done", True)


def refuse(group: RankGroup) -> list[str]:
    """Fail with an error of ours, in what rank 0 does alone and in the part of the last rank; what is raised here."""

    def fail() -> None:
        if group.rank in {0, group.size - 1}:
            raise NumericalError(f"rank {group.rank}", hint="None.", module="layers.0")

    def fail_last() -> None:
        if group.rank:
            fail()

    said = []
    for together, work in ((group.led, fail), (group.each, fail), (group.each, fail_last)):
        with pytest.raises(NumericalError) as caught:
            together(work)
        said.append(f"{caught.value} {caught.value.module}")
    return [*said, str(group.each(lambda: group.rank))]


def test_what_one_rank_refuses_all_of_them_raise_and_go_on_together() -> None:
    first, last = "rank 0 None. layers.0", "rank 1 None. layers.0"
    assert run_ranks(2, refuse) == [[first, first, last, str(rank)] for rank in range(2)]


def test_a_process_alone_exchanges_nothing() -> None:
    group, tensor = RankGroup.alone(), torch.ones(2)
    assert group.leads
    assert (group.rank, group.size) == (0, 1)
    assert group.sum([tensor, None]) == [tensor, None]
    assert group.broadcast(tensor) is tensor
    assert group.gather_objects("x") == ["x"]
    assert group.led(lambda: 3) == 3
    group.barrier()
