"""Training by several ranks makes the steps of one: the same losses, moments and zeros but for rounding."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import PreTrainedConfig

from espalier.distributed.group import RankGroup
from espalier.distributed.rows import join_rows, own_rows
from espalier.retrain.train import Best, TrainingPlan, held_out_loss
from espalier.training.trainables import restore, snapshot
from tests.distributed.ranks import run_ranks
from tests.fixtures.library.tiny_configs import LLAMA, MIXTRAL
from tests.fixtures.library.trainers import RATES, sharded_model, sharded_trainer, text

State = dict[str, NDArray[Any]]
STEPS = 20
LOSSES = 1e-5
"""Relative distance of the loss of a step that ranks may have from one rank's."""
PLAN = TrainingPlan(steps=STEPS, batch_size=5, accumulate=2, seed=3, rates=RATES, weight_decay=0.01)
"""Five windows are no multiple of any number of ranks."""


def numbers(tensors: dict[str, torch.Tensor]) -> State:
    """What a pipe carries without a file descriptor."""
    return {name: tensor.double().numpy().copy() for name, tensor in tensors.items()}


def trained(
    config: PreTrainedConfig, kind: str, plan: TrainingPlan, length: int, group: RankGroup
) -> tuple[list[float], State]:
    """Train; the loss of every step between two of held-out text, and the state at the end."""
    trainer = sharded_trainer(config, kind, group, text(length=length), plan)

    def judge() -> float:
        return held_out_loss(trainer.model, text()[:7], batch_size=3, sharding=trainer.sharding)

    losses = [judge(), *(trainer.advance().loss for _ in range(plan.steps)), judge()]
    best = Best.at_start(trainer.trainables, losses[0])
    return losses, numbers(trainer.sharding.whole(trainer.state(best)))


def assert_same(one: tuple[list[float], State], several: list[tuple[list[float], State]]) -> None:
    losses, state = several[0]
    assert all(each[0] == losses for each in several), "every rank decides by the same numbers"
    assert losses == pytest.approx(one[0], rel=LOSSES)
    assert state.keys() == one[1].keys()
    for name, value in state.items():
        assert value.shape == one[1][name].shape
        assert np.abs(value - one[1][name]).max(initial=0) < 1e-3, name
    assert all(name in {"step", "best"} or name.startswith("step:") for name in several[1][1]), "rank 0 alone has it"


@pytest.mark.deep
@pytest.mark.parametrize(
    ("config", "kind", "ranks", "micro_batch"),
    [
        (config, kind, ranks, micro)
        for config in (LLAMA, MIXTRAL)
        for kind in ("mask_lora", "full", "lora")
        for ranks, micro in ((2, None), (4, 1))
        if ranks == 2 or kind == "mask_lora"
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_ranks_make_the_steps_of_one(config: PreTrainedConfig, kind: str, ranks: int, micro_batch: int | None) -> None:
    one = trained(config, kind, PLAN, 16, RankGroup.alone())
    assert one[0][-1] < one[0][0] - 0.05
    plan = replace(PLAN, micro_batch=micro_batch)
    assert_same(one, run_ranks(ranks, partial(trained, config, kind, plan, 16)))


@pytest.mark.deep
def test_an_expert_that_no_rank_has_reached_is_left_alone() -> None:
    plan = TrainingPlan(steps=6, batch_size=2, seed=3, rates=RATES, weight_decay=0.1)
    one = trained(MIXTRAL, "full", plan, 3, RankGroup.alone())
    counts = {float(value) for name, value in one[1].items() if name.startswith("step:")}
    assert len(counts) > 1, "some expert has missed a step"
    assert_same(one, run_ranks(2, partial(trained, MIXTRAL, "full", plan, 3)))


def steps_from(state: State | None, steps: int, group: RankGroup) -> tuple[list[float], State]:
    """Go on from a state for a few steps; their losses, and the state then."""
    trainer = sharded_trainer(LLAMA, "full", group, text(), PLAN)
    best = Best.at_start(trainer.trainables, 9.0)
    if state is not None:
        tensors = {name: torch.from_numpy(value) for name, value in state.items()}
        floats = {name: value if name == "best" else value.float() for name, value in tensors.items()}
        best = trainer.load(trainer.sharding.rows(floats))
    losses = [trainer.advance().loss for _ in range(steps)]
    return losses, numbers(trainer.sharding.whole(trainer.state(best)))


@pytest.mark.deep
def test_a_state_goes_from_two_ranks_to_one_and_back() -> None:
    whole, _ = steps_from(None, 6, RankGroup.alone())
    first, state = run_ranks(2, partial(steps_from, None, 2))[0]
    second, state = steps_from(state, 2, RankGroup.alone())
    third, _ = run_ranks(2, partial(steps_from, state, 2))[0]
    assert first + second + third == pytest.approx(whole, rel=LOSSES)


def judged_between_restorations(group: RankGroup) -> list[float]:
    """The loss of a model, of another one, and of the first one again."""
    sharding = sharded_model(LLAMA, "full", group)

    def judge() -> float:
        return held_out_loss(sharding.model, text()[:4], batch_size=4, sharding=sharding)

    values = snapshot(sharding.trainables)
    before = judge()
    restore(sharding.trainables, [value * 1.5 for value in values])
    other = judge()
    restore(sharding.trainables, values)
    return [before, other, judge()]


def test_what_is_restored_is_what_the_next_pass_computes_with() -> None:
    before, other, after = run_ranks(2, judged_between_restorations)[0]
    assert before == after
    assert abs(other - before) > 0.01


def cut_and_joined(wholes: list[torch.Tensor], group: RankGroup) -> list[tuple[int, list[list[float]] | None]]:
    """Of each tensor the number of this rank's rows, and what all ranks' are together."""
    answers = []
    for whole in wholes:
        own = own_rows(whole, group)
        joined = join_rows(own, whole.shape, group)
        answers.append((len(own), None if joined is None else joined.tolist()))
    return answers


def test_rows_are_cut_and_joined() -> None:
    wholes = [torch.arange(rows * 2.0).reshape(rows, 2) for rows in (1, 3, 8)]
    for whole, *of_ranks in zip(wholes, *run_ranks(4, partial(cut_and_joined, wholes)), strict=True):
        assert sum(count for count, _ in of_ranks) == len(whole)
        assert [joined for _, joined in of_ranks] == [whole.tolist(), None, None, None]
