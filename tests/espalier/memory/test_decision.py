"""How a job keeps to the memory that is there, by arithmetic on the shapes of Llama 3."""

from __future__ import annotations

from typing import Any

import pytest

from espalier.memory import Decision, Device, ModelShape, decide, estimate, usable_bytes
from espalier.recipe.spec import CompressionSpec
from tests.fixtures.library.published_shapes import LLAMA_8B, LLAMA_70B

GB = 10**9
CARD = 80 * GB


def _decide(
    shape: ModelShape, free: int = CARD, *, device: Device = "cuda", halvings: int = 0, ranks: int = 1, **fields: Any
) -> tuple[Decision, CompressionSpec]:
    spec = CompressionSpec.model_validate({"prune": {"method": "wanda", "sparsity": 0.5}, **fields})
    needed = estimate(shape, spec, device=device, itemsize=2, stored=2, text_bytes=0, ranks=ranks)
    return decide(needed, spec, device=device, budget=usable_bytes(free), halvings=halvings), spec


def test_the_shapes_are_those_of_the_models() -> None:
    assert LLAMA_8B.parameters == 8_030_261_248
    assert LLAMA_70B.parameters == 70_553_706_496


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"prune": {"method": "sparsegpt", "sparsity": 0.5}},
        {"reconstruct": {"window": "submodule"}},
        {"reconstruct": {"window": "auto"}},
        {"reconstruct": {"window": "block"}, "evaluate": {"after_each_phase": True}},
        {"prune": {"method": "angular", "sparsity": 0.2}},
    ],
    ids=str,
)
def test_seventy_billion_parameters_go_through_a_card_of_eighty_gigabytes_block_by_block(
    fields: dict[str, Any],
) -> None:
    decision, spec = _decide(LLAMA_70B, **fields)
    assert (decision.by_blocks, decision.micro_batch, decision.lacking) == (True, None, ())
    needed = estimate(LLAMA_70B, spec, device="cuda", itemsize=2, stored=2, text_bytes=0)
    assert needed.largest_peak(spec, device="cuda", by_blocks=True) <= usable_bytes(CARD)
    assert needed.largest_peak(spec, device="cuda") > 140 * GB


@pytest.mark.parametrize("shape", [LLAMA_8B, LLAMA_70B])
def test_hidden_states_stay_on_a_card_that_holds_them_beside_the_work(shape: ModelShape) -> None:
    spec = CompressionSpec.model_validate({"prune": {"method": "sparsegpt", "sparsity": 0.5}})
    needed = estimate(shape, spec, device="cuda", itemsize=2, stored=2, text_bytes=0)
    beside = needed.walk + needed.hidden_states
    assert beside <= usable_bytes(CARD)
    for budget, there in ((beside, True), (beside - 1, False)):
        assert decide(needed, spec, device="cuda", budget=budget).states_on_device is there
    assert not decide(needed, spec, device="cpu", budget=beside).states_on_device


def test_a_model_that_fits_is_held_whole_and_one_that_just_does_not_is_not() -> None:
    assert not _decide(LLAMA_8B)[0].by_blocks
    spec = CompressionSpec.model_validate({"prune": {"method": "wanda", "sparsity": 0.5}})
    needed = estimate(LLAMA_8B, spec, device="cuda", itemsize=2, stored=2, text_bytes=0)
    for budget, by_blocks in ((needed.scored, False), (needed.scored - 1, True)):
        assert decide(needed, spec, device="cuda", budget=budget).by_blocks is by_blocks


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [({"retrain": {"loss": loss}}, "/spec/retrain") for loss in ("cross_entropy", "kl", "squarehead")]
    + [
        ({"evaluate": {"divergence": True}}, "/spec/evaluate/divergence"),
        ({"evaluate": {"tasks": ["piqa"]}}, "/spec/evaluate/tasks"),
        ({"prune": {"method": "perplexity", "sparsity": 0.2}}, "/spec/prune"),
        ({"reconstruct": {"window": "all"}}, "/spec/reconstruct/window"),
    ],
    ids=str,
)
def test_whatever_holds_the_whole_model_lacks_the_memory_for_it(fields: dict[str, Any], pointer: str) -> None:
    decision, _ = _decide(LLAMA_70B, **fields)
    assert [need.pointer for need in decision.lacking] == [pointer]
    assert decision.lacking[0].bytes > 140 * GB
    assert decision.lacking[0].way_out.endswith(".")


def test_full_training_of_eight_billion_parameters_lacks_memory_on_any_single_card() -> None:
    for free in (CARD, 141 * GB):
        decision, _ = _decide(LLAMA_8B, free, retrain={"method": "full"})
        assert [need.pointer for need in decision.lacking] == ["/spec/retrain"]
        # 20 bytes of AdamW and a byte of mask for each parameter, and a batch
        assert decision.lacking[0].bytes > 21 * LLAMA_8B.parameters


def test_eight_cards_retrain_seventy_billion_parameters_with_adapters_and_eight_billion_whole() -> None:
    perp = {"trainable": ["norms", "mask_lora"], "batch_size": 8, "sequence_length": 2048}
    decision, spec = _decide(LLAMA_70B, ranks=8, retrain=perp)
    assert (decision.by_blocks, decision.micro_batch, decision.lacking) == (True, None, ())
    needed = estimate(LLAMA_70B, spec, device="cuda", itemsize=2, stored=2, text_bytes=0, ranks=8)
    # 17.6 GB of weights, 1.1 of masks, 0.5 of factors and moments; gathered, two blocks of 1.7 GB and 4.2 outside them.
    assert needed.training == pytest.approx(26.8 * GB, rel=0.01)
    windows, batch = needed.training_batches[0]
    assert windows == 1, "of eight"
    assert needed.training + batch < 36 * GB
    assert _decide(LLAMA_70B, ranks=8, retrain={**perp, "loss": "kl"})[0].lacking == ()
    assert _decide(LLAMA_8B, ranks=8, retrain={"method": "full"})[0].lacking == ()
    assert _decide(LLAMA_70B, ranks=8, retrain={"method": "full"})[0].lacking[0].bytes > 20 * LLAMA_70B.parameters // 8


def test_a_batch_that_does_not_fit_goes_through_in_parts_on_a_card_and_stays_whole_on_a_cpu() -> None:
    retrain = {"batch_size": 8, "sequence_length": 2048, "loss": "kl"}
    # The model and its teacher, factors, checkpoints of 8 x 2048 tokens; all logits would be 59 GB more.
    decision, _ = _decide(LLAMA_8B, retrain=retrain)
    assert (decision.by_blocks, decision.micro_batch, decision.lacking) == (False, None, ())
    retrain["batch_size"] = 128
    decision, _ = _decide(LLAMA_8B, retrain=retrain)
    assert decision.lacking == ()
    assert decision.micro_batch in {32, 16, 8}
    assert _decide(LLAMA_8B, 500 * GB, retrain=retrain)[0].micro_batch is None
    on_host, _ = _decide(LLAMA_8B, device="cpu", retrain=retrain)
    assert on_host.micro_batch is None
    assert [need.pointer for need in on_host.lacking] == ["/spec/retrain"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_batch_that_memory_did_not_hold_is_halved_until_one_window_is_left(device: Device) -> None:
    retrain = {"batch_size": 6}
    chosen = [
        _decide(LLAMA_8B, 2000 * GB, device=device, halvings=count, retrain=retrain)[0].micro_batch
        for count in range(5)
    ]
    assert chosen == [None, 3, 2, 1, 1]
