"""The dense model as a teacher, held once in the compute dtype; its memory is told before the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from espalier.memory import training
from espalier.model.numerics import autocast, free_bytes
from espalier.recipe.steps.retrain import Retrain
from espalier.retrain.loading import frozen_model
from espalier.session import Session
from espalier.training.losses import Distillation, Loss, language_loss
from espalier.training.sharding import Sharding


def warn(session: Session) -> None:
    """Tell what a retraining beside a teacher takes."""
    spec = session.request.spec.retrain
    if spec is None or spec.loss == "cross_entropy":
        return
    itemsize, ranks = session.compute_dtype.itemsize, session.group.size
    needed = training.resident_bytes(spec, session.streamed.shape, itemsize=itemsize, ranks=ranks)
    session.reporter.warn("teacher_in_memory", f"Retraining beside a dense teacher takes {_mib(needed)} MiB of memory.")


@contextmanager
def teaching(session: Session, spec: Retrain, sharding: Sharding) -> Iterator[Loss]:
    """Yield the loss of a spec, for who is trained as `sharding` says; the teacher is in memory for as long."""
    if spec.loss == "cross_entropy":
        yield language_loss
        return
    with frozen_model(session, session.source_streamed, session.source) as dense:
        narrowing = autocast(session.device, session.compute_dtype)
        mean = sharding.mean if session.group.size > 1 else None
        yield Distillation(spec.loss, dense.model, autocast=narrowing, mean=mean)


def recomputes(session: Session, spec: Retrain) -> bool:
    """Tell whether blocks compute their activations again; what comes out is the same either way."""
    ranks = session.group.size
    return session.group.broadcast_object(
        training.recomputes(
            spec,
            session.streamed.shape,
            windows=session.micro_batch or -(-spec.batch_size // ranks),
            length=session.length_of(spec),
            itemsize=session.compute_dtype.itemsize,
            free_bytes=free_bytes(session.device),
            ranks=ranks,
        )
    )


def _mib(size: int) -> int:
    return -(-size // 2**20)
