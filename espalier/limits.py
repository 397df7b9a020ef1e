"""The memory that a job may take (`limits`): what its parts need, said before work, and how the walk keeps it.

Under `max_host_memory_bytes` the weights come from the files block by block anyway; hidden states move into a file and
perplexity is measured block by block where holding them, or the whole model, would go beyond the limit. None of it
changes a bit of the result. What needs more (retraining: the whole model, perhaps a teacher, and what the optimizer
keeps) is refused when that does not fit.
"""

from __future__ import annotations

from pathlib import Path

import psutil

from espalier.errors import NoRoomError
from espalier.memory import retraining, shapes, texts
from espalier.memory.shapes import Room
from espalier.session import Session
from espalier.stream.walk import TOKENS_PER_BATCH


def check(session: Session) -> None:
    """Choose between memory and file, or raise NoRoomError with both numbers where a limit is too small."""
    request = session.request
    if request.max_device_memory_bytes is not None and session.device.type == "cpu":
        session.reporter.warn(
            "device_limit_ignored",
            "limits.max_device_memory_bytes means a GPU's memory, and this job runs on a CPU: "
            "limits.max_host_memory_bytes bounds it there.",
        )
    if request.max_device_memory_bytes is not None and session.device.type == "cuda":
        needed = measured(session)
        on_device = max(needed.outside, needed.block)
        _require(on_device, request.max_device_memory_bytes, "max_device_memory_bytes", what="one block")
        _require(needed.training, request.max_device_memory_bytes, "max_device_memory_bytes", what="retraining")
        session.by_blocks |= needed.model > request.max_device_memory_bytes
    if request.max_host_memory_bytes is not None:
        _check_host(session, measured(session), request.max_host_memory_bytes)


def _check_host(session: Session, room: Room, limit: int) -> None:
    on_host = session.device.type == "cpu"
    for needed, what in room.on_host(session.request.spec, computes=on_host):
        _require(needed, limit, "max_host_memory_bytes", what=what)
    least = room.least if on_host else room.process + room.outside
    if least + room.hidden > limit:
        session.spill = Path(session.request.workspace) / "hidden"
    session.by_blocks |= on_host and least + room.model > limit
    session.streamed.lean = on_host


def _require(needed: int, limit: int, name: str, *, what: str) -> None:
    if needed > limit:
        raise NoRoomError(
            f"limits.{name} is {limit} bytes, and {what} takes about {needed}",
            hint=f"Raise limits.{name} to at least {needed}, use compute_dtype bfloat16, or a method without Gram "
            "matrices.",
            class_="host_oom" if name == "max_host_memory_bytes" else "gpu_oom",
        )


def measured(session: Session) -> Room:
    """What the job's parts take, by shapes and dtypes; of the process, what it takes now."""
    streamed, item = session.streamed, session.compute_dtype.itemsize
    sizes = streamed.parameters
    inside = [
        sum(sizes[name] for name in set(block.tensors.values()) if name in sizes) for block in streamed.layout.blocks
    ]
    total = sum(sizes.values())
    request = session.request
    spec, calibration = request.spec, request.spec.calibration
    length = session.length_of(calibration)
    width = streamed.config.get_text_config().hidden_size
    blocks = [
        weights * (item + 3)
        + shapes.working_bytes(
            [(matrix.local, *matrix.shape) for matrix in block.matrices],
            gram=session.step is not None and session.step.reads == "gram",
            tokens=max(TOKENS_PER_BATCH, length),
            itemsize=item,
        )
        for block, weights in zip(streamed.layout.blocks, inside, strict=True)
    ]
    return Room(
        process=psutil.Process().memory_info().rss,
        outside=(total - sum(inside)) * item,
        block=max(blocks),
        hidden=calibration.samples * length * width * item,
        model=total * item,
        training=training_bytes(session),
        text=max((texts.memory_bytes(Path(path).stat().st_size) for path in request.datasets.values()), default=0),
        state=retraining.STATE_BYTES * retraining.trained(spec.retrain, _shapes(session)) if spec.retrain else 0,
    )


def training_bytes(session: Session) -> int:
    """What stays in memory while the job's model is retrained: weights, teacher, and what the optimizer keeps."""
    spec = session.request.spec.retrain
    return retraining.memory_bytes(spec, _shapes(session), itemsize=session.compute_dtype.itemsize) if spec else 0


def _shapes(session: Session) -> retraining.Shapes:
    streamed = session.streamed
    config = streamed.config.get_text_config()
    return retraining.Shapes(
        parameters=sum(streamed.parameters.values()),
        edges=sum(sum(matrix.shape) for matrix in streamed.layout.matrices),
        vocabulary=config.vocab_size, width=config.hidden_size,
    )  # fmt: skip
