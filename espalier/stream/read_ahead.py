"""The stored tensors of the block that comes next, read while another one is computed.

For a GPU they are read into pinned memory of the host, one block at most, from where they cross at the full speed of
the bus. For a CPU the kernel is told to bring the pages: that takes no memory of the process, and no time of its cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from torch import nn

from espalier.model.numerics import is_accelerator
from espalier.model.streamed import StreamedModel
from espalier.model.weights import Weights

Origin = tuple[object, str, torch.dtype | None]


class ReadAhead:
    """Reads what is expected in a thread; what nobody expected, or what has changed since, is read when asked for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        """Reads one tensor after the other."""
        self._expected: dict[Origin, Future[torch.Tensor] | None] = {}
        """Where a tensor comes from -> the tensor to be; None once it was taken, or where the kernel was told."""

    def expect(self, weights: Weights, names: Iterable[str]) -> None:
        """Read these tensors soon, in this order; those that were expected before and nobody took are forgotten."""
        wanted = {weights.origin(name): name for name in names}
        if wanted.keys() == self._expected.keys():
            return
        self.forget()
        if not is_accelerator(self._device):
            for name in wanted.values():
                weights.expect(name)
            self._expected = dict.fromkeys(wanted)
            return
        self._expected = {origin: self.thread.submit(self._read, weights, name) for origin, name in wanted.items()}

    def _read(self, weights: Weights, name: str) -> torch.Tensor:
        tensor = weights.get(name)
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def get(self, weights: Weights, name: str) -> torch.Tensor:
        """Return a tensor on the device, in the dtype that `weights` have; raises what reading it raised."""
        origin = weights.origin(name)
        future = self._expected.get(origin)
        # What has not begun waits for others: it is read here and now.
        tensor = weights.get(name) if future is None or future.cancel() else future.result()
        if origin in self._expected:
            self._expected[origin] = None
        # From pinned memory the host need not wait: torch keeps the tensor's pages until they have crossed.
        return tensor.to(self._device, non_blocking=future is not None)

    def forget(self) -> None:
        """Give up what was expected and nobody took."""
        for future in self._expected.values():
            if future is not None:
                future.cancel()
        self._expected = {}


def blocks_in_turn(streamed: StreamedModel, weights: Weights) -> Iterator[nn.Module]:
    """Yield every block of a model in order, each gone when the next one comes, which is read meanwhile."""
    ahead = ReadAhead(streamed.device)
    for index in range(len(streamed.layout.blocks)):
        with streamed.block(index, weights, read=partial(ahead.get, weights)) as module:
            ahead.expect(weights, streamed.layout.tensors_of(index + 1))
            yield module
