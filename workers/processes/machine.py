"""The memory and threads of this machine, and whether it has a GPU; without torch."""

from __future__ import annotations

import psutil

from app.settings import Settings
from espalier.memory import Device
from workers.processes import cards, groups


def device_of(settings: Settings) -> Device:
    """Return the device that children compute on: `auto` is a GPU where nvidia-smi lists one."""
    if settings.device != "auto":
        return settings.device
    try:
        return "cuda" if cards.visible() else "cpu"
    except cards.NoCard:
        return "cpu"


def threads_of(settings: Settings, gpus: int | None) -> int:
    """Return the threads of each process of a job that names so many cards."""
    return max(1, settings.threads // (gpus or 1))


def host_memory_bytes() -> int:
    """Return the memory of the machine, or of the tightest control group around this process."""
    return min([psutil.virtual_memory().total, *groups.limits()])
