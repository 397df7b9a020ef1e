"""The gated neurons of a block, for criteria that read them."""

from __future__ import annotations

from torch import nn

from espalier.model.layout import Block
from espalier.session import Session
from espalier.stream.gated_mlp import Gated


def gated_neurons(session: Session, block: Block, module: nn.Module) -> Gated:
    """Find them if the step's criterion reads them; a model without any is a warning, for nothing sets it apart."""
    step = session.step
    if step is None or not step.reads_neurons:
        return Gated({})
    gated = Gated.of(module, block.matrices)
    if not gated.readers:
        warn_of_none(session, block)
    return gated


def warn_of_none(session: Session, block: Block) -> None:
    """Say that a criterion which reads gated neurons found none in a block."""
    assert session.step is not None
    session.reporter.warn(
        "no_gated_neurons",
        f"No gated MLP was found in {block.name}: `{session.step.method}` scores all of its matrices by their inputs.",
    )
