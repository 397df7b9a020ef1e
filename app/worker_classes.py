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
EXAMPLE: Final = "cpu=16e9,gpu=80e9:2e14"


class WorkerClass(NamedTuple):
    """Workers with equal memory and device."""

    name: str
    memory_bytes: float = float("inf")
    """Of the device where they compute."""
    flops: float | None = None
    """Floating-point operations a second; None where the setting does not say."""

    @property
    def device(self) -> Device | None:
        """Where its workers compute: by their speed, or by a name that begins with cpu or gpu; else unknown."""
        if self.flops is not None:
            return "cuda" if self.flops >= GPU_FLOPS else "cpu"
        return "cpu" if self.name.startswith("cpu") else "cuda" if self.name.startswith("gpu") else None

    def seconds(self, operations: float) -> float:
        """Return how long so many operations take at least; 0 where nothing tells that they take long."""
        flops = self.flops or (CPU_FLOPS if self.device == "cpu" else None)
        return operations / flops if flops else 0.0


def parse_classes(text: str) -> list[WorkerClass]:
    """Return the worker classes of `name=bytes:flops,...`, smallest first; raises ValueError."""
    classes = []
    for item in text.split(","):
        name, _, rest = item.strip().partition("=")
        memory, _, flops = rest.partition(":")
        classes.append(
            WorkerClass(
                name.strip(),
                _number(memory, "bytes") if memory else float("inf"),
                _number(flops, "operations a second") if flops else None,
            )
        )
    names = [each.name for each in classes]
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(f"every class has a name of its own: {EXAMPLE}")
    if not all(map(_NAME.fullmatch, names)):
        raise ValueError(f"name each class by at most 64 letters, digits, `.`, `-` and `_`: {EXAMPLE}")
    if not all(before.memory_bytes <= after.memory_bytes for before, after in pairwise(classes)):
        raise ValueError(f"the classes stand smallest first: {EXAMPLE}")
    return classes


def class_named(classes: Iterable[WorkerClass], name: str) -> WorkerClass:
    """Return a worker class by its name; one that is not named any more is taken to hold everything."""
    return next((each for each in classes if each.name == name), WorkerClass(name))


def _number(text: str, unit: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{text} is no number of {unit}: give name=bytes:flops,... like {EXAMPLE}") from None
    if not number > 0:
        raise ValueError(f"give a number of {unit} above 0: {EXAMPLE}")
    return number
