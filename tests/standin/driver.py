"""What torch asks the module of a device, as it asks `torch.cuda`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from tests.standin.card import CARD


class Driver:
    """The module of the pretend card."""

    def __init__(self, name: str) -> None:
        self._name = name

    def is_initialized(self) -> bool:
        """Tell that it can be used."""
        return True

    def is_available(self) -> bool:
        """Tell that it is there."""
        return True

    def current_device(self) -> int:
        """Return the only one."""
        return 0

    def device_count(self) -> int:
        """Return how many there are."""
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def mem_get_info(self, _: Any = None) -> tuple[int, int]:
        """Return the bytes that are free, and all."""
        return CARD.capacity - CARD.reserved, CARD.capacity

    def memory_allocated(self, _: Any = None) -> int:
        """Return the bytes that tensors lie in."""
        return CARD.live

    def memory_reserved(self, _: Any = None) -> int:
        """Return the bytes that the allocator keeps."""
        return CARD.reserved

    def empty_cache(self) -> None:
        """Give back what the allocator keeps and nothing lies in."""
        CARD.release()

    def get_per_process_memory_fraction(self, _: Any = None) -> float:
        """Return what this process may take of the memory."""
        return CARD.fraction

    def set_per_process_memory_fraction(self, fraction: float, _: Any = None) -> None:
        """Bound what this process may take of the memory."""
        CARD.fraction = fraction

    def get_device_properties(self, _: Any = None) -> Any:
        """Return what a card says of itself."""
        return SimpleNamespace(total_memory=CARD.capacity, name=self._name, major=9, minor=0)

    def get_device_name(self, _: Any = None) -> str:
        """Return its name."""
        return self._name

    def max_memory_allocated(self, _: Any = None) -> int:
        """Return the high-water mark of its memory."""
        return CARD.books.peak

    def reset_peak_memory_stats(self, _: Any = None) -> None:
        """Begin a new high-water mark."""
        CARD.books.peak = CARD.live

    def is_bf16_supported(self, *, including_emulation: bool = True) -> bool:
        """Tell that it computes in bfloat16."""
        return True

    def synchronize(self, _: Any = None) -> None:
        """Wait: nothing is ever under way."""
        CARD.books.note("waits")

    def manual_seed_all(self, seed: int) -> None:
        """Do nothing: random numbers come from the CPU's generators."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Return what autocast may choose."""
        return [torch.bfloat16, torch.float16]
