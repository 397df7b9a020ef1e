"""Jobs that retrain on several ranks: the numbers of one rank, zeros that hold, states for any number of ranks."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from torch.distributed.tensor import DTensor

from espalier.distributed.group import RankGroup
from espalier.errors import PeerLostError
from espalier.evaluate.scoring import score_weights
from espalier.messages import StoredCheckpoint
from espalier.model import streamed
from espalier.model.numerics import deterministic
from espalier.model.streamed import StreamedModel
from espalier.retrain import loading
from espalier.retrain.train import Trainer, TrainingPoint
from tests.distributed.ranks import run_ranks
from tests.fixtures.library.jobs import KilledError, write_topics
from tests.fixtures.library.recovery import Recovery, assert_zeros_hold, recovery, save_every_step
from tests.fixtures.library.tiny_models import write_tiny_model

Stored = dict[tuple[str, str], StoredCheckpoint]
STEPS = 20
LOSSES, PERPLEXITY = 1e-5, 1e-4
"""Relative distances from the numbers of one rank."""
KINDS: dict[str, dict[str, Any]] = {
    "perp": {"trainable": ["norms", "mask_lora"]},
    "full": {"method": "full"},
    "lora": {"trainable": ["norms", "lora"]},
    "divergence": {"trainable": ["norms", "mask_lora"], "loss": "kl"},
    "embeddings": {"trainable": ["embeddings", "head", "spp"], "gradient_checkpointing": True},
    "tied": {"trainable": ["embeddings", "biases", "norms"]},
    "search": {"trainable": ["norms"], "learning_rate": "auto"},
}


@dataclass(frozen=True)
class Outcome:
    """What the leader of a job has said, and the perplexity of what it has made."""

    losses: list[float]
    validation: list[float]
    protocol: dict[str, Any]
    trained: dict[str, int]
    perplexity: float
    stored: Stored


def job(folder: Path, model_dir: Path, kind: str, stored: Stored | None = None, **spec: Any) -> Recovery:
    """A job that goes on from what is stored; ranks make their own, for a recipe does not travel pickled."""
    text = folder.parent / "train.txt"
    if not text.exists():
        write_topics(text, 8)
    settings = {"steps": STEPS, "batch_size": 5, "rank": 4, "alpha": 8, "learning_rate": 0.005, **KINDS[kind]}
    evaluate = {"perplexity": [{"sequence_length": 32, "max_windows": 8}], "after_each_phase": True}
    run = recovery(folder, model_dir, text, retrain=settings, evaluate=evaluate, **spec)
    run.stored = stored or {}
    return run


def outcome(make: Callable[[], Recovery], group: RankGroup) -> Outcome:
    run = make()
    with deterministic(1), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # also in a process that pytest has not set up
        session = run.recover(group=group)
        if "lora" not in session.request.spec.retrain.trainable:  # type: ignore[union-attr]
            assert_zeros_hold(session.weights, session)
        (perplexity,) = score_weights(session, session.weights).values()
    return Outcome(
        losses=[item.value for item in run.metrics("training_loss")],
        validation=[item.value for item in run.metrics("validation_loss")],
        protocol=session.results.protocol["retraining"],
        trained=session.results.trained_parameters,
        perplexity=perplexity,
        stored=run.stored,
    )


def alone(*args: Any, **spec: Any) -> Outcome:
    """What one process says of a job."""
    return outcome(partial(job, *args, **spec), RankGroup.alone())


def ranks_of(size: int, *args: Any, **spec: Any) -> list[Outcome]:
    """What the ranks say of a job."""
    return run_ranks(size, partial(outcome, partial(job, *args, **spec)))


def assert_same(one: Outcome, several: Outcome, *, first: int = 0) -> None:
    assert several.losses == pytest.approx(one.losses[first:], rel=LOSSES)
    assert several.perplexity == pytest.approx(one.perplexity, rel=PERPLEXITY)
    assert several.trained == one.trained
    assert several.protocol["learning_rates"] == one.protocol["learning_rates"]
    assert several.protocol["validation_loss"] == pytest.approx(one.protocol["validation_loss"], rel=LOSSES)


@pytest.mark.parametrize(
    ("kind", "family", "ranks"),
    [
        ("perp", "llama", 2),
        *(
            pytest.param(kind, family, ranks, marks=pytest.mark.deep)
            for kind in sorted(KINDS.keys() - {"tied"})
            for family in ("llama", "mixtral")
            for ranks in (2, 4)
            if (kind, family, ranks) != ("perp", "llama", 2)
            and (family == "llama" or kind in {"perp", "full"})
            and (ranks == 2 or (kind, family) in {("perp", "mixtral"), ("full", "llama")})
        ),
    ],
)
def test_a_job_on_ranks_ends_as_on_one(kind: str, family: str, ranks: int, tmp_path: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model", family)
    one = alone(tmp_path / "one", model_dir, kind)
    assert len(one.losses) == STEPS
    assert one.losses[-1] < one.losses[0]
    several, *others = ranks_of(ranks, tmp_path / "several", model_dir, kind)
    assert_same(one, several)
    assert all(other.losses == several.losses for other in others), "every rank decides by the same numbers"
    assert all(not other.stored.keys() & several.stored.keys() for other in others), "rank 0 alone writes"
    assert all(other.perplexity == several.perplexity for other in others)


@pytest.mark.deep
def test_a_tied_head_is_one_parameter_on_ranks_too(tmp_path: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model", "opt", tied=True)
    one = alone(tmp_path / "one", model_dir, "tied")
    assert_same(one, ranks_of(2, tmp_path / "two", model_dir, "tied")[0])


@pytest.mark.deep
def test_a_soup_on_ranks_judges_its_members_alike(tmp_path: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model")
    spec = {"cycles": {"count": 2}, "soup": {"members": 2, "average": "greedy"}}
    one = alone(tmp_path / "one", model_dir, "perp", **spec)
    several, other = ranks_of(2, tmp_path / "two", model_dir, "perp", **spec)
    assert several.losses == pytest.approx(one.losses, rel=1e-4), "a cycle prunes what the one before has trained"
    assert several.perplexity == other.perplexity == pytest.approx(one.perplexity, rel=PERPLEXITY)


@pytest.mark.deep
def test_in_bfloat16_ranks_differ_by_its_rounding(tmp_path: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model")
    spec = {"compute_dtype": "bfloat16", "output": {"dtype": "float32"}}
    one = alone(tmp_path / "one", model_dir, "full", **spec)
    two = ranks_of(2, tmp_path / "two", model_dir, "full", **spec)[0]
    assert two.losses == pytest.approx(one.losses, rel=2**-8)


def held_whole(folder: Path, model_dir: Path, group: RankGroup) -> tuple[list[int], int]:
    """Parameters that a rank holds whole whenever a part has been read, and those of its rows in the end."""
    session = job(folder, model_dir, "full").session(group=group)
    whole: list[int] = []
    models: list[nn.Module] = []
    empty = loading.empty_model

    def kept(of: StreamedModel) -> nn.Module:
        models.append(empty(of))
        return models[0]

    def watched(*args: Any, **kwargs: Any) -> None:
        streamed.fill(*args, **kwargs)
        there = [each for each in models[0].parameters() if not each.is_meta and not isinstance(each, DTensor)]
        whole.append(sum(each.numel() for each in there))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "empty_model", kept)
        patch.setattr(loading, "fill", watched)
        with loading.frozen_model(session, session.streamed, session.weights) as sharding:
            parameters = sharding.model.parameters()
            rows = [parameter.to_local().numel() for parameter in parameters if isinstance(parameter, DTensor)]
            return whole, sum(rows)


def test_no_rank_holds_more_of_a_model_whole_than_a_part(tmp_path: Path) -> None:
    model_dir = write_tiny_model(tmp_path / "model", num_hidden_layers=4)
    for whole, rows in run_ranks(2, partial(held_whole, tmp_path / "two", model_dir)):
        block, outer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32 + 2 * 32, 2 * 384 * 32 + 32
        assert whole == [block] * 4 + [outer]
        assert rows == (4 * block + outer) // 2


def killed_at_step_two(folder: Path, model_dir: Path, group: RankGroup) -> None:
    """Kill the second rank in a training; write down what the first one raises, and from what."""
    backward = Trainer.backward

    def ending(trainer: Trainer, part: int) -> Any:
        if trainer.step == 2 and not group.leads:
            os.kill(os.getpid(), signal.SIGKILL)
        return backward(trainer, part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "backward", ending)
        with pytest.raises(PeerLostError) as caught:
            job(folder, model_dir, "perp").recover(group=group)
    (folder / "cause").write_text(type(caught.value.__cause__).__name__)


def test_a_rank_that_is_killed_in_a_training_is_a_lost_peer_to_the_others(tmp_path: Path) -> None:
    folder, model_dir = tmp_path / "two", write_tiny_model(tmp_path / "model")
    with pytest.raises(EOFError):
        run_ranks(2, partial(killed_at_step_two, folder, model_dir))
    assert (folder / "cause").read_text() == "RuntimeError", "gloo's own, in the midst of a step"


def stored_at(step: int, folder: Path, model_dir: Path, stored: Stored, group: RankGroup) -> tuple[list[int], Stored]:
    """Train up to a step, where every rank is stopped, with a state of every step; the steps, and what is stored."""
    run, advance = job(folder, model_dir, "full", stored), Trainer.advance

    def stopped(trainer: Trainer) -> TrainingPoint:
        if trainer.step == step:
            raise KilledError
        return advance(trainer)

    with deterministic(1), pytest.MonkeyPatch.context() as patch:
        save_every_step(patch)
        patch.setattr(Trainer, "advance", stopped)
        with pytest.raises(KilledError):
            run.recover(group=group)
    return [item.step for item in run.metrics("training_loss")], run.stored


@pytest.mark.deep
def test_a_state_of_two_ranks_is_resumed_by_one_and_one_s_by_two(tmp_path: Path) -> None:
    model_dir, folder = write_tiny_model(tmp_path / "model"), tmp_path / "changing"
    one = alone(tmp_path / "one", model_dir, "full")
    _, stored = run_ranks(2, partial(stored_at, 5, folder, model_dir, {}))[0]
    steps, stored = stored_at(12, folder, model_dir, stored, RankGroup.alone())
    assert steps == list(range(5, 12))
    assert_same(one, ranks_of(2, folder, model_dir, "full", stored)[0], first=12)
