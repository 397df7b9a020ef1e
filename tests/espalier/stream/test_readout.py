"""Numbers and checks that are read at once: in order, the first failure by name, whatever else went wrong."""

from __future__ import annotations

import pytest
import torch

from espalier.errors import NumericalError
from espalier.stream.readout import Readout, to_host
from tests.standin.backend import watching
from tests.standin.card import CARD
from tests.standin.tensors import DEVICE

NAN = torch.tensor([1.0, torch.nan])


def test_numbers_come_in_the_order_in_which_they_were_noted() -> None:
    with Readout() as readout:
        places = [readout.note(torch.tensor(number)) for number in (3, 0.5, True)]
    later = readout.note(torch.tensor(7))
    numbers = readout.read()
    assert [numbers[place] for place in (*places, later)] == [3, 0.5, 1, 7]


def _read(tensors: dict[str, torch.Tensor], error: type[Exception] | None = None) -> None:
    with Readout() as readout:
        for what, tensor in tensors.items():
            readout.require_finite("m", {what: tensor})
        if error is not None:
            raise error


def test_the_first_check_that_fails_is_raised() -> None:
    with pytest.raises(NumericalError, match="the scores of m"):
        _read({"the weights": torch.ones(2), "the scores": NAN, "the inputs": NAN})


def test_what_failed_before_an_exception_is_raised_in_its_place() -> None:
    with pytest.raises(NumericalError, match="the weights of m"):
        _read({"the weights": NAN}, ArithmeticError)
    with pytest.raises(ArithmeticError):
        _read({"the weights": torch.ones(2)}, ArithmeticError)


def test_a_device_that_is_full_is_not_asked() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        _read({"the weights": NAN}, torch.OutOfMemoryError)


def test_a_device_is_waited_for_once() -> None:
    with watching(), CARD.account() as books:
        ours = {str(number): torch.full((4,), float(number), device=DEVICE) for number in range(5)}
        with Readout() as readout:
            readout.require_finite("m", ours | {"of the host": torch.ones(2)})
        assert books.waits == 1
        copied = to_host(list(ours.values()))
        assert books.waits == 2
    assert [each.device.type for each in copied] == ["cpu"] * 5
    assert copied[3].tolist() == [3.0] * 4
