"""Reconstruction by any number of ranks, and by one that is told to compute as several, gives the same bytes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from espalier.distributed.group import RankGroup
from espalier.reconstruct.pieces import Pieces
from tests.distributed.whole_jobs import computed_by
from tests.fixtures.library.jobs import LocalJob, local_job, write_texts
from tests.fixtures.library.tiny_models import write_tiny_model

PRUNE = {"method": "wanda", "sparsity": 0.5}
WINDOWS: dict[str, dict[str, Any]] = {
    "matrix": {"window": "matrix"},
    "submodule": {"window": "submodule"},
    "block": {"window": "block", "mode": "sparse_inputs"},
    "two blocks": {"window": {"blocks": 2}, "loss": "cosine"},
    "all": {"window": "all", "trainable": ["norms"]},
    "adapters": {"window": "block", "trainable": ["mask_lora"], "rank": 2},
    "interleaved": {"window": "submodule", "interleave": True},
    "auto": {"window": "auto"},
}


def _job(folder: Path, model_dir: Path, texts: Path, case: str, *, in_pieces: bool = False) -> LocalJob:
    spec = {"prune": PRUNE, "reconstruct": {"epochs": 2, "batch_size": 5, **WINDOWS[case]}}
    job = local_job(folder, model_dir, texts, **spec)
    job.in_pieces = in_pieces
    return job


@pytest.mark.deep
@pytest.mark.parametrize(
    ("case", "family"),
    [(case, family) for case in WINDOWS for family in ("llama", "mixtral") if (case, family) != ("matrix", "mixtral")],
)
def test_any_number_of_ranks_fits_to_the_same_bytes(case: str, family: str, tmp_path: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model", family, dtype=torch.float32)  # no rounding hides a difference
    texts = write_texts(tmp_path)
    make = partial(_job, tmp_path / "together", model_dir, texts, case)
    alone = computed_by(1, partial(_job, tmp_path / "alone", model_dir, texts, case, in_pieces=True))
    for size in (2, 4):
        assert computed_by(size, make) == alone
    if case == "submodule":
        whole, rows = computed_by(1, partial(_job, tmp_path / "whole", model_dir, texts, case))
        assert whole != alone[0], "a job of one rank keeps its batches whole"
        assert [float(str(row[2])) for row in alone[1]] == pytest.approx([float(str(row[2])) for row in rows], rel=1e-3)


def test_a_step_in_pieces_is_the_step_but_for_rounding() -> None:
    layer, inputs = nn.Linear(6, 3), torch.randn(11, 6, generator=torch.Generator().manual_seed(0))
    moving = list(layer.parameters())

    def backward(chosen: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = layer(inputs[chosen]).square().mean() * (len(chosen) / 11)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    loss = Pieces(RankGroup.alone()).step(torch.arange(11), backward, moving)
    found = [parameter.grad for parameter in moving]
    exact = layer.double()(inputs.double()).square().mean()
    exact.backward()
    assert float(loss) == pytest.approx(float(exact.detach()), rel=1e-6)
    for gradient, parameter in zip(found, layer.parameters(), strict=True):
        assert gradient is not None
        torch.testing.assert_close(gradient.double(), parameter.grad, rtol=1e-5, atol=1e-7)
