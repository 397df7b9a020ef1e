"""Detect the device and its memory without torch."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil

from app.settings import Settings
from espalier.memory import Device
from workers.processes import groups


def device_of(settings: Settings) -> Device:
    """Return the device that children will compute on: `auto` is a GPU where its driver is loaded."""
    if settings.device != "auto":
        return settings.device
    return "cuda" if Path("/proc/driver/nvidia/version").exists() and _gpu_bytes() else "cpu"


def memory_bytes(device: str) -> int | None:
    """Return the memory of the device; None when it is unknown."""
    return _gpu_bytes() if device == "cuda" else min([psutil.virtual_memory().total, *groups.limits()])


def _gpu_bytes() -> int | None:
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        sizes = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
        return int(sizes[0]) * 2**20 if sizes else None
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
