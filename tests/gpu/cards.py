"""The card that the proof runs on, and what rows ask of it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Final, Protocol

import torch

from espalier.model import numerics
from espalier.recipe.spec import ENGINE_VERSION

_HOLD: Final = """
import sys, torch
held = torch.zeros(int(sys.argv[1]), dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
print("held", flush=True)
sys.stdin.read()
"""


class NoAcceleratorError(Exception):
    """There is nothing to prove it on."""


class Card(Protocol):
    """What a row asks of the card."""

    device: torch.device
    pretend: bool

    def facts(self) -> dict[str, str]:
        """Return what is known of the card and the software: nothing that tells whose it is."""

    def computing(self) -> Any:
        """Return a context in which jobs compute on the card, deterministically."""

    def holder(self, size: int) -> subprocess.Popen[str]:
        """Start a process that takes so many bytes of the card, says `held`, and waits."""


class Cuda:
    """The first card that CUDA shows."""

    device = torch.device("cuda", 0)
    pretend = False

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise NoAcceleratorError(
                f"There is no accelerator: torch {torch.__version__} finds no CUDA device (see `nvidia-smi`, "
                "CUDA_VISIBLE_DEVICES, and whether torch is a build with CUDA). To see the program itself run, on a "
                "pretend one and without a result: python3 -m tests.gpu --standin"
            )

    def facts(self) -> dict[str, str]:
        """Return name, memory, compute capability, and versions."""
        card = torch.cuda.get_device_properties(self.device)
        return {
            "name": card.name,
            "memory": f"{card.total_memory / 2**30:.1f} GiB",
            "compute_capability": f"{card.major}.{card.minor}",
            "CUDA": str(torch.version.cuda or torch.version.hip),
        } | versions()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute as a child of a worker does."""
        with numerics.deterministic(os.cpu_count() or 1):
            yield

    def holder(self, size: int) -> subprocess.Popen[str]:
        """Start a process with a context of its own."""
        return waiting(_HOLD, str(size))


def waiting(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a program that says `held` and waits to be killed, or for its standard input to end."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    packages = {name: version(name) for name in ("torch", "transformers")}
    return {"python": platform.python_version(), **packages, "engine": str(ENGINE_VERSION)}
