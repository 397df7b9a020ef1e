"""Estimate memory before work begins, and choose spilling or block-by-block scoring under `limits`.

Under `max_host_memory_bytes` the weights come from the files block by block anyway; hidden states move into a file and
perplexity is measured block by block where holding them, or the whole model, would go beyond the limit. None of it
changes a bit of the result. What needs more (retraining: the whole model, perhaps a teacher, and what the optimizer
keeps) is refused when that does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil

from espalier.errors import InsufficientMemoryError
from espalier.memory import Device, MemoryEstimate, estimate
from espalier.session.state import Session


def check(session: Session) -> None:
    """Choose between memory and file, or raise InsufficientMemoryError with both numbers where a limit is too small."""
    request, device = session.request, session.device.type
    if request.max_device_memory_bytes is not None and device == "cpu":
        session.reporter.warn(
            "device_limit_ignored",
            "limits.max_device_memory_bytes means a GPU's memory, and this job runs on a CPU: "
            "limits.max_host_memory_bytes bounds it there.",
        )
    if request.max_device_memory_bytes is not None and device != "cpu":
        needed = measured(session)
        _require(needed.required_on_device(), request.max_device_memory_bytes, "max_device_memory_bytes")
        session.by_blocks |= needed.model > request.max_device_memory_bytes
    if request.max_host_memory_bytes is not None:
        _check_host(session, measured(session), request.max_host_memory_bytes)


def _check_host(session: Session, needed: MemoryEstimate, limit: int) -> None:
    computes = session.device.type == "cpu"
    device: Device = "cpu" if computes else "cuda"
    _require(needed.required_on_host(session.request.spec, device=device), limit, "max_host_memory_bytes")
    minimum = needed.min_on_host(device)
    session.by_blocks |= computes and minimum + needed.scored > limit
    beside = 0 if session.by_blocks or not computes else needed.scored
    if max(minimum, needed.process + needed.samples + beside) + needed.streams * needed.hidden_states > limit:
        session.spill = Path(session.request.workspace) / "hidden"
    session.streamed.lean = computes


def _require(needs: Iterable[tuple[int, str]], limit: int, name: str) -> None:
    for needed, what in needs:
        if needed > limit:
            raise InsufficientMemoryError(
                f"limits.{name} is {limit} bytes, and {what} takes about {needed}",
                hint=f"Raise limits.{name} to at least {needed}, use compute_dtype bfloat16, or a method without Gram "
                "matrices.",
                class_="host_oom" if name == "max_host_memory_bytes" else "gpu_oom",
            )


def measured(session: Session) -> MemoryEstimate:
    """Return what the job's parts take, by the model's shapes and dtypes; of the process, what it takes now."""
    return estimate(
        session.streamed.shape,
        session.request.spec,
        itemsize=session.compute_dtype.itemsize,
        text_bytes=max((Path(path).stat().st_size for path in session.request.datasets.values()), default=0),
        process=psutil.Process().memory_info().rss,
    )
