"""The gated neurons of a block, for criteria that read them."""

from __future__ import annotations

from torch import nn

from espalier.model.layout import Block
from espalier.session import Context
from espalier.stream.gated_mlp import Gated


def gated_neurons(context: Context, block: Block, module: nn.Module) -> Gated:
    """Find them if the step's criterion reads them; a model without any is a warning, for nothing sets it apart."""
    step = context.step
    if step is None or not step.reads_neurons:
        return Gated({})
    gated = Gated.of(module, block.matrices)
    if not gated.readers:
        warn_of_none(context, block)
    return gated


def warn_of_none(context: Context, block: Block) -> None:
    """Say that a criterion which reads gated neurons found none in a block."""
    assert context.step is not None
    context.warn(
        "no_gated_neurons",
        f"No gated MLP was found in {block.name}: `{context.step.method}` scores all of its matrices by their inputs.",
    )
