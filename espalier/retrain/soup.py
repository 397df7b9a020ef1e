"""A soup: members retrained from one pruned model, here or in jobs of their own, become one model by averaging."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from espalier.checkpoint_names import RATE_SEARCH
from espalier.model import masks
from espalier.model.layout import Block
from espalier.model.weights import Weights
from espalier.recipe.steps.recovery import vary
from espalier.retrain import rate_search, retraining
from espalier.retrain.averaging import Blend, Masks, greedy, require_equal
from espalier.retrain.loading import frozen_model
from espalier.retrain.train import held_out_loss
from espalier.retrain.training_text import split, training_windows
from espalier.session import Session
from espalier.session.resume import finish_block, restore_block


@dataclass(frozen=True)
class Member:
    """One finished retraining."""

    weights: Weights
    masks: Masks


def run(session: Session, member_dirs: Sequence[Path]) -> dict[str, Any]:
    """Average the artifacts of finished members over the weights of this job; return the report's entry."""
    session.results.trained_parameters["retraining"] = session.request.member_trained
    if (searched := session.reporter.stored("retraining", RATE_SEARCH)) is not None:
        rate_search.describe_search(session, searched.data)
    cast = session.weights.cast
    return average_members(session, [Member(Weights(path, dtype=cast), Masks.of_folder(path)) for path in member_dirs])


def retrain_and_average(session: Session) -> dict[str, Any]:
    """Train the members one after the other in this process, each from the pruned weights, and average them."""
    soup = session.request.spec.soup
    assert session.retrain is not None
    assert soup is not None
    pruned, repetition, members = session.weights, session.repetition, []
    factor = retraining.search(session)
    for number, varied in enumerate(vary(session.retrain, soup, factor), start=1):
        session.weights, session.repetition = pruned, repetition.member(number, varied)
        retraining.run(session)
        members.append(Member(session.weights, Masks.of_weights(session.weights)))
    session.weights, session.repetition = pruned, repetition
    return average_members(session, members)


def average_members(session: Session, members: Sequence[Member]) -> dict[str, Any]:
    """Average members into the weights of the job, and report how each of them did."""
    spec = session.retrain
    assert spec is not None
    require_equal([member.masks for member in members])
    _, held_out_NT = split(session, training_windows(session, spec))
    blocks = session.streamed.layout.blocks
    with session.reporter.phase("merging", total=len(blocks), unit="block") as phase:
        done = phase.finished()
        chosen = (
            _choose(session, members, held_out_NT, session.micro_batch or spec.batch_size)
            if done is None
            else done["soup"]
        )
        blend = Blend([members[index].weights for index in chosen["used"]])
        for block in blocks:
            began = time.monotonic()
            if restore_block(session, phase, block.index) is None:
                tensors = _changed(session, blend, block.tensors.values())
                kept = _kept(block, members[0].masks, tensors)
                if block is blocks[-1]:
                    tensors |= _changed(session, blend, _outer(session))
                finish_block(session, phase, block.index, tensors, kept, seconds=time.monotonic() - began)
            phase.progress(block.index + 1)
        session.results.protocol["soup"] = {"judged_on": "the retraining's held-out windows"}
        if done is None:
            phase.finish({"soup": chosen})
    return chosen


def _choose(session: Session, members: Sequence[Member], held_out_NT: torch.Tensor, batch_size: int) -> dict[str, Any]:
    """Choose the members to average; return the held-out losses of the members and of the average."""
    soup = session.request.spec.soup
    assert soup is not None

    def loss(chosen: Sequence[int]) -> float:
        blend = Blend([members[index].weights for index in chosen])
        with frozen_model(session, session.streamed, blend) as sharding:
            return held_out_loss(sharding.model, held_out_NT, batch_size=batch_size, sharding=sharding)

    alone = [loss([index]) for index in range(len(members))]
    if soup.average == "greedy":
        used, reached = greedy(alone, loss)
    else:
        used = list(range(len(members)))
        reached = loss(used)
    return {
        "average": soup.average,
        "vary": soup.vary,
        "members": alone,
        "used": used,
        "validation_loss": reached,
    }


def _changed(session: Session, blend: Blend, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The averaged tensors that differ from what all members started from."""
    tensors = {name: blend.get(name) for name in names}
    return {name: tensor for name, tensor in tensors.items() if not torch.equal(tensor, session.weights.get(name))}


def _outer(session: Session) -> set[str]:
    inside = {name for block in session.streamed.layout.blocks for name in block.tensors.values()}
    return set(session.streamed.tensors.values()) - inside


def _kept(block: Block, packed: Masks, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The masks of a block's matrices; the average is proved to be zero where they say so."""
    kept = {}
    for matrix in block.matrices:
        if matrix.name in packed.names:
            mask_OI = kept[matrix.name] = masks.unpack(packed.read(matrix.name), num_inputs=matrix.shape[1])
            if matrix.tensor in tensors:
                masks.prove(matrix.view(tensors[matrix.tensor]), mask_OI, module=matrix.name)
    return kept
