"""Decide before work begins how the job keeps to the memory that is there, and to its `limits`.

Weights come from the files block by block anyway. Perplexity is measured block by block where the whole model does not
fit, on a GPU of nine tenths of what is free; under `max_host_memory_bytes` hidden states move into a file where holding
them would go beyond it. None of it changes a bit of the result. What needs more (retraining: the whole model, perhaps a
teacher, and what the optimizer keeps) is refused when that does not fit, before anything is measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import torch

from espalier.errors import InsufficientMemoryError
from espalier.memory import Device, MemoryEstimate, Need, decide, estimate, usable_bytes
from espalier.model import numerics
from espalier.model.weights import main_dtype
from espalier.session.state import Session

_ON_DEVICE, _ON_HOST = "max_device_memory_bytes", "max_host_memory_bytes"


def limiting(session: Session) -> AbstractContextManager[None]:
    """Let torch refuse, while the context holds, what goes beyond `limits.max_device_memory_bytes`."""
    return numerics.limiting_memory(session.device, session.request.max_device_memory_bytes)


def check(session: Session) -> None:
    """Choose how the job keeps to its memory, or raise InsufficientMemoryError with both numbers where it cannot."""
    request, computes_on_host = session.request, not numerics.is_accelerator(session.device)
    if request.max_device_memory_bytes is not None and computes_on_host:
        session.reporter.warn(
            "device_limit_ignored",
            "limits.max_device_memory_bytes means a GPU's memory, and this job runs on a CPU: "
            "limits.max_host_memory_bytes bounds it there.",
        )
    needed = measured(session)
    if computes_on_host:
        _decide_on_host(session, needed)
    else:
        _decide_on_device(session, needed)
    if request.ran_out:
        _take_less(session, needed)
    if request.max_host_memory_bytes is not None:  # last: it counts the hidden states where they are to lie
        _check_host(session, needed, request.max_host_memory_bytes)
    _agree(session)
    session.overlaps = holds_neighbours(session, needed)
    if session.by_blocks:
        _warn_by_blocks(session)


def _agree(session: Session) -> None:
    """Let every rank do as the first one has decided: what is free differs a little from card to card."""
    decided = session.by_blocks, session.micro_batch, session.states_in, session.streamed.lean
    decided = session.group.broadcast_object(decided)
    session.by_blocks, session.micro_batch, session.states_in, session.streamed.lean = decided


def _decide_on_device(session: Session, needed: MemoryEstimate) -> None:
    spec, limit = session.request.spec, session.request.max_device_memory_bytes
    free = numerics.free_bytes(session.device)
    there = int(usable_bytes(free))
    budget = there if limit is None else min(limit, there)
    decision = decide(needed, spec, device="cuda", budget=budget, halvings=_halvings(session))
    if limit is not None:
        _require(decision.lacking, limit, _ON_DEVICE)
    for need in decision.lacking:
        raise _does_not_fit(need, there, free, "gpu_oom")
    session.by_blocks |= decision.by_blocks
    session.micro_batch = decision.micro_batch
    if decision.states_on_device:
        session.states_in = session.device
    if decision.micro_batch is not None and not _halvings(session):
        assert spec.retrain is not None
        session.reporter.warn(
            "batch_in_parts",
            f"A batch of {spec.retrain.batch_size} windows does not fit into {budget // 2**20} MiB: they go through "
            f"the model {decision.micro_batch} at a time, and make one step as before.",
        )


def _decide_on_host(session: Session, needed: MemoryEstimate) -> None:
    """Decide by what is free beside this process; what does not fit but for retraining may still be swapped."""
    free = numerics.free_bytes(session.device)
    there = needed.process + int(usable_bytes(free))
    decision = decide(needed, session.request.spec, device="cpu", budget=there, halvings=_halvings(session))
    for need in decision.lacking:
        if need.pointer == "/spec/retrain":
            raise _does_not_fit(need, there, free, "host_oom")
    session.by_blocks |= decision.by_blocks
    session.micro_batch = decision.micro_batch


def _does_not_fit(need: Need, there: int, free: int, class_: str) -> InsufficientMemoryError:
    return InsufficientMemoryError(
        f"{need.what} takes about {need.bytes} bytes, and a job may take {there} of the {free} that are free.",
        hint=need.way_out,
        class_="gpu_oom" if class_ == "gpu_oom" else "host_oom",
    )


def _halvings(session: Session) -> int:
    return session.request.ran_out.get("retraining", 0)


def _take_less(session: Session, needed: MemoryEstimate) -> None:
    """Let an attempt that follows one without memory take less where it ran out, and say what."""
    request, less = session.request, list[str]()
    spec = request.spec
    if request.ran_out.keys() - {"retraining"} and not any(needed.required_whole(spec)):
        session.by_blocks = True
        less.append("perplexity is measured block by block")
    if request.ran_out_on_host and not isinstance(session.states_in, Path):
        session.states_in = Path(request.workspace) / "hidden"
        session.streamed.lean = not numerics.is_accelerator(session.device)
        less.append("hidden states lie in a file")
    elif session.states_in == session.device != numerics.CPU:
        session.states_in = numerics.CPU
        less.append("hidden states lie on the host")
    if session.micro_batch is not None and _halvings(session):
        less.append(f"retraining takes {session.micro_batch} windows of a batch at once")
    if "reconstructing" in request.ran_out and spec.reconstruct is not None:
        size = session.smaller_batch("reconstructing", spec.reconstruct.batch_size)
        less.append(f"reconstruction takes {size} windows of a batch at once")
        less += ["and a smaller window"] * (spec.reconstruct.window == "auto")
    where = ", ".join(request.ran_out)
    session.reporter.warn(
        "smaller_attempt",
        f"Memory ran out in {where}: {', '.join(less) or 'nothing is left that would take less'}. "
        "Batches in parts make the same steps but for rounding.",
    )


def _warn_by_blocks(session: Session) -> None:
    if session.request.spec.evaluate.latency:
        session.reporter.warn(
            "latency_not_measured",
            "The whole model does not fit into memory: it is measured block by block, and not timed.",
        )


def _check_host(session: Session, needed: MemoryEstimate, limit: int) -> None:
    computes = session.device.type == "cpu"
    device: Device = "cpu" if computes else "cuda"
    _require(needed.required_on_host(session.request.spec, device=device), limit, _ON_HOST)
    minimum = needed.min_on_host(device)
    session.by_blocks |= computes and decide(needed, session.request.spec, device=device, budget=limit).by_blocks
    beside = 0 if session.by_blocks or not computes else needed.scored
    states = needed.streams * needed.hidden_states if session.states_in == numerics.CPU else 0
    if max(minimum, needed.process + needed.samples + beside) + states > limit:
        session.states_in = Path(session.request.workspace) / "hidden"
    session.streamed.lean = computes


def holds_neighbours(session: Session, needed: MemoryEstimate) -> bool:
    """Tell whether the host holds the blocks before and behind the one at hand, beside all that it has to hold."""
    request, computes = session.request, not numerics.is_accelerator(session.device)
    there = needed.process + int(usable_bytes(numerics.free_bytes(numerics.CPU)))
    limit = there if request.max_host_memory_bytes is None else min(there, request.max_host_memory_bytes)
    states = needed.streams * needed.hidden_states if session.states_in == numerics.CPU else 0
    held = needed.min_on_host("cpu" if computes else "cuda") + states
    return not request.ran_out_on_host and held + session.group.size * needed.overlapping <= limit


def states_of(session: Session, windows_NT: torch.Tensor) -> Path | torch.device:
    """Return where the hidden states of a measurement by blocks lie: with the job's, while memory holds them there.

    Nobody knows before the texts are read how many windows they have.
    """
    shape, place = session.streamed.shape, session.states_in
    size = windows_NT.numel() * shape.width * session.compute_dtype.itemsize
    if place == session.device != numerics.CPU:
        beside = measured(session).scored_by_blocks
        place = place if beside + size <= usable_bytes(numerics.free_bytes(session.device)) else numerics.CPU
    if place == numerics.CPU and size > usable_bytes(numerics.free_bytes(numerics.CPU)):
        place = Path(session.request.workspace) / "hidden"
    return place


def _require(needs: Iterable[Need], limit: int, name: str) -> None:
    for need in needs:
        if need.bytes > limit:
            raise InsufficientMemoryError(
                f"limits.{name} is {limit} bytes, and {need.what} takes about {need.bytes}",
                hint=f"Raise limits.{name} to at least {need.bytes}, use compute_dtype bfloat16, or a method without "
                "Gram matrices.",
                class_="host_oom" if name == _ON_HOST else "gpu_oom",
            )


def measured(session: Session) -> MemoryEstimate:
    """Return what the job's parts take, by the model's shapes and dtypes; of the process, what it takes now."""
    return estimate(
        session.streamed.shape,
        session.request.spec,
        device="cuda" if numerics.is_accelerator(session.device) else "cpu",
        itemsize=session.compute_dtype.itemsize,
        stored=main_dtype(session.weights).itemsize,
        text_bytes=max((Path(path).stat().st_size for path in session.request.datasets.values()), default=0),
        process=psutil.Process().memory_info().rss,
        ranks=session.group.size,
    )
