"""Memory limit of a child: what the operator sets, or a fraction of the machine's memory.

Where the worker may make control groups, the limit is on what the child and all that it starts hold, and the kernel
ends them beyond it. RLIMIT_DATA bounds each process in any case. The stacks of threads count there, and files that are
mapped to be written: there is room for both on top, so that no honest job meets it. It stays because it refuses where a
group kills: what blows up gets a MemoryError in the process itself, which knows what it was reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from app.settings import Settings
from espalier.messages import ComputeRequest
from workers.processes import machine

SHARE: Final = 0.9
"""Of the machine's memory, for a child that computes."""
MOST_FETCHING: Final = 4 * 2**30
LEAST_FETCHING: Final = 2**30
STACK_BYTES: Final = 16 * 2**20
"""Of a thread, twice: two libraries may keep a pool of them."""
SLACK_BYTES: Final = 2**28
MAPPED: Final = 2
"""Times the model's files, which transformers maps where it loads a whole model."""


@dataclass(frozen=True)
class MemoryLimits:
    """What a child may take, in bytes."""

    held: int
    """Of memory, with all that it starts."""
    data: int
    """Of what one process reserves for itself alone."""


def allowed(settings: Settings, request: BaseModel) -> MemoryLimits:
    """Return what the child of a request may take."""
    whole = machine.host_memory_bytes()
    if not isinstance(request, ComputeRequest):
        room = settings.fetch_memory_bytes or max(LEAST_FETCHING, min(MOST_FETCHING, whole // 4))
        return MemoryLimits(room, room)
    room = each = settings.child_memory_bytes or int(whole * SHARE)
    limit = request.max_host_memory_bytes
    if limit is not None and machine.device_of(settings) == "cpu":  # drivers of a GPU count more than they hold
        # Of ranks, the limit is on each; who launches and who forks them hold less.
        processes = request.ranks + 2 * (request.ranks > 1)
        room, each = (min(room, count * limit + SLACK_BYTES) for count in (processes, 1))
    files = sum(path.stat().st_size for path in Path(request.model_dir).glob("*.safetensors"))
    return MemoryLimits(room, each + settings.threads * STACK_BYTES + MAPPED * files)
