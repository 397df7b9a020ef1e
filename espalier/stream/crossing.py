"""Batches that cross from the host to a device, each while the one before it is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from espalier.model.numerics import is_accelerator

Take = Callable[[], torch.Tensor]
"""Returns a tensor that has begun to cross, once what is computed next may read it."""


def crossed(parts: Iterable[torch.Tensor], device: torch.device) -> Iterator[torch.Tensor]:
    """Yield tensors on a device, in order; of those on the host the next one begins to cross before one is yielded.

    At most one more than the one that is yielded lies on the device. A CPU, and what lies on the device already, cost
    nothing.
    """
    if not is_accelerator(device):
        yield from (part.to(device) for part in parts)
        return
    begin = _Stream(device).begin if device.type == "cuda" else begin_plainly(device)
    waiting: Take | None = None
    for part in parts:
        # By type: a device may be named without its number.
        following = begin(part) if part.device.type != device.type else (lambda part=part: part)
        if waiting is not None:
            yield waiting()
        waiting = following
    if waiting is not None:
        yield waiting()


def begin_plainly(device: torch.device) -> Callable[[torch.Tensor], Take]:
    """Let tensors cross one after the other, with nothing beside them."""

    def begin(part: torch.Tensor) -> Take:
        moved = part.to(device)
        return lambda: moved

    return begin


class _Stream:
    """A stream of a GPU for copies alone: kernels that are queued on the others do not hold them up."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._copies = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def begin(self, part: torch.Tensor) -> Take:
        # From pinned memory the copy engine reads by itself; torch keeps the pages until they have crossed.
        pinned = part.pin_memory()
        with torch.cuda.stream(self._copies):
            moved = pinned.to(self._device, non_blocking=True)
            done = self._copies.record_event()

        def take() -> torch.Tensor:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(done)
            moved.record_stream(computing)  # or its memory could be given to a copy while a kernel still reads it
            return moved

        return take
