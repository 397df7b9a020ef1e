"""The memory that a plan tells from headers is what the job counts from its model, and every phase has a peak."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.memory import Device, MemoryEstimate, estimate, itemsize_of, stored_itemsize
from espalier.memory.pruning import block_bytes, overlapping_bytes
from espalier.memory.shapes import BlockShape, MapShape
from espalier.probe import probe
from espalier.session import Session, limits
from tests.fixtures.library.jobs import local_job
from tests.fixtures.library.tiny_models import write_tiny_model

SPECS: dict[str, dict[str, Any]] = {
    "norms": {},
    "gram": {"prune": {"method": "magnitude", "sparsity": 0.5, "update": {"kind": "alps"}}},
    "windows": {"reconstruct": {"window": "auto"}},
    "adapters": {"retrain": {"trainable": ["norms", "mask_lora", "embeddings"], "sequence_length": 16}},
    "full": {"retrain": {"method": "full", "loss": "kl"}, "evaluate": {"latency": False}},
}
PARTS = MemoryEstimate(
    process=10,
    text=0,
    outer=20,
    block=30,
    samples=2,
    hidden_states=5,
    model=50,
    scoring=7,
    window=(40, 25),
    training=70,
    training_batches=((2, 8), (1, 4)),
    checkpoint=3,
)


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2", "phi3", "falcon", "mixtral", "qwen3_moe"])
@pytest.mark.parametrize("tied", [False, True])
def test_headers_tell_what_the_model_itself_tells(family: str, tied: bool, tmp_path: Path, texts: Path) -> None:
    model = write_tiny_model(tmp_path / "model", family, tied=tied)
    facts = probe(model)
    for name, fields in SPECS.items():
        for dtype in ("float32", "bfloat16"):
            job = local_job(tmp_path / name, model, texts, **fields, compute_dtype=dtype)
            counted = limits.measured(Session(job.request(), lambda _: None))
            size = max(Path(path).stat().st_size for path in job.texts.values()) if job.texts else 0
            estimated = estimate(
                facts.shape,
                job.spec,
                device="cpu",
                itemsize=itemsize_of(dtype, device="cpu"),
                stored=stored_itemsize(job.spec, facts.dtype),
                text_bytes=size,
            )
            assert replace(counted, process=estimated.process) == estimated, (name, dtype)


def test_facts_of_an_earlier_version_count_the_weights_alone(tmp_path: Path) -> None:
    facts = probe(write_tiny_model(tmp_path / "model", dtype=torch.float32))
    earlier = facts.model_copy(update={"block_parameters": None}).shape
    assert earlier.inside == earlier.weights == facts.shape.weights < facts.shape.inside
    assert earlier.parameters == facts.parameters


@pytest.mark.parametrize(
    ("phase", "fields", "device", "host"),
    [
        ("fetching", {}, 0, 0),
        ("baseline", {}, 57, 10 + 57),
        ("calibrating", {}, 30, 10 + 30 + 7),
        ("pruning", {}, 30, 10 + 30 + 7),
        # The pruned model is measured before it recovers, while the walk still holds its hidden states.
        ("pruning", {"retrain": {}}, 57, 10 + 57 + 7),
        # A criterion of blocks that measures losses holds the whole model; others go through it block by block.
        ("pruning", {"prune": {"method": "perplexity", "sparsity": 0.5}}, 80, 10 + 80 + 7),
        ("pruning", {"prune": {"method": "angular", "sparsity": 0.5}}, 30, 10 + 30 + 7),
        ("reconstructing", {"reconstruct": {}}, 40, 10 + 40 + 25 + 2 + 5),
        ("retraining", {"retrain": {}}, 78, 10 + 78),
        ("evaluating", {"evaluate": {"latency": False}}, 57, 10 + 57),
        ("evaluating", {}, 107, 10 + 107),
        ("exporting", {}, 0, 0),
        # A phase that nothing is said of walks through the blocks.
        ("quantizing", {}, 30, 10 + 30 + 7),
    ],
)
def test_every_phase_has_a_peak_on_the_device_that_computes(
    phase: str, fields: dict[str, Any], device: int, host: int, tmp_path: Path, llama: Path, texts: Path
) -> None:
    spec = local_job(tmp_path, llama, texts, **{"evaluate": {}, **fields}).spec
    assert PARTS.peak(phase, spec, device="cuda") == device
    assert PARTS.peak(phase, spec, device="cpu") == host
    assert replace(PARTS, text=1000).peak(phase, spec, device="cpu") in {1010, 0}


@pytest.mark.parametrize(
    ("phase", "fields", "expected"),
    [
        ("baseline", {}, 30),
        ("pruning", {"retrain": {}}, 30),
        ("reconstructing", {"reconstruct": {}, "evaluate": {"after_each_phase": True}}, 40),
        ("evaluating", {}, 30),
        # The batch of one window instead of two.
        ("retraining", {"retrain": {}}, 74),
    ],
)
def test_by_blocks_no_phase_holds_the_whole_model_but_retraining(
    phase: str, fields: dict[str, Any], expected: int, tmp_path: Path, llama: Path, texts: Path
) -> None:
    spec = local_job(tmp_path, llama, texts, **{"evaluate": {}, **fields}).spec
    assert PARTS.peak(phase, spec, device="cuda", by_blocks=True, micro_batch=1) == expected
    behind_the_blocks = replace(PARTS, scoring=11).peak("baseline", spec, device="cuda", by_blocks=True)
    assert behind_the_blocks == 20 + 11, "the logits lie beside the head"


def test_what_is_required_is_never_more_than_the_largest_peak(tmp_path: Path, llama: Path, texts: Path) -> None:
    structure = [{"method": "angular", "sparsity": 0.5}]
    for fields in (*SPECS.values(), {"prune": structure}, {"evaluate": {"divergence": True, "perplexity": [{}]}}):
        job = local_job(tmp_path, llama, texts, **fields)
        parts = limits.measured(Session(job.request(), lambda _: None))
        needed, what, _ = max(parts.required_on_host(job.spec, device="cpu"))
        assert needed <= parts.largest_peak(job.spec, device="cpu"), (fields, what)


@pytest.mark.parametrize(("phase", "more"), [("baseline", 0), ("pruning", 6), ("reconstructing", 6), ("exporting", 0)])
def test_blocks_that_are_written_and_read_beside_the_one_at_hand_are_the_hosts(
    phase: str, more: int, tmp_path: Path, llama: Path, texts: Path
) -> None:
    spec, overlapping = local_job(tmp_path, llama, texts, reconstruct={}).spec, replace(PARTS, overlapping=6)
    assert overlapping.peak(phase, spec, device="cpu") - PARTS.peak(phase, spec, device="cpu") == more
    assert overlapping.peak(phase, spec, device="cuda") == PARTS.peak(phase, spec, device="cuda")
    assert overlapping.min_on_host("cpu") == PARTS.min_on_host("cpu"), "it is no need: without it, blocks take turns"


def test_a_gpu_has_the_next_block_read_ahead_too() -> None:
    block = BlockShape((MapShape("up", 8, 4),), parameters=40)
    # Behind: two bytes of a weight as it is written and its mask, counted as one. Ahead: two, as it is stored.
    assert [overlapping_bytes(block, stored=2, device=device) for device in ("cpu", "cuda")] == [40 * 3, 40 * 5]


@pytest.mark.parametrize(
    ("itemsize", "stored", "device", "expected"),
    [
        # As stored, which is what computes; the new value; the mask.
        (2, 2, "cuda", 2 + 2 + 1),
        # As stored, with the copy in bfloat16 at first and the new value and the mask later.
        (2, 4, "cuda", 4 + 4 + 1),
        # Stored in bfloat16, computed in float32: the copy is larger than what comes after it.
        (4, 2, "cuda", 2 + 4),
        (4, 4, "cuda", 4 + 4 + 1),
        # What a CPU computes with is gone when the new value is written, and is counted: its batch was.
        (4, 2, "cpu", 4 + 2 + 1),
        (4, 4, "cpu", 4 + 4 + 1),
    ],
)
def test_a_weight_of_a_block_is_counted_as_stored_and_as_computed(
    itemsize: int, stored: int, device: Device, expected: int
) -> None:
    shape = MapShape("up", 8, 4)

    def bytes_of(parameters: int) -> int:
        block = BlockShape((shape,), parameters=parameters)
        return block_bytes(block, gram=False, tokens=64, length=8, itemsize=itemsize, stored=stored, device=device)

    assert bytes_of(1000) - bytes_of(0) == 1000 * expected
