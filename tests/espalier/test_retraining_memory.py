"""What a retraining takes, by hand: a model of 7 billion parameters with the shapes of Llama 2."""

from __future__ import annotations

from typing import Any

import pytest

from espalier.memory import retraining
from espalier.memory.retraining import Shapes
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps import Retrain

PARAMETERS = 6_738_415_616
EDGES = 32 * (4 * (4096 + 4096) + 3 * (4096 + 11_008))
SHAPES = Shapes(PARAMETERS, EDGES, vocabulary=32_000, width=4096)


@pytest.mark.parametrize(
    ("retrain", "itemsize", "expected"),
    [
        # vectors only: the model once
        ({"trainable": ["norms", "biases"]}, 2, 13_476_831_232),
        # 39,976,960 numbers in factors of rank 16, and 20 bytes for each
        ({"trainable": ["norms", "mask_lora"], "rank": 16}, 2, 13_476_831_232 + 20 * 39_976_960),
        # a head of rank 16 on 32,000 + 4,096; whole embeddings of 32,000 x 4,096
        ({"trainable": ["head"], "rank": 16}, 2, 13_476_831_232 + 20 * 577_536),
        ({"trainable": ["embeddings"]}, 2, 13_476_831_232 + 20 * 131_072_000),
        # everything in float32, whatever the forward pass computes in, and a byte for whether it is kept
        ({"method": "full"}, 2, 141_506_727_936),
        ({"method": "full"}, 4, 141_506_727_936),
        # and the teacher in the compute dtype
        ({"method": "full", "loss": "squarehead"}, 2, 141_506_727_936 + 13_476_831_232),
        ({"trainable": ["norms"], "loss": "kl"}, 4, 2 * 26_953_662_464),
    ],
)
def test_memory_is_the_model_its_teacher_and_twenty_bytes_for_what_moves(
    retrain: dict[str, Any], itemsize: int, expected: int
) -> None:
    assert retraining.memory_bytes(Retrain.model_validate(retrain), SHAPES, itemsize=itemsize) == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (7, (0, 4)),  # not even one
        (8, (1, 4)),
        (40, (5, 4)),
        (200, (5, 20)),  # half of the training again
    ],
)
def test_trials_are_at_most_five_of_a_tenth(steps: int, expected: tuple[int, int]) -> None:
    assert retraining.trials(steps) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"retrain": {"steps": 200, "learning_rate": 0.01}}, 200),
        ({"retrain": {"steps": 200, "rate_factor": 0.316}}, 200),
        ({"retrain": {"steps": 200}}, 300),
        ({"retrain": {"steps": 200}, "soup": {"members": 3}}, 700),  # the members share what the trials have found
        ({"retrain": {"steps": 82}, "cycles": {"count": 2}}, 82 + 2 * 5 * 4),  # 41 steps each, and trials of four
        ({"retrain": {"steps": 82}, "cycles": {"count": 2}, "soup": {"members": 2}}, 2 * 82 + 2 * 5 * 4),
        ({}, 0),
    ],
)
def test_steps_are_those_of_all_turns_members_and_trials(fields: dict[str, Any], expected: int) -> None:
    spec = CompressionSpec.model_validate({"prune": {"method": "magnitude", "sparsity": 0.5}, **fields})
    assert retraining.steps(spec) == expected
