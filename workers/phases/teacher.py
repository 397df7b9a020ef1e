"""The dense model as a teacher, held once in the compute dtype; whether memory bears it is said before the job runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from app.specs.steps import Retrain
from workers.engine.errors import NoRoomError
from workers.engine.losses import Distillation, Loss, language_loss
from workers.engine.numerics import autocast
from workers.engine.recompute import LARGE, activation_bytes
from workers.phases.base import Context


def check(context: Context) -> None:
    """Say what a teacher takes, or raise NoRoomError where it cannot fit beside the model that is trained."""
    spec = context.request.spec.retrain
    if spec is None or spec.loss == "cross_entropy":
        return
    held, free = model_bytes(context), _allowed_bytes(context)
    if 2 * held > free:
        raise NoRoomError(
            f"`loss: {spec.loss}` holds the dense model beside the trained one: {_mib(2 * held)} MiB, "
            f"and {_mib(free)} MiB are free",
            hint="Use `loss: cross_entropy`, compute_dtype bfloat16, or a larger machine.",
            class_="gpu_oom" if context.device.type == "cuda" else "host_oom",
        )
    context.warn("teacher_in_memory", f"The dense teacher takes {_mib(held)} MiB of memory beside the trained model.")


@contextmanager
def teaching(context: Context, spec: Retrain) -> Iterator[Loss]:
    """Yield the loss of a spec; the teacher is in memory for as long."""
    if spec.loss == "cross_entropy":
        yield language_loss
        return
    with context.source_streamed.whole(context.source) as dense:
        yield Distillation(spec.loss, dense, autocast=autocast(context.device, context.compute_dtype))


def recomputes(context: Context, spec: Retrain) -> bool:
    """Tell whether blocks compute their activations again; what comes out is the same either way."""
    if spec.gradient_checkpointing != "auto":
        return spec.gradient_checkpointing
    tokens = spec.batch_size * context.length_of(spec)
    kept = activation_bytes(context.streamed.layout, tokens=tokens, itemsize=context.compute_dtype.itemsize)
    return kept > LARGE * free_bytes(context.device)


def model_bytes(context: Context) -> int:
    """The model's parameters in the compute dtype."""
    return sum(context.streamed.parameters.values()) * context.compute_dtype.itemsize


def free_bytes(device: torch.device) -> int:
    """Memory that is free where the model is computed."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else int(psutil.virtual_memory().available)


def _allowed_bytes(context: Context) -> int:
    """What is free, or the job's limit where that is less."""
    request = context.request
    limit = request.max_device_memory_bytes if context.device.type == "cuda" else request.max_host_memory_bytes
    free = free_bytes(context.device)
    return free if limit is None else min(free, limit)


def _mib(size: int) -> int:
    return -(-size // 2**20)
