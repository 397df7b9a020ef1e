"""The memory of this machine, and whether it has a GPU; without torch."""

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


def host_memory_bytes() -> int:
    """Return the memory of the machine, or of the tightest control group around this process."""
    return min([psutil.virtual_memory().total, *groups.limits()])
