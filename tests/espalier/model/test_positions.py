"""No model asks CUDA for an op that it cannot do deterministically, however it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from espalier.evaluate.perplexity import perplexity_by_blocks
from espalier.model import positions
from espalier.model.numerics import CPU
from espalier.model.streamed import StreamedModel
from espalier.model.weights import Weights
from espalier.training.losses import language_loss
from tests.fixtures.library.cuda_kernels import DeterministicCuda
from tests.fixtures.library.jobs import local_job, write_texts
from tests.fixtures.library.tiny_models import FAMILIES, write_tiny_model

CASES: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in FAMILIES),
    ("falcon", {"alibi": True}),
    ("opt", {"do_layer_norm_before": False}),
]
TOKENS = torch.arange(36).view(3, 12)


@pytest.mark.parametrize(
    ("family", "config"), CASES, ids=lambda part: part if isinstance(part, str) else "-".join(part)
)
def test_no_family_needs_a_kernel_that_cuda_lacks(family: str, config: dict[str, Any], tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, family, dtype=torch.float32, **config)
    streamed, weights = StreamedModel(folder, compute_dtype=torch.float32, device=torch.device("cpu")), Weights(folder)
    with DeterministicCuda(), streamed.whole(weights) as model:
        perplexity_by_blocks(streamed, TOKENS, weights, states_in=CPU)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        language_loss(model, TOKENS).backward()  # type: ignore[no-untyped-call]


def test_counted_positions_are_those_that_the_stock_model_counts(tmp_path: Path) -> None:
    stock: Any = AutoModelForCausalLM.from_pretrained(write_tiny_model(tmp_path, "opt")).eval()
    padded = torch.ones(3, 12, dtype=torch.long)
    padded[0, :5] = 0
    calls: list[dict[str, Any]] = [{}, {"attention_mask": padded}, {"attention_mask": padded.float()}]
    wanted = [stock(TOKENS, **call).logits for call in calls]
    written = stock.generate(TOKENS, attention_mask=padded, max_new_tokens=4, do_sample=False)
    with DeterministicCuda():
        with pytest.raises(RuntimeError, match="deterministic"):
            stock(TOKENS)
        model: Any = positions.in_integers(stock)
        for call, logits in zip(calls, wanted, strict=True):
            assert torch.equal(model(TOKENS, **call).logits, logits)
        assert torch.equal(model.generate(TOKENS, attention_mask=padded, max_new_tokens=4, do_sample=False), written)


def test_a_whole_job_of_an_opt_stays_with_what_cuda_can_do(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model", "opt")
    job = local_job(
        tmp_path,
        folder,
        write_texts(tmp_path),
        reconstruct={"window": "submodule", "epochs": 1},
        retrain={"trainable": ["norms"], "steps": 4, "batch_size": 2, "loss": "kl", "sequence_length": 32},
        evaluate={
            "latency": True,
            "divergence": True,
            "perplexity": [
                {
                    "name": "text",
                    "dataset": {"kind": "local", "path": str(tmp_path / "valid.txt")},
                    "sequence_length": 32,
                    "max_windows": 4,
                }
            ],
        },
    )
    with DeterministicCuda():
        job.attempt()
