"""Losses of a model in rows over ranks: against a teacher in rows, and with logits that are made in chunks."""

from __future__ import annotations

from functools import partial
from typing import Final, Literal

import pytest
import torch

from espalier.distributed.group import RankGroup
from espalier.retrain.train import Trainer, TrainingPlan, held_out_loss
from espalier.training import chunked_losses, losses
from espalier.training.losses import Distillation, Loss
from tests.distributed.ranks import run_ranks
from tests.fixtures.library.tiny_configs import LLAMA
from tests.fixtures.library.trainers import RATES, sharded_model, text

Kind = Literal["cross_entropy", "kl", "squarehead"]
PLAN: Final = TrainingPlan(steps=4, batch_size=5, accumulate=2, seed=3, rates=RATES)


def trained(kind: str, of: Kind, chunk: int | None, group: RankGroup) -> tuple[list[float], int]:
    """Train, and look at held-out text after every step; all losses, and how many chunks of logits were made."""
    chunks = [0]

    def tokens(_: int) -> int:
        chunks[0] += 1
        assert chunk is not None
        return chunk

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "takes_chunks", lambda *_: chunk is not None)
        patch.setattr(chunked_losses, "chunk_tokens", tokens)
        teacher, student = (sharded_model(LLAMA, each, group) for each in ("full", kind))
        with torch.no_grad():
            for item in teacher.trainables:
                item.parameter.mul_(4)
        mean = student.mean if group.size > 1 else None
        loss: Loss = losses.language_loss if of == "cross_entropy" else Distillation(of, teacher.model, mean=mean)
        trainer = Trainer(student.model, student.trainables, text(), PLAN, sharding=student, loss=loss)
        seen = []
        for _ in range(PLAN.steps):
            seen.append(trainer.advance().loss)
            seen.append(held_out_loss(student.model, text()[:7], batch_size=3, sharding=student))
    return seen, chunks[0]


@pytest.mark.deep
@pytest.mark.parametrize("chunk", [None, 7], ids=["whole", "chunks"])
@pytest.mark.parametrize("of", ["cross_entropy", "kl", "squarehead"])
@pytest.mark.parametrize("kind", ["mask_lora", "full"])
def test_a_loss_on_ranks_is_that_of_one(kind: str, of: Kind, chunk: int | None) -> None:
    one, _ = trained(kind, of, None, RankGroup.alone())
    (seen, chunks), (other, _) = run_ranks(2, partial(trained, kind, of, chunk))
    assert seen == other
    assert seen == pytest.approx(one, rel=1e-5)
    assert bool(chunks) == (chunk is not None)
