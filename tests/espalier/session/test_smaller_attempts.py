"""An attempt after one that ran out of memory: it takes less, goes on where that one stood, and says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from espalier import pipeline
from espalier.diagnosis import classify
from espalier.messages import Checkpoint, Done, Message
from espalier.recipe.phases import Phase
from espalier.retrain.train import Trainer
from espalier.session import Session, limits
from tests.fixtures.library.jobs import LocalJob, local_job

RETRAIN = {"steps": 4, "batch_size": 4, "rank": 2, "sequence_length": 32, "learning_rate": 0.01}
RECONSTRUCT = {"window": "auto", "epochs": 1, "batch_size": 4, "learning_rate": 0.01}


def _attempt(job: LocalJob, ran_out: dict[Phase, int], *, host: bool = False) -> tuple[Done, Session]:
    """One attempt, which finds the checkpoints of those before."""

    def send(message: Message) -> None:
        if isinstance(message, Checkpoint):
            job.stored[message.phase, message.name] = message

    session = Session(job.request().model_copy(update={"ran_out": ran_out, "ran_out_on_host": host}), send)
    done = pipeline.compute(session)
    assert isinstance(done, Done)
    return done, session


def _said(done: Done) -> str:
    (text,) = [item["text"] for item in done.report["warnings"] if item["code"] == "smaller_attempt"]
    return str(text)


def test_a_training_that_ran_out_goes_on_in_halves_of_its_batch(
    tmp_path: Path, texts: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = _attempt(local_job(tmp_path / "whole", llama, texts, retrain=RETRAIN), {})
    job = local_job(tmp_path / "parts", llama, texts, retrain=RETRAIN)
    advance: Callable[[Trainer], object] = Trainer.advance

    def fail(trainer: Trainer) -> object:
        if trainer.step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return advance(trainer)

    with monkeypatch.context() as full:
        full.setattr(Trainer, "advance", fail)
        with pytest.raises(torch.OutOfMemoryError) as caught:
            _attempt(job, {})
    assert classify(caught.value, phase="retraining").retryable
    done, session = _attempt(job, {"retraining": 1})
    assert (session.micro_batch, session.by_blocks) == (2, False)
    assert "retraining takes 2 windows of a batch at once" in _said(done)
    losses = [each.report["protocol"]["retraining"]["validation_loss"] for each in (whole, done)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    tokens = [each.report["protocol"]["retraining"]["tokens_read"] for each in (whole, done)]
    assert tokens[0] == tokens[1], "the batch of the recipe stays"


@pytest.mark.parametrize(("times", "window", "windows"), [(1, "submodule", 2), (2, "matrix", 1), (5, "matrix", 1)])
def test_a_reconstruction_that_ran_out_takes_smaller_windows_and_halves_of_a_batch(
    times: int, window: str, windows: int, tmp_path: Path, texts: Path, llama: Path
) -> None:
    trained = {**RECONSTRUCT, "trainable": ["weights"]}
    job = local_job(tmp_path, llama, texts, reconstruct=trained)
    assert _attempt(job, {})[0].report["protocol"]["reconstructing"]["window"] == "block"
    for key in [key for key in job.stored if "block" in key[1] or key[1] == "result"]:
        del job.stored[key]  # the choice of `auto` is what is left of the first attempt
    done, session = _attempt(job, {"reconstructing": times})
    assert done.report["protocol"]["reconstructing"]["window"] == window
    assert f"reconstruction takes {windows} windows of a batch at once, and a smaller window" in _said(done)
    assert session.by_blocks


def test_a_measurement_that_ran_out_goes_block_by_block_to_the_same_numbers(
    tmp_path: Path, texts: Path, llama: Path
) -> None:
    whole, _ = _attempt(local_job(tmp_path / "whole", llama, texts), {})
    done, session = _attempt(local_job(tmp_path / "blocks", llama, texts), {"baseline": 1, "evaluating": 1}, host=True)
    assert session.by_blocks
    assert isinstance(session.states_in, Path)
    assert "Memory ran out in baseline, evaluating: perplexity is measured block by block" in _said(done)
    assert done.report["compressed"]["perplexity"] == whole.report["compressed"]["perplexity"]


@pytest.mark.parametrize("evaluate", [{"divergence": True}, {"tasks": ["piqa"]}], ids=str)
def test_what_needs_the_whole_model_is_not_left_out_for_it(
    evaluate: dict[str, Any], tmp_path: Path, texts: Path, llama: Path
) -> None:
    job = local_job(tmp_path, llama, texts, evaluate={**evaluate, "perplexity": [{}]})
    session = Session(job.request().model_copy(update={"ran_out": {"evaluating": 2}}), lambda _: None)
    limits.check(session)
    assert not session.by_blocks
    assert "nothing is left that would take less" in session.results.warnings[-1]["text"]
