"""Zeros stay zeros, bit for bit: jobs drawn at random, looked at after every step, every average and in their files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.fixtures.jobs import LocalJob, local_job
from tests.fixtures.tiny_models import write_tiny_model
from workers.engine import masks
from workers.engine.train import Point, Trainer
from workers.phases.base import Context

KINDS = ("mask_lora", "scale_lora", "lora_prune", "spp")
NM = {"method": "wanda", "pattern": {"kind": "nm", "n": 2, "m": 4}}


def _drawn(seed: int, folder: Path, texts: Path) -> LocalJob:
    """A job of random family, size, mask, trainables, loss, schedule, decay, accumulation and soup."""
    draw = random.Random(seed)
    family = draw.choice(("llama", "opt", "gpt2", "qwen3", "mistral"))
    sizes: dict[str, Any] = {} if family in {"opt", "gpt2"} else {"intermediate_size": draw.choice((24, 40, 64))}
    model_dir = write_tiny_model(folder / "model", family, seed=seed, **sizes)
    trainable = [draw.choice(KINDS), *(name for name in ("norms", "biases", "embeddings") if draw.random() < 0.5)]
    retrain: dict[str, Any] = {
        "steps": draw.randint(2, 4), "batch_size": 2, "rank": draw.randint(1, 8), "learning_rate": 0.02,
        "loss": draw.choice(("cross_entropy", "kl", "squarehead")), "weight_decay": draw.choice((0.0, 0.1)),
        "schedule": draw.choice(("linear", "cosine", "constant", "slr", "clr", "llr", "allr")),
        "accumulate": draw.randint(1, 2), "gradient_checkpointing": draw.random() < 0.5, "seed": seed,
    }  # fmt: skip
    retrain |= {"method": "full"} if draw.random() < 0.4 else {"trainable": trainable}
    spec: dict[str, Any] = {
        "prune": NM if draw.random() < 0.3 else {"method": "magnitude", "sparsity": draw.choice((0.3, 0.5, 0.8))},
        "retrain": retrain,
    }
    if draw.random() < 0.4:
        average, vary = draw.choice(("uniform", "greedy")), draw.choice(("seed", "order", "schedule", "steps"))
        spec["soup"] = {"members": 2, "average": average, "vary": vary}
    return local_job(folder / "job", model_dir, texts, **spec)


def _watch(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Look at every masked parameter and at its moments after every step; the steps that were seen."""
    seen: list[int] = []
    advance = Trainer.advance

    def watched(trainer: Trainer) -> Point:
        point = advance(trainer)
        for item in trainer.trainables:
            if item.mask is not None:
                moments = trainer._optimizer.state[item.parameter]
                for value in (item.parameter, moments["exp_avg"], moments["exp_avg_sq"]):
                    assert not value[~item.mask].any(), item.name
        seen.append(point.step)
        return point

    monkeypatch.setattr(Trainer, "advance", watched)
    return seen


def _prove_the_files(job: LocalJob, context: Context) -> None:
    weights = load_file(job.artifact / "model.safetensors")
    packed = load_file(job.artifact / "masks.safetensors")
    kept = total = 0
    for matrix in context.streamed.layout.matrices:
        mask_OI = masks.unpack(packed[matrix.name], num_inputs=matrix.shape[1])
        weight_OI = matrix.view(weights[matrix.tensor])
        gone = weight_OI[~mask_OI]
        assert not gone.any(), matrix.name
        assert not torch.signbit(gone).any(), matrix.name
        if job.spec.masking[0].pattern.implied_sparsity() == 0.5:
            assert int((weight_OI.reshape(len(weight_OI), -1, 4) != 0).sum(-1).max()) <= 2
        kept, total = kept + int(mask_OI.sum()), total + mask_OI.numel()
    report = json.loads((job.artifact / "report.json").read_text())
    assert report["sparsity"]["achieved"] == 1 - kept / total


@pytest.mark.parametrize("seed", range(8))
def test_no_zero_is_ever_lost(tmp_path: Path, texts: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    job = _drawn(seed, tmp_path, texts)
    seen = _watch(monkeypatch)
    job.attempt()
    spec = job.spec
    assert spec.retrain is not None
    assert len(seen) >= spec.retrain.steps
    _prove_the_files(job, job.context())
