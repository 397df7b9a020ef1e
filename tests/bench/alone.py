"""One of our jobs in a process of its own, as a worker runs it: seconds of its phases, and its resident memory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from tests.fixtures.processes import high_water
from workers.messages import ComputeRequest


@dataclass(frozen=True)
class Run:
    """What one run took."""

    seconds: float
    peak_bytes: int
    """The most that the process ever had resident."""


def run(request: ComputeRequest, *phases: str) -> Run:
    """Compute a request in a child; the seconds are those of `phases`."""
    child = subprocess.Popen(
        [sys.executable, "-m", "workers.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdin:
        child.stdin.write(request.model_dump_json() + "\n")
    messages, peak = [], 0
    with child.stdout:
        for line in child.stdout:
            messages.append(json.loads(line))
            peak = max(peak, high_water(child.pid))
    if child.wait():
        raise RuntimeError(f"the job failed: {messages[-1]}")
    ended = {message["phase"]: message["seconds"] for message in messages if message["kind"] == "phase_completed"}
    return Run(sum(ended[phase] for phase in phases), peak)
