"""What a retraining takes, by hand: a model of 7 billion parameters with the shapes of Llama 2."""

from __future__ import annotations

from typing import Any

import pytest

from espalier.memory import Device, training
from espalier.memory.shapes import BlockShape, MapShape, ModelShape
from espalier.recipe.steps.retrain import Retrain

PARAMETERS = 6_738_415_616
ATTENTION = [MapShape(f"self_attn.{name}", 4096, 4096) for name in "qkvo"]
MLP = [MapShape("mlp.gate", 11_008, 4096), MapShape("mlp.up", 11_008, 4096), MapShape("mlp.down", 4096, 11_008)]
BLOCK = BlockShape((*ATTENTION, *MLP), 202_383_360)
SHAPE = ModelShape.of([BLOCK] * 32, parameters=PARAMETERS, vocabulary=32_000, width=4096, default_length=2048)


@pytest.mark.parametrize(
    ("retrain", "itemsize", "expected"),
    [
        # vectors only: the model once
        ({"trainable": ["norms", "biases"]}, 2, 13_476_831_232),
        # 39,976,960 numbers in factors of rank 16, and 20 bytes for each; a bit for each of 6,476,005,376 weights
        ({"trainable": ["norms", "mask_lora"], "rank": 16}, 2, 13_476_831_232 + 20 * 39_976_960 + 809_500_672),
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
    assert training.resident_bytes(Retrain.model_validate(retrain), SHAPE, itemsize=itemsize) == expected


@pytest.mark.parametrize(
    ("retrain", "moving", "gathered"),
    [
        # Frozen, in two bytes: two blocks, and embeddings, head and last norm.
        ({"trainable": ["norms", "mask_lora"], "rank": 16}, 39_976_960, 2 * (2 * 202_383_360 + 262_148_096)),
        ({"trainable": ["norms"], "loss": "kl"}, 0, 2 * 2 * (2 * 202_383_360 + 262_148_096)),
        # In float32, with their gradients.
        ({"method": "full"}, PARAMETERS, 8 * (2 * 202_383_360 + 262_148_096)),
    ],
)
@pytest.mark.parametrize("ranks", [2, 8])
def test_a_rank_holds_its_rows_of_everything_and_the_blocks_at_hand(
    retrain: dict[str, Any], moving: int, gathered: int, ranks: int
) -> None:
    recipe = Retrain.model_validate(retrain)
    alone = training.resident_bytes(recipe, SHAPE, itemsize=2)
    assert training.trained_numbers(recipe, SHAPE) == moving
    assert training.resident_bytes(recipe, SHAPE, itemsize=2, ranks=ranks) == -(-alone // ranks) + gathered


def test_a_rank_reads_its_part_of_a_batch_and_casts_the_blocks_at_hand_alone() -> None:
    full = Retrain.model_validate({"method": "full", "batch_size": 6, "sequence_length": 100})
    batches = training.batches(full, SHAPE, device="cuda", itemsize=2, ranks=4)
    alone = dict(training.batches(full, SHAPE, device="cuda", itemsize=2))
    assert [windows for windows, _ in batches] == [2, 1]
    assert alone[2] - batches[0][1] == 2 * (PARAMETERS - 2 * 202_383_360 - 262_148_096)
    assert training.checkpoint_bytes(full, SHAPE, ranks=4) == 2 * 16 * PARAMETERS


@pytest.mark.parametrize(
    ("checkpointing", "loss", "kept", "copies"),
    [
        # Every map's inputs and outputs: 32 blocks of 4 * 8192 + 3 * 15,104 numbers.
        (False, "cross_entropy", 32 * 78_080, 4),
        # What enters every block, and one block's.
        (True, "cross_entropy", 32 * 4096 + 78_080, 4),
        ("auto", "cross_entropy", 32 * 4096 + 78_080, 4),
        # And the teacher's logits.
        (True, "kl", 32 * 4096 + 78_080, 7),
    ],
)
def test_a_batch_takes_its_activations_and_its_logits(
    checkpointing: bool | str, loss: str, kept: int, copies: int
) -> None:
    retrain = Retrain.model_validate({"batch_size": 2, "gradient_checkpointing": checkpointing, "loss": loss})
    expected = 2 * 100 * (2 * kept + copies * 4 * 32_000)
    assert training.batch_bytes(retrain, SHAPE, windows=2, length=100, device="cpu", itemsize=2) == expected


def test_on_a_card_logits_beyond_a_chunk_take_no_more_than_a_chunk_of_them() -> None:
    retrain = Retrain.model_validate({"trainable": ["norms"], "batch_size": 8, "gradient_checkpointing": False})

    def logits(windows: int, device: Device) -> int:
        kept = 32 * 78_080 * windows * 100 * 2
        return training.batch_bytes(retrain, SHAPE, windows=windows, length=100, device=device, itemsize=2) - kept

    # 100 x 32,000 numbers are 12.8 MB, 10.5 of which make a chunk.
    assert logits(8, "cuda") == logits(8, "cpu") == 4 * 4 * 32_000 * 800
    entering = 2 * 1100 * 4096 * 2
    assert logits(11, "cuda") == 7 * 128 * 2**20 + entering < 10**9
    assert training.chunk_tokens(256_000) == 131


def test_on_a_card_what_moves_is_cast_and_adamw_makes_nothing_of_it() -> None:
    full, norms = (
        Retrain.model_validate({"batch_size": 1} | fields) for fields in ({"method": "full"}, {"trainable": ["norms"]})
    )
    held = [
        training.batch_bytes(retrain, SHAPE, windows=1, length=100, device="cuda", itemsize=2)
        for retrain in (full, norms)
    ]
    assert held[0] - held[1] == 2 * PARAMETERS, "the copies of the weights, and no roots of second moments"


def test_a_batch_is_halved_down_to_a_single_window() -> None:
    retrain = Retrain.model_validate({"batch_size": 6, "sequence_length": 100})
    batches = training.batches(retrain, SHAPE, device="cpu", itemsize=2)
    assert [windows for windows, _ in batches] == [6, 3, 2, 1]
    assert batches[0][1] == 6 * batches[-1][1]


def test_auto_computes_activations_again_above_a_quarter_of_what_is_free() -> None:
    kept = 2 * 100 * 4 * 32 * 78_080
    retrain = Retrain.model_validate({"batch_size": 2})
    for free, expected in ((4 * kept, False), (4 * kept - 4, True)):
        assert training.recomputes(retrain, SHAPE, windows=2, length=100, itemsize=4, free_bytes=free) is expected
    full = retrain.model_copy(update={"method": "full"})
    several = [
        training.recomputes(full, SHAPE, windows=2, length=100, itemsize=2, free_bytes=2 * kept, ranks=ranks)
        for ranks in (1, 2)
    ]
    assert several == [False, True], "the copies of what moves, and not the activations"
    for setting in (False, True):
        always = retrain.model_copy(update={"gradient_checkpointing": setting})
        assert training.recomputes(always, SHAPE, windows=2, length=100, itemsize=4, free_bytes=0) is setting
