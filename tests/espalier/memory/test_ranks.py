"""What each of several ranks holds and does, by arithmetic on shapes."""

from __future__ import annotations

import pytest

from espalier.memory import BlockShape, Decision, MapShape, ModelShape, decide, estimate
from espalier.memory.pruning import own_windows
from espalier.memory.work import of_one_rank, works
from espalier.recipe.spec import CompressionSpec

CALIBRATION = {"samples": 128, "sequence_length": 2048}
TOKENS = 128 * 2048


def moe_235b() -> ModelShape:
    """Qwen3-235B-A22B: 94 blocks of 128 experts of three maps between 4,096 and 1,536 numbers; 64 heads of 128."""
    maps = [MapShape(f"self_attn.{name}", rows, 4096) for name, rows in (("q_proj", 8192), ("k_proj", 512))]
    maps += [MapShape("self_attn.v_proj", 512, 4096), MapShape("self_attn.o_proj", 4096, 8192)]
    for expert in range(128):
        maps += [MapShape(f"mlp.experts.{expert}.{name}", 1536, 4096) for name in ("gate_proj", "up_proj")]
        maps += [MapShape(f"mlp.experts.{expert}.down_proj", 4096, 1536)]
    block = BlockShape(tuple(maps), sum(each.weights for each in maps) + 128 * 4096)
    outer = 2 * 151_936 * 4096
    return ModelShape.of(
        [block] * 94, parameters=94 * block.parameters + outer, vocabulary=151_936, width=4096, default_length=2048
    )


def spec(**fields: object) -> CompressionSpec:
    return CompressionSpec.model_validate({"calibration": CALIBRATION, "evaluate": {"latency": False}, **fields})


def on_cards(shape: ModelShape, job: CompressionSpec, ranks: int) -> tuple[int, Decision]:
    """The peak of pruning on each card, and what a job decides with nine tenths of 80 GB."""
    needed = estimate(shape, job, device="cuda", itemsize=2, stored=2, text_bytes=0, ranks=ranks)
    return needed.peak("pruning", job, device="cuda"), decide(needed, job, device="cuda", budget=72e9)


def test_235_billion_parameters_with_gram_matrices_fit_eight_cards_and_not_one() -> None:
    shape, job = moe_235b(), spec(prune={"method": "sparsegpt", "sparsity": 0.5})
    assert round(shape.parameters / 1e9) == 235
    # Gram matrices of a block: of 128 experts each two inputs, of attention two, float32.
    grams = 4 * (128 * (4096**2 + 1536**2) + 4096**2 + 8192**2)
    assert round(grams / 1e9, 1) == 10.1
    (alone, one), (each, eight) = on_cards(shape, job, 1), on_cards(shape, job, 8)
    assert alone - each == 2 * grams, "four sums of shards are held by one, and two by each of eight"
    assert alone < 72e9
    assert not one.lacking
    assert not eight.lacking
    assert each < 45e9


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_ranks_share_the_hidden_states_of_pruning_alone(ranks: int) -> None:
    shape, pruned = moe_235b(), spec(prune={"method": "wanda", "sparsity": 0.5})
    fitted = spec(prune={"method": "wanda", "sparsity": 0.5}, reconstruct={"window": "submodule"})
    states = [
        estimate(shape, job, device="cuda", itemsize=2, stored=2, text_bytes=0, ranks=ranks).hidden_states
        for job in (pruned, fitted)
    ]
    assert states == [TOKENS * 4096 * 2 // ranks, TOKENS * 4096 * 2]
    assert sum(own_windows(3, ranks=ranks) for _ in range(1)) == min(3, 8 // ranks)


def test_eight_ranks_do_an_eighth_of_what_is_shared() -> None:
    job = spec(prune={"method": "wanda", "sparsity": 0.5})
    whole = works(job, moe_235b(), file_bytes=470 * 10**9)
    each = of_one_rank(whole, 8)
    assert each["pruning"] == whole["pruning"] / 8
    assert each["baseline"] == whole["baseline"]
    # Two forwards of 128 x 2,048 tokens at 2 operations a weight that a token meets, of 500e12 a second.
    assert each["pruning"] / 500e12 < whole["pruning"] / 500e12 / 7
