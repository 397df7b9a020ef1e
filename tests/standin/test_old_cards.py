"""A card before Ampere emulates bfloat16: it computes in float16 where a model is stored so and nothing is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.fixtures.library.jobs import write_texts
from tests.fixtures.library.tiny_models import write_tiny_model
from tests.standin.driver import Driver
from tests.standin.runs import run_on_card

TRAIN = {"steps": 2, "batch_size": 2, "rank": 2}


@pytest.mark.deep
@pytest.mark.parametrize(
    ("stored", "spec", "computes"),
    [
        (torch.float16, {"reconstruct": {"epochs": 1, "batch_size": 2}}, "float16"),
        (torch.float16, {"retrain": TRAIN}, "float32"),
        (torch.bfloat16, {}, "float32"),
    ],
    ids=["float16", "retrained", "bfloat16"],
)
def test_an_old_card_computes_in_what_it_has(
    stored: torch.dtype, spec: dict[str, object], computes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Driver, "is_bf16_supported", lambda _, including_emulation=True: including_emulation)
    model = write_tiny_model(tmp_path / "model", dtype=stored)
    prune = {"method": "sparsegpt", "sparsity": 0.5}
    run = run_on_card(tmp_path / "job", model, write_texts(tmp_path), prune=prune, **spec)
    assert run.report["environment"]["compute_dtype"] == computes
    assert run.report["compressed"]["perplexity"]["text"] > 0
