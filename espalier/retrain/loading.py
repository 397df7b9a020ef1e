"""Load the model that is retrained, and a teacher: whole on one rank, in rows over several."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from espalier.distributed.group import telling_lost_peers
from espalier.model.layout import Block, find_stack
from espalier.model.streamed import StreamedModel, fill
from espalier.model.weights import Weights
from espalier.recipe.steps.retrain import Retrain
from espalier.retrain.trainable_parameters import Among, select_trainable_parameters
from espalier.session import Session
from espalier.training.sharding import LoadedPart, Sharding


@contextmanager
def trained_model(session: Session, spec: Retrain) -> Iterator[Sharding]:
    """Yield the model of a session with what a spec trains in it."""
    if session.group.size == 1:
        with session.streamed.whole(session.weights) as model:
            yield Sharding.alone(model, select_trainable_parameters(session, model, spec))
        return
    model = empty_model(session.streamed)

    def parts() -> Iterator[LoadedPart]:
        for module, block in _filled(model, session.streamed, session.weights):
            among = _among(block, session.streamed)
            yield module, select_trainable_parameters(session, model, spec, among=among)

    with telling_lost_peers():
        yield Sharding.of(model, parts(), session.group, session.device)


@contextmanager
def frozen_model(session: Session, streamed: StreamedModel, weights: Weights) -> Iterator[Sharding]:
    """Yield a model in which nothing is trained."""
    if session.group.size == 1:
        with streamed.whole(weights) as model:
            yield Sharding.alone(model, ())
        return
    model = empty_model(streamed)
    parts = ((module, ()) for module, _ in _filled(model, streamed, weights))
    with telling_lost_peers():
        yield Sharding.of(model, parts, session.group, session.device)


def empty_model(streamed: StreamedModel) -> nn.Module:
    """Copy a model without its weights."""
    return copy.deepcopy(streamed.model, memo={id(streamed.config): streamed.config}).eval()


def _filled(model: nn.Module, streamed: StreamedModel, weights: Weights) -> Iterator[tuple[nn.Module, Block | None]]:
    """Fill the blocks of an empty model, and at last what lies outside them; yield each once its weights are there."""

    def read(name: str) -> torch.Tensor:
        return weights.get(name).to(streamed.device)  # in the dtype of the file: it is cast there

    outer = dict(streamed.tensors)
    for block, module in zip(streamed.layout.blocks, find_stack(model)[1], strict=True):
        fill(module, block.tensors, read, dtype=streamed.compute_dtype)
        outer = {name: tensor for name, tensor in outer.items() if not name.startswith(f"{block.name}.")}
        yield module, block
    fill(model, outer, read, dtype=streamed.compute_dtype)
    yield model, None


def _among(block: Block | None, streamed: StreamedModel) -> Among:
    """Return what tells the names of a part: a block, or what lies outside all of them."""
    if block is not None:
        return lambda name: name.startswith(f"{block.name}.")
    blocks = tuple(f"{each.name}." for each in streamed.layout.blocks)
    return lambda name: not name.startswith(blocks)
