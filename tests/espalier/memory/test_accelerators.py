"""Seconds on a kind of GPU, by arithmetic on the shapes of published models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from espalier.memory import ModelShape, decide, estimate, usable_bytes
from espalier.memory.accelerators import ACCELERATORS, H200, accelerator_of, phase_seconds
from espalier.recipe.spec import CompressionSpec
from tests.fixtures.library.published_shapes import LLAMA_8B, LLAMA_70B, QWEN3_30B_A3B, ROUTED_OF_QWEN3

PAGE: Final = Path(__file__).parents[3] / "docs/operations.md"
TOKENS: Final = 128 * 2048
WINDOWS: Final = 141
WEIGHTS: Final = 32 * (2 * 4096**2 + 2 * 1024 * 4096 + 3 * 4096 * 14_336)
"""Of the maps in the blocks of the 8B model."""
BASE: Final[dict[str, Any]] = {
    "calibration": {"samples": 128, "sequence_length": 2048},
    "evaluate": {"latency": False, "perplexity": [{"sequence_length": 2048, "max_windows": WINDOWS}]},
}
WANDA: Final[dict[str, Any]] = {"method": "wanda", "sparsity": 0.5}
PERP: Final[dict[str, Any]] = {
    "steps": 1000,
    "batch_size": 8,
    "sequence_length": 2048,
    "learning_rate": 1e-4,
    "trainable": ["norms", "mask_lora"],
}
JOBS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "`wanda` 2:4: `pruning`": ("pruning", {"prune": {"method": "wanda", "pattern": {"kind": "nm", "n": 2, "m": 4}}}),
    "`sparsegpt`: `pruning`": ("pruning", {"prune": {"method": "sparsegpt", "sparsity": 0.5}}),
    "submodules, 4 epochs: `reconstructing`": (
        "reconstructing",
        {"prune": WANDA, "reconstruct": {"window": "submodule", "epochs": 4}},
    ),
    "PERP, 1,000 steps of 8 x 2,048: `retraining`": ("retraining", {"prune": WANDA, "retrain": PERP}),
    "`evaluating`": ("evaluating", {"prune": WANDA}),
}
MODELS: Final[dict[str, tuple[ModelShape, float]]] = {
    "Llama 3 8B": (LLAMA_8B, 1.0),
    "Llama 3 70B": (LLAMA_70B, 1.0),
    "Qwen3 30B-A3B": (QWEN3_30B_A3B, ROUTED_OF_QWEN3),
}


def _spec(fields: dict[str, Any]) -> CompressionSpec:
    return CompressionSpec.model_validate(BASE | fields)


def _seconds(fields: dict[str, Any], shape: ModelShape = LLAMA_8B, routed: float = 1.0) -> dict[str, float]:
    return phase_seconds(_spec(fields), shape, H200, file_bytes=2 * shape.parameters, routed_fraction=routed)


def test_wanda_takes_two_forward_passes_and_the_errors_or_the_writing() -> None:
    forward = 2 * WEIGHTS * TOKENS / (0.5 * 989e12)
    errors = 2 * WEIGHTS * 3 * 4096 / (0.5 * 67e12)
    inside = 2 * (WEIGHTS + 32 * 2 * 4096)
    assert LLAMA_8B.weights == WEIGHTS
    expected = max(2 * forward + errors, inside / 1e9)
    assert _seconds({"prune": WANDA})["pruning"] == pytest.approx(expected, rel=1e-3)
    assert expected < 45


def test_sparsegpt_adds_gram_matrices_factors_and_columns() -> None:
    wanda, sparsegpt = (_seconds(JOBS[name][1])["pruning"] for name in list(JOBS)[:2])
    # Of three distinct inputs of 4,096 and one of 14,336; seven matrices of 38,912 inputs together.
    grams = 32 * 2 * (3 * 4096**2 + 14_336**2) * TOKENS / (0.5 * 494e12)
    factors = 32 * 2 * (3 * 4096**3 + 14_336**3) / (0.3 * 0.5 * 67e12)
    columns = 32 * (6 * 4096 + 14_336) * 1e-5
    assert sparsegpt - wanda == pytest.approx(grams + factors + columns, rel=1e-3)
    assert sparsegpt < 95


def test_the_other_phases_by_hand() -> None:
    narrow, parameters, file = 0.5 * 989e12, LLAMA_8B.parameters, 2 * LLAMA_8B.parameters
    load = file / 2e9 + file / (0.75 * 64e9)
    scoring = 2 * parameters * WINDOWS * 2048 / narrow
    seconds = _seconds({"prune": WANDA, "retrain": PERP})
    assert seconds["evaluating"] == pytest.approx(scoring + load)
    assert seconds["baseline"] == pytest.approx(scoring + 2 * load), "as stock loads it, and as the blocks do"
    assert seconds["exporting"] == pytest.approx(file / 1e9)
    assert seconds["calibrating"] == 0, "sequential propagation gathers while it prunes"
    step = 8 * parameters * 8 * 2048 / narrow  # forward twice, backward once
    assert seconds["retraining"] == pytest.approx(1000 * step + load)
    epochs = 6 * WEIGHTS * TOKENS * (4 + 2) / narrow
    fitted = _seconds(JOBS["submodules, 4 epochs: `reconstructing`"][1])["reconstructing"]
    assert fitted == pytest.approx(epochs + 2 * LLAMA_8B.inside / 1e9, rel=1e-3)
    assert seconds["evaluating"] < 40
    assert fitted < 240


def test_a_token_goes_through_its_experts_alone() -> None:
    all_of_them, some = (_seconds({"prune": WANDA}, QWEN3_30B_A3B, routed) for routed in (1.0, ROUTED_OF_QWEN3))
    assert QWEN3_30B_A3B.parameters == 30_532_122_624  # its model card: 30.5B
    assert all_of_them["pruning"] > some["pruning"]
    experts = 48 * 128 * 3 * 768 * 2048
    saved = 2 * experts * (1 - ROUTED_OF_QWEN3) * WINDOWS * 2048 / (0.5 * 989e12)
    assert all_of_them["evaluating"] - some["evaluating"] == pytest.approx(saved)


def test_dense_propagation_gathers_first_and_prunes_without_another_pass() -> None:
    dense = _seconds({"prune": JOBS["`sparsegpt`: `pruning`"][1]["prune"], "propagation": "dense"})
    assert dense["calibrating"] > 2 * WEIGHTS * TOKENS / (0.5 * 989e12)
    assert dense["pruning"] < _seconds(JOBS["`sparsegpt`: `pruning`"][1])["pruning"]


@pytest.mark.parametrize(
    ("memory", "flops", "name"),
    [
        (150.7e9, None, "H200"),  # as nvidia-smi tells it
        (141e9, None, "H200"),
        (80e9, None, "A100"),  # and not the faster one that is as large
        (80e9, 2e14, "A100"),
        (80e9, 4e14, "H100"),
        (48e9, None, "L40S"),
        (40e9, None, "RTX 4090"),
        (25.8e9, None, "RTX 4090"),
        (16e9, None, "T4"),
        (4e9, None, "T4"),
        (float("inf"), None, "A100"),
        (float("inf"), 5e14, "H200"),
    ],
)
def test_a_kind_is_told_by_memory_and_speed(memory: float, flops: float | None, name: str) -> None:
    assert accelerator_of(memory, flops).name == name


def test_no_kind_is_faster_at_wide_numbers_than_at_narrow_ones() -> None:
    for each in ACCELERATORS:
        assert each.narrow_flops >= each.tf32_flops >= each.float_flops
    assert [each.memory_bytes for each in ACCELERATORS] == sorted(
        (each.memory_bytes for each in ACCELERATORS), reverse=True
    )


def _fits(fields: dict[str, Any], shape: ModelShape) -> bool:
    spec = _spec(fields)
    needed = estimate(shape, spec, device="cuda", itemsize=2, stored=2, text_bytes=0)
    return not decide(needed, spec, device="cuda", budget=usable_bytes(H200.memory_bytes)).lacking


def _table() -> list[str]:
    lines = [f"| | {' | '.join(MODELS)} |", "|---" * (1 + len(MODELS)) + "|"]
    for name, (phase, fields) in JOBS.items():
        cells = [
            f"{_seconds(fields, shape, routed)[phase]:,.0f}" if _fits(fields, shape) else "does not fit"
            for shape, routed in MODELS.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def test_the_page_shows_what_is_reckoned() -> None:
    assert "\n".join(_table()) in PAGE.read_text(), "\n" + "\n".join(_table())
