"""The pretend card itself: what it refuses, counts and runs out of, so that what passes on it says something."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from tests.standin.backend import watching
from tests.standin.card import CARD, Card
from tests.standin.tensors import DEVICE


@pytest.fixture
def card() -> Iterator[Card]:
    with watching() as card:
        yield card


def test_tensors_say_where_they_are(card: Card) -> None:
    made = [
        torch.ones(2, 3).to(DEVICE),
        torch.zeros(2, 3, device=DEVICE),
        torch.arange(6, device=DEVICE).view(2, 3),
        torch.tensor([[1.0, 2, 3]] * 2, device=DEVICE),
        torch.ones(2, 3).to(DEVICE).T.contiguous().T,
    ]
    assert {tensor.device for tensor in made} == {DEVICE}
    assert all(tensor.shape == (2, 3) for tensor in made)
    assert torch.equal(made[0].cpu(), torch.ones(2, 3))


def test_two_devices_do_not_mix(card: Card) -> None:
    ours, host = torch.ones(3, device=DEVICE), torch.ones(3)
    for mix in (lambda: ours + host, lambda: torch.cat([ours, host]), lambda: ours.mul_(host)):
        with pytest.raises(RuntimeError, match="same device"):
            mix()
    assert float((ours + torch.tensor(1.0)).sum()) == 6, "a number of the host is welcome, as on CUDA"
    assert ours[torch.tensor([0, 2])].shape == (2,), "so are indices"


def test_numpy_is_refused(card: Card) -> None:
    with pytest.raises(TypeError, match="cpu"):
        torch.ones(3, device=DEVICE).numpy()


def test_a_step_of_training_stays_on_the_card(card: Card) -> None:
    layer = nn.Linear(4, 3).to(DEVICE)
    inputs = torch.randn(5, 4, device=DEVICE)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        output = layer(inputs)
    assert output.dtype == torch.bfloat16
    output.float().square().mean().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.device == DEVICE
    before = layer.weight.detach().cpu()
    torch.optim.AdamW(layer.parameters(), lr=0.1).step()
    assert not torch.equal(layer.weight.detach().cpu(), before)


def test_what_crosses_is_counted_with_its_bytes(card: Card) -> None:
    with card.account() as books:
        ours = torch.ones(4, dtype=torch.bfloat16).to(DEVICE)
        assert (books.to_device, books.host_casts) == (8, 0)
        torch.empty(4, device=DEVICE).copy_(torch.ones(4, dtype=torch.bfloat16))
        assert (books.to_device, books.host_casts) == (24, 1), "the host widens, and sends the wide numbers"
        ours.to(torch.float32)
        assert books.to_device == 24
        ours.cpu()
        assert (books.to_host, books.waits) == (8, 1)


def test_waits_of_the_host_are_counted(card: Card) -> None:
    ours = torch.tensor([0.0, 2.0, 3.0], device=DEVICE)
    for wait in (lambda: float(ours.sum()), lambda: bool(ours.any()), ours.nonzero, lambda: ours[ours > 0]):
        with card.account() as books:
            wait()
        assert books.waits == 1
    with card.account() as books:
        torch.where(ours > 0, ours, 0).cumsum(0)
    assert books.waits == 0


def test_a_wait_in_every_column_shows_with_its_line(card: Card) -> None:
    matrix = torch.randn(8, 32, device=DEVICE)
    with card.account() as books:
        for column in matrix.T:
            if float(column.abs().max()) > 100:
                raise AssertionError
    assert books.waits == 32
    assert sum(books.places["waits"].values()) == 32


def test_what_has_no_deterministic_kernel_is_refused(card: Card) -> None:
    ours = torch.randn(3, 4, device=DEVICE)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        for refused in (lambda: ours.kthvalue(2, dim=1), lambda: ours.cumsum(1), lambda: ours.median(dim=1)):
            with pytest.raises(RuntimeError, match="deterministic"):
                refused()
        (ours > 0).cumsum(1)
        with card.account() as books:
            ours.scatter_add(1, torch.zeros(3, 4, dtype=torch.int64, device=DEVICE), ours)
        assert books.sorted_scatters == 1
    finally:
        torch.use_deterministic_algorithms(before)


def test_memory_is_that_of_storages_and_comes_back(card: Card) -> None:
    before = card.live
    ours = torch.zeros(1000, device=DEVICE)
    assert card.live == before + 4000
    view = ours.view(10, 100)[2:]
    assert card.live == before + 4000, "a view takes none"
    del ours
    assert card.live == before + 4000
    del view
    assert card.live == before


def test_memory_ends(card: Card) -> None:
    with card.bounded(card.live + 5000):
        kept = torch.zeros(1000, device=DEVICE)
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
            kept * 2
        del kept
        torch.zeros(1000, device=DEVICE)


def test_the_peak_is_of_the_books(card: Card) -> None:
    with card.account() as books:
        torch.zeros(1000, device=DEVICE) + 1
        assert books.peak >= card.live + 4000
    with card.account() as books:
        pass
    assert books.peak == card.live


def test_a_card_can_fail(card: Card) -> None:
    ours = torch.ones(3, device=DEVICE)
    with card.failing(torch.AcceleratorError("CUDA error: unspecified launch failure"), after=2):
        ours = ours + 1
        with pytest.raises(torch.AcceleratorError, match="launch failure"):
            ours + 1
        assert float(ours.sum()) == 6
    assert CARD is card


def test_whole_numbers_are_counted_as_on_cuda(card: Card) -> None:
    ours = torch.tensor([0, 2, 2, 1], device=DEVICE, dtype=torch.int32)
    counted = torch.histc(ours, bins=3, min=0, max=2)
    assert (counted.dtype, counted.cpu().tolist()) == (torch.int32, [1, 1, 2])


@pytest.mark.parametrize("after", [2, 6, 9])
def test_what_breaks_in_a_backward_pass_is_raised_behind_it(after: int, card: Card) -> None:
    loss = _loss()
    with card.failing(torch.AcceleratorError("CUDA error: unspecified launch failure"), after=after):
        loss.backward()
        with pytest.raises(torch.AcceleratorError, match="launch failure"):
            loss + 1
    loss = _loss()
    with card.bounded(card.live + 100):
        loss.backward()
        with pytest.raises(torch.OutOfMemoryError):
            loss + 1
    loss + 1


def _loss() -> torch.Tensor:
    """A loss whose gradients take memory."""
    weight = torch.ones(8, 8, device=DEVICE, requires_grad=True)
    return (torch.ones(4, 8, device=DEVICE) @ weight).square().mean()
