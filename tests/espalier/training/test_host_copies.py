"""Copies on the host: equal, apart from each other, and in few pieces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from espalier.training import host_copies
from espalier.training.host_copies import copy_to_host, on_host
from tests.standin.backend import watching
from tests.standin.card import Card
from tests.standin.tensors import DEVICE

TENSORS = [torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in [(2, 3), (), (5,), (300,), (4,)]]


@pytest.fixture
def card() -> Iterator[Card]:
    with watching() as card:
        yield card


@pytest.mark.parametrize(("piece", "waits"), [(2**20, 1), (1000, 2)])
def test_small_tensors_cross_in_one_piece(card: Card, monkeypatch: pytest.MonkeyPatch, piece: int, waits: int) -> None:
    monkeypatch.setattr(host_copies, "PIECE_BYTES", piece)
    ours = [tensor.to(DEVICE) for tensor in TENSORS]
    with card.account() as books:
        copies = copy_to_host(ours)
    assert books.waits == waits
    assert books.to_host == sum(tensor.nbytes for tensor in TENSORS)
    assert all(torch.equal(copy, tensor) for copy, tensor in zip(copies, TENSORS, strict=True))
    assert max(Counter(copy.untyped_storage().data_ptr() for copy in copies).values()) == 1


def test_dtypes_cross_apart(card: Card) -> None:
    ours = [torch.ones(3).to(DEVICE), torch.ones(3, dtype=torch.bfloat16).to(DEVICE), torch.ones(2).to(DEVICE)]
    copies = copy_to_host(ours)
    assert [copy.dtype for copy in copies] == [torch.float32, torch.bfloat16, torch.float32]
    assert [len(copy) for copy in copies] == [3, 3, 2]


def test_on_a_cpu_a_copy_is_one_and_what_is_read_is_none() -> None:
    tensor = torch.ones(3)
    (copy,), (read,) = copy_to_host([tensor]), on_host([tensor])
    tensor.zero_()
    assert copy.tolist() == [1, 1, 1]
    assert read.tolist() == [0, 0, 0]
