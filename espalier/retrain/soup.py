"""A soup: members retrained from one pruned model, here or in jobs of their own, become one model by averaging."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from espalier.model import masks
from espalier.model.layout import Block
from espalier.model.weights import Weights
from espalier.recipe.members import vary
from espalier.retrain import rate_search, retrain
from espalier.retrain.averaging import Blend, Masks, greedy, require_equal
from espalier.retrain.train import held_out_loss
from espalier.retrain.training_text import split, training_windows
from espalier.session import Context


@dataclass(frozen=True)
class Member:
    """One finished retraining."""

    weights: Weights
    masks: Masks


def run(context: Context, member_dirs: Sequence[Path]) -> dict[str, Any]:
    """Average the artifacts of finished members over the weights of this job; what the report says of it."""
    context.trained["retraining"] = context.request.member_trained
    if (searched := context.stored("retraining").get("rate-search")) is not None:
        rate_search.tell(context, searched.data)
    cast = context.weights.cast
    return _blend(context, [Member(Weights(path, dtype=cast), Masks.of_folder(path)) for path in member_dirs])


def retrain_and_average(context: Context) -> dict[str, Any]:
    """Train the members one after the other in this process, each from the pruned weights, and average them."""
    soup = context.request.spec.soup
    assert context.retrain is not None
    assert soup is not None
    pruned, turn, members = context.weights, context.turn, []
    factor = retrain.search(context)
    for number, varied in enumerate(vary(context.retrain, soup, factor), start=1):
        context.weights, context.turn = pruned, turn.member(number, varied)
        retrain.run(context)
        members.append(Member(context.weights, Masks.of_weights(context.weights)))
    context.weights, context.turn = pruned, turn
    return _blend(context, members)


def _blend(context: Context, members: Sequence[Member]) -> dict[str, Any]:
    spec = context.retrain
    assert spec is not None
    require_equal([member.masks for member in members])
    _, held_out_NT = split(context, training_windows(context, spec))
    blocks = context.streamed.layout.blocks
    with context.phase("merging", total=len(blocks), unit="block") as phase:
        done = phase.finished()
        chosen = _choose(context, members, held_out_NT, spec.batch_size) if done is None else done["soup"]
        blend = Blend([members[index].weights for index in chosen["used"]])
        for block in blocks:
            began = time.monotonic()
            if phase.stored_block(block.index) is None:
                tensors = _changed(context, blend, block.tensors.values())
                kept = _kept(block, members[0].masks, tensors)
                if block is blocks[-1]:
                    tensors |= _changed(context, blend, _outer(context))
                phase.finish_block(block.index, tensors, kept, seconds=time.monotonic() - began)
            phase.progress(block.index + 1)
        context.protocol["soup"] = {"judged_on": "the retraining's held-out windows"}
        if done is None:
            phase.finish({"soup": chosen})
    return chosen


def _choose(context: Context, members: Sequence[Member], held_out_NT: torch.Tensor, batch_size: int) -> dict[str, Any]:
    """The held-out loss of every member and of the average, and whom the average is of."""
    soup = context.request.spec.soup
    assert soup is not None

    def loss(chosen: Sequence[int]) -> float:
        blend = Blend([members[index].weights for index in chosen])
        with context.streamed.whole(blend) as model:
            return held_out_loss(model, held_out_NT, batch_size=batch_size)

    alone = [loss([index]) for index in range(len(members))]
    if soup.average == "greedy":
        used, reached = greedy(alone, loss)
    else:
        used = list(range(len(members)))
        reached = loss(used)
    return {
        "average": soup.average, "vary": soup.vary, "members": alone,
        "used": used, "validation_loss": reached,
    }  # fmt: skip


def _changed(context: Context, blend: Blend, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The averaged tensors that differ from what all members started from."""
    tensors = {name: blend.get(name) for name in names}
    return {name: tensor for name, tensor in tensors.items() if not torch.equal(tensor, context.weights.get(name))}


def _outer(context: Context) -> set[str]:
    inside = {name for block in context.streamed.layout.blocks for name in block.tensors.values()}
    return set(context.streamed.tensors.values()) - inside


def _kept(block: Block, packed: Masks, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The masks of a block's matrices; the average is proved to be zero where they say so."""
    kept = {}
    for matrix in block.matrices:
        if matrix.name in packed.names:
            mask_OI = kept[matrix.name] = masks.unpack(packed.read(matrix.name), num_inputs=matrix.shape[1])
            if matrix.tensor in tensors:
                masks.prove(matrix.view(tensors[matrix.tensor]), mask_OI, module=matrix.name)
    return kept
