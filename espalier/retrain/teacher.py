"""The dense model as a teacher, held once in the compute dtype; whether free memory bears it is said before the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from espalier.errors import InsufficientMemoryError
from espalier.memory import training
from espalier.model.numerics import autocast, free_bytes, is_accelerator
from espalier.recipe.steps.retrain import Retrain
from espalier.session import Session
from espalier.training.losses import Distillation, Loss, language_loss


def check(session: Session) -> None:
    """Return what a teacher takes; raises InsufficientMemoryError where it does not fit beside the trained model."""
    spec = session.request.spec.retrain
    if spec is None or spec.loss == "cross_entropy":
        return
    itemsize = session.compute_dtype.itemsize
    needed, free = training.resident_bytes(spec, session.streamed.shape, itemsize=itemsize), free_bytes(session.device)
    if needed > free:
        raise InsufficientMemoryError(
            f"`loss: {spec.loss}` holds the dense model beside the trained one: {_mib(needed)} MiB, "
            f"and {_mib(free)} MiB are free",
            hint="Use `loss: cross_entropy`, compute_dtype bfloat16, or a larger machine.",
            class_="gpu_oom" if is_accelerator(session.device) else "host_oom",
        )
    session.reporter.warn("teacher_in_memory", f"Retraining beside a dense teacher takes {_mib(needed)} MiB of memory.")


@contextmanager
def teaching(session: Session, spec: Retrain) -> Iterator[Loss]:
    """Yield the loss of a spec; the teacher is in memory for as long."""
    if spec.loss == "cross_entropy":
        yield language_loss
        return
    with session.source_streamed.whole(session.source) as dense:
        yield Distillation(spec.loss, dense, autocast=autocast(session.device, session.compute_dtype))


def recomputes(session: Session, spec: Retrain) -> bool:
    """Tell whether blocks compute their activations again; what comes out is the same either way."""
    return training.recomputes(
        spec,
        session.streamed.shape,
        length=session.length_of(spec),
        itemsize=session.compute_dtype.itemsize,
        free_bytes=free_bytes(session.device),
    )


def _mib(size: int) -> int:
    return -(-size // 2**20)
