"""The memory that a job may take (`limits`): what its parts need, said before work, and how the walk keeps it.

Under `max_host_memory_bytes` the weights come from the files block by block anyway; hidden states move into a file and
perplexity is measured block by block where holding them, or the whole model, would go beyond the limit. None of it
changes a bit of the result. What needs more (retraining: the whole model, perhaps a teacher, and what the optimizer
keeps) is refused when that does not fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from app.specs import retraining, texts
from workers.engine.errors import NoRoomError
from workers.engine.layout import Block
from workers.engine.walk import TOKENS_PER_BATCH
from workers.methods.base import Need
from workers.phases.base import Context

WORK_BYTES = 32
"""Scores, their selection, a mask and two float32 copies, per weight of the matrix in work."""
STREAMS = 4
"""What reconstruction keeps of all hidden states at once: entering and leaving, for student and teacher."""


@dataclass(frozen=True)
class Room:
    """Bytes that the parts of a job take, computed from shapes."""

    process: int
    """What the libraries take before any weight is read."""
    outside: int
    """Embeddings and head in the compute dtype, while a walk starts or ends."""
    block: int
    """The largest block: its weights, its statistics, one batch of activations and the work on one matrix."""
    hidden: int
    """The hidden states of all calibration windows between two blocks."""
    model: int
    """The whole model in the compute dtype."""
    training: int = 0
    """What stays while it is retrained, where that is computed."""
    state: int = 0
    """What the host holds of a retraining on a GPU."""
    text: int = 0
    """What the largest text takes while it is tokenised, before any block is there."""

    @property
    def least(self) -> int:
        """What the smallest walk takes on the host."""
        return self.process + max(self.outside, self.block)


def check(context: Context) -> None:
    """Choose between memory and file, or raise NoRoomError with both numbers where a limit is too small."""
    request = context.request
    if request.max_device_memory_bytes is not None and context.device.type == "cpu":
        context.warn(
            "device_limit_ignored",
            "limits.max_device_memory_bytes means a GPU's memory, and this job runs on a CPU: "
            "limits.max_host_memory_bytes bounds it there.",
        )
    if request.max_device_memory_bytes is not None and context.device.type == "cuda":
        needed = measured(context)
        on_device = max(needed.outside, needed.block)
        _require(on_device, request.max_device_memory_bytes, "max_device_memory_bytes", what="one block")
        _require(needed.training, request.max_device_memory_bytes, "max_device_memory_bytes", what="retraining")
        context.by_blocks |= needed.model > request.max_device_memory_bytes
    if request.max_host_memory_bytes is not None:
        _check_host(context, measured(context), request.max_host_memory_bytes)


def _check_host(context: Context, room: Room, limit: int) -> None:
    on_host = context.device.type == "cpu"
    least = room.least if on_host else room.process + room.outside
    _require(room.process + room.text, limit, "max_host_memory_bytes", what="tokenising the text")
    _require(least, limit, "max_host_memory_bytes", what="one block")
    spec = context.request.spec
    whole = least + room.model
    if spec.retrain is not None:
        held = room.training if on_host else room.state
        _require(least + held, limit, "max_host_memory_bytes", what="retraining, which holds the whole model")
    if spec.reconstruct is not None:
        _require(least + STREAMS * room.hidden, limit, "max_host_memory_bytes", what="reconstruction's hidden states")
    if spec.structure or spec.evaluate.divergence or spec.evaluate.tasks or spec.evaluate.latency:
        _require(whole, limit, "max_host_memory_bytes", what="what is asked for, which holds the whole model")
    if least + room.hidden > limit:
        context.spill = Path(context.request.workspace) / "hidden"
    context.by_blocks |= on_host and whole > limit
    context.streamed.lean = on_host


def _require(needed: int, limit: int, name: str, *, what: str) -> None:
    if needed > limit:
        raise NoRoomError(
            f"limits.{name} is {limit} bytes, and {what} takes about {needed}",
            hint=f"Raise limits.{name} to at least {needed}, use compute_dtype bfloat16, or a method without Gram "
            "matrices.",
            class_="host_oom" if name == "max_host_memory_bytes" else "gpu_oom",
        )


def measured(context: Context) -> Room:
    """What the job's parts take, by shapes and dtypes; of the process, what it takes now."""
    streamed, item = context.streamed, context.compute_dtype.itemsize
    sizes = streamed.parameters
    inside = [
        sum(sizes[name] for name in set(block.tensors.values()) if name in sizes) for block in streamed.layout.blocks
    ]
    total = sum(sizes.values())
    request = context.request
    spec, calibration = request.spec, request.spec.calibration
    length = context.length_of(calibration)
    width = streamed.config.get_text_config().hidden_size
    blocks = [
        weights * (item + 3) + _working(block, _need(context), tokens=max(TOKENS_PER_BATCH, length), item=item)
        for block, weights in zip(streamed.layout.blocks, inside, strict=True)
    ]
    return Room(
        process=psutil.Process().memory_info().rss,
        outside=(total - sum(inside)) * item,
        block=max(blocks),
        hidden=calibration.samples * length * width * item,
        model=total * item,
        training=training_bytes(context),
        text=max((texts.memory_bytes(Path(path).stat().st_size) for path in request.datasets.values()), default=0),
        state=retraining.STATE_BYTES * retraining.trained(spec.retrain, _shapes(context)) if spec.retrain else 0,
    )


def training_bytes(context: Context) -> int:
    """What stays in memory while the job's model is retrained: weights, teacher, and what the optimizer keeps."""
    spec = context.request.spec.retrain
    return retraining.memory_bytes(spec, _shapes(context), itemsize=context.compute_dtype.itemsize) if spec else 0


def _shapes(context: Context) -> retraining.Shapes:
    streamed = context.streamed
    config = streamed.config.get_text_config()
    return retraining.Shapes(
        parameters=sum(streamed.parameters.values()),
        edges=sum(sum(matrix.shape) for matrix in streamed.layout.matrices),
        vocabulary=config.vocab_size, width=config.hidden_size,
    )  # fmt: skip


def _need(context: Context) -> Need:
    return "none" if context.step is None else context.step.reads


def _working(block: Block, need: Need, *, tokens: int, item: int) -> int:
    """Bytes beside a block's weights: activations, statistics, and the matrix in work."""
    activations = tokens * item * max(sum(matrix.shape) for matrix in block.matrices) * 3
    largest = max(matrix.shape[0] * matrix.shape[1] for matrix in block.matrices)
    grams = (
        {(matrix.local.rpartition(".")[0], matrix.shape[1]) for matrix in block.matrices} if need == "gram" else set()
    )
    widest = max((inputs for _, inputs in grams), default=0)
    return activations + largest * WORK_BYTES + sum(4 * inputs**2 for _, inputs in grams) + 3 * 4 * widest**2
