"""How much memory a child may take: what the operator says, or a share of the machine's.

The limit is on data (RLIMIT_DATA), where the stacks of threads count, and files that are mapped to be written: there is
room for both on top, so that no honest job meets it. It is there for what runs wild, before the kernel picks a victim.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import BaseModel

from app.settings import Settings
from workers.messages import ComputeRequest
from workers.runs import machine

SHARE: Final = 0.9
"""Of the machine's memory, for a child that computes."""
MOST_FETCHING: Final = 4 * 2**30
LEAST_FETCHING: Final = 2**30
STACK_BYTES: Final = 16 * 2**20
"""Of a thread, twice: two libraries may keep a pool of them."""
SLACK_BYTES: Final = 2**28
MAPPED: Final = 2
"""Times the model's files, which transformers maps where it loads a whole model."""


def allowed(settings: Settings, request: BaseModel) -> int:
    """Return the bytes of data that the child of a request may have."""
    whole = machine.memory_bytes("cpu") or 2**63
    if not isinstance(request, ComputeRequest):
        return settings.fetch_memory_bytes or max(LEAST_FETCHING, min(MOST_FETCHING, whole // 4))
    room = settings.child_memory_bytes or int(whole * SHARE)
    limit = request.max_host_memory_bytes
    if limit is not None and machine.device_of(settings) == "cpu":  # drivers of a GPU count more than they hold
        room = min(room, limit + SLACK_BYTES)
    files = sum(path.stat().st_size for path in Path(request.model_dir).glob("*.safetensors"))
    return room + settings.threads * STACK_BYTES + MAPPED * files
