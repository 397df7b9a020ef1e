"""The pretend accelerator as a card, for machines that have none."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from espalier.model import numerics
from tests.gpu.cards import versions, waiting
from tests.standin.card import CARD, Allocation
from tests.standin.runs import computing
from tests.standin.tensors import DEVICE

MEMORY: Final = 10**9
_HOLD_NOTHING: Final = "import sys; print('held', flush=True); sys.stdin.read()"


class Standin:
    """The pretend accelerator of `tests/standin`."""

    device = DEVICE
    pretend = True

    def facts(self) -> dict[str, str]:
        """Return the same names as a card."""
        return {
            "name": "pretend",
            "memory": f"{MEMORY / 2**30:.1f} GiB",
            "compute_capability": "none",
        } | versions()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Let the engine take the pretend card for the device, with little memory."""
        with computing(), CARD.bounded(CARD.live + MEMORY), numerics.deterministic(torch.get_num_threads()):
            yield

    def holder(self, size: int) -> subprocess.Popen[str]:
        """Start a process for which memory is taken here until it ends."""
        process, held = waiting(_HOLD_NOTHING), [Allocation(CARD, size)]

        def release() -> None:
            process.wait()
            held.clear()
            CARD.release()

        threading.Thread(target=release, daemon=True).start()
        return process
