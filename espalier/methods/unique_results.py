"""Operators that have one result in any order: a GPU need not sort for them, nor refuse them, to be deterministic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from espalier.methods.lazy_torch import torch

if TYPE_CHECKING:
    from torch import Tensor, device


@contextmanager
def unique_result(of: device) -> Iterator[None]:
    """Switch torch's deterministic mode off on a GPU while operators run that have one result in any order.

    For values that are selected, and writes or additions to places of which none occurs twice; never for sums. The
    switch is the process's: no other thread may launch kernels meanwhile.
    """
    # The public switch goes through the compiler's settings, which takes longer than a small kernel.
    switches = torch._C
    if of.type == "cpu" or not switches._get_deterministic_algorithms():
        yield
        return
    warn_only = switches._get_deterministic_algorithms_warn_only()
    switches._set_deterministic_algorithms(False, warn_only=False)
    try:
        yield
    finally:
        switches._set_deterministic_algorithms(True, warn_only=warn_only)


def scatter_unique(into: Tensor, index: Tensor, source: Tensor | float) -> Tensor:
    """Write `source` into the last dimension of `into`, in place, where no index of a row occurs twice; return it."""
    with unique_result(into.device):
        return into.scatter_(-1, index, source)
