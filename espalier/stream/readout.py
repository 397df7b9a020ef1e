"""Numbers and checks of many tensors, for which the host waits once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import torch

from espalier.model.numerics import fault_of, is_accelerator, not_finite, synchronize


class Readout:
    """Collects what is to be read of a device, until `read` or the end of the context waits for all of it.

    A context that ends with an exception raises the first check that failed before it, if one did: what computes on
    numbers that are not finite may stumble over them anywhere.
    """

    def __init__(self) -> None:
        self._values: list[torch.Tensor] = []
        self._errors: dict[int, Exception] = {}
        self._read: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or (isinstance(error, Exception) and fault_of(error) is None):
            self.read()

    def note(self, value: torch.Tensor) -> int:
        """Note a number, a tensor of no dimension; return its place in what is read."""
        self._values.append(value.double())
        return len(self._values) - 1

    def require(self, holds: torch.Tensor, error: Exception) -> None:
        """Let `read` raise an error unless a boolean tensor of no dimension is true; of several the first."""
        self._errors[self.note(holds)] = error

    def require_finite(self, module: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Let `read` raise NumericalError for the first tensor that holds NaN or infinity; `tensors`: name -> it."""
        for what, tensor in tensors.items():
            self.require(torch.isfinite(tensor).all(), not_finite(module, what))

    def read(self) -> list[float]:
        """Wait for what was noted since the last time, raise the first check that fails, and return all numbers."""
        begin, new = len(self._read), self._values[len(self._read) :]
        devices = {value.device for value in new}
        read = {
            device: iter(torch.stack([each for each in new if each.device == device]).tolist()) for device in devices
        }
        self._read += [next(read[value.device]) for value in new]
        for place, error in self._errors.items():
            if place >= begin and not self._read[place]:
                raise error
        return self._read


def to_host(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Copy tensors of one device to the host, and wait for all of them once; of a CPU they are returned as they are."""
    # From a GPU torch lets such a copy end in pinned memory, which is what makes it run behind the host's back.
    copied = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
    for device in {tensor.device for tensor in tensors if is_accelerator(tensor.device)}:
        synchronize(device)
    return copied
