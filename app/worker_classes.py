"""Worker classes: what their workers hold and how fast they compute, as `ESPALIER_WORKER_CLASSES` names them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from espalier.memory import Device

CPU_FLOPS: Final = 1e11
"""Floating-point operations a second that a CPU reaches in matrix products, where its class does not say."""
GPU_FLOPS: Final = 1e13
"""From here on a class is taken for one of GPUs: no CPU reaches it, every GPU with bfloat16 does."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Queues, files of the embedded broker and series of metrics bear it."""
EXAMPLE: Final = "cpu=16e9,gpu=80e9:2e14,gpu8=80e9x8:2e14"
CARDS: Final = (1, 2, 4, 8)
"""How many cards a worker of a class may have: what `limits.gpus` may ask for."""


class WorkerClass(NamedTuple):
    """Workers with equal memory and device."""

    name: str
    memory_bytes: float = float("inf")
    """Of the device where they compute; of each card, where a worker has several."""
    flops: float | None = None
    """Floating-point operations a second, of each card; None where the setting does not say."""
    cards: int = 1
    """Cards of each worker, all of which compute one job; of a class of CPUs, processes that share them."""

    @property
    def device(self) -> Device | None:
        """Where its workers compute: by their speed, or by a name that begins with cpu or gpu; else unknown."""
        if self.flops is not None:
            return "cuda" if self.flops >= GPU_FLOPS else "cpu"
        return "cpu" if self.name.startswith("cpu") else "cuda" if self.name.startswith("gpu") else None

    def seconds(self, operations: float) -> float:
        """Return how long so many operations take one card at least; 0 where nothing tells that they take long."""
        flops = self.flops or (CPU_FLOPS if self.device == "cpu" else None)
        return operations / flops if flops else 0.0


def parse_classes(text: str) -> list[WorkerClass]:
    """Return the worker classes of `name=bytes[xCARDS]:flops,...`, smallest first; raises ValueError."""
    classes = []
    for item in text.split(","):
        name, _, rest = item.strip().partition("=")
        size, _, flops = rest.partition(":")
        memory, several, cards = size.partition("x")
        classes.append(
            WorkerClass(
                name.strip(),
                _number(memory, "bytes") if memory or several else float("inf"),
                _number(flops, "operations a second") if flops else None,
                _cards(cards) if several else 1,
            )
        )
    names = [each.name for each in classes]
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(f"every class has a name of its own: {EXAMPLE}")
    if not all(map(_NAME.fullmatch, names)):
        raise ValueError(f"name each class by at most 64 letters, digits, `.`, `-` and `_`: {EXAMPLE}")
    for number in CARDS:  # a job goes to classes of its own number of cards alone
        alike = [each.memory_bytes for each in classes if each.cards == number]
        if not all(before <= after for before, after in pairwise(alike)):
            raise ValueError(f"the classes stand smallest first, each number of cards for itself: {EXAMPLE}")
    return classes


def class_named(classes: Iterable[WorkerClass], name: str) -> WorkerClass:
    """Return a worker class by its name; one that is not named any more is taken to hold everything."""
    return next((each for each in classes if each.name == name), WorkerClass(name))


def _cards(text: str) -> int:
    if text not in map(str, CARDS):
        raise ValueError(f"give a worker 1, 2, 4 or 8 cards and not {text!r}, as in {EXAMPLE}")
    return int(text)


def _number(text: str, unit: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{text} is no number of {unit}: give name=bytes[xCARDS]:flops,... like {EXAMPLE}") from None
    if not number > 0:
        raise ValueError(f"give a number of {unit} above 0: {EXAMPLE}")
    return number
