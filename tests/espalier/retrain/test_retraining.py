"""The phases `retraining` and `merging` on small random models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from espalier.errors import DatasetError, NumericalError, TargetsError
from espalier.evaluate.scoring import score_weights
from espalier.messages import Checkpoint, Message
from espalier.model.weights import Weights
from espalier.retrain import loading, retraining, trainable_parameters
from espalier.retrain.training_text import training_windows
from espalier.session import Session
from espalier.training.losses import Loss, language_loss
from tests.fixtures.library.jobs import KilledError, write_topics
from tests.fixtures.library.recovery import Recovery, assert_zeros_hold, pruned_weights, recovery, save_every_step
from tests.fixtures.library.tiny_models import write_tiny_model
from workers.messages import MESSAGES


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_topics(tmp_path_factory.mktemp("text") / "train.txt", 12)


def _run(tmp_path: Path, text: Path, family: str = "llama", *, name: str = "run", **spec: Any) -> Recovery:
    model_dir = tmp_path / family
    if not model_dir.exists():
        write_tiny_model(model_dir, family, tied=family == "opt")
    settings = {"steps": 12, "batch_size": 4, "rank": 4, "alpha": 8, **spec.pop("retrain", {})}
    return recovery(tmp_path / name, model_dir, text, retrain=settings, **spec)


def _loss(session: Session, weights: Weights) -> float:
    windows_NT = session.calibration_windows()
    with session.streamed.whole(weights) as model, torch.no_grad():
        logits = model(input_ids=windows_NT, use_cache=False).logits[:, :-1]
    return float(cross_entropy(logits.flatten(0, 1), windows_NT[:, 1:].flatten()))


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
def test_retraining_lowers_the_loss_and_keeps_every_zero(tmp_path: Path, text: Path, family: str) -> None:
    run = _run(tmp_path, text, family, retrain={"trainable": ["norms", "biases", "mask_lora"]})
    session = run.recover()
    assert _loss(session, session.weights) < _loss(session, pruned_weights(session)) - 0.02
    assert_zeros_hold(session.weights, session)
    steps = [item.step for item in run.metrics("training_loss")]
    assert steps == list(range(12)) == [item.step for item in run.metrics("learning_rate")]
    assert run.warnings == (["no_biases"] if family == "llama" else [])


def test_the_trained_parameters_are_counted(tmp_path: Path, text: Path) -> None:
    session = _run(tmp_path, text, retrain={"steps": 1}).recover()
    # Per block: q and o 32 x 32, k and v 16 x 32, gate, up and down 64 x 32; and five norms of 32.
    sides = 2 * (32 + 32) + 2 * (16 + 32) + 3 * (64 + 32)
    assert session.results.trained_parameters == {"retraining": 2 * 4 * sides + 5 * 32}


@pytest.mark.parametrize(("dtype", "apart"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_the_merged_model_is_the_one_that_was_trained(tmp_path: Path, text: Path, dtype: str, apart: float) -> None:
    run = _run(
        tmp_path,
        text,
        compute_dtype=dtype,
        evaluate={"perplexity": [{"sequence_length": 32, "max_windows": 8}], "after_each_phase": True},
        output={"dtype": "float32"},
    )
    session = run.recover()
    trained = next(done.perplexity for done in session.results.phases if done.phase == "retraining")
    assert trained is not None
    merged = score_weights(session, session.weights)
    assert merged["python-docs"] == pytest.approx(trained["python-docs"], rel=apart)


def test_only_what_is_named_moves_and_head_and_embeddings_never(tmp_path: Path, text: Path) -> None:
    run = _run(tmp_path, text, "opt", retrain={"trainable": ["norms"]})
    run.recover()
    changed = {name for tensors in run.files("merging").values() for name in tensors}
    assert len(changed) == 5
    assert all("norm" in name and name.endswith("weight") for name in changed)


def _is_state(message: Message) -> bool:
    return isinstance(message, Checkpoint) and (message.phase, message.name) == ("retraining", "state")


def _is_first_merged(message: Message) -> bool:
    return isinstance(message, Checkpoint) and (message.phase, message.name) == ("merging", "block-00000")


@pytest.mark.parametrize("kill_at", [_is_state, _is_first_merged], ids=["mid-training", "mid-merging"])
def test_a_killed_run_goes_on_to_the_same_bytes(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, kill_at: Any
) -> None:
    save_every_step(monkeypatch)
    whole = _run(tmp_path, text)
    whole.recover()
    killed = _run(tmp_path, text, name="killed")
    with pytest.raises(KilledError):
        killed.recover(kill_at=kill_at)
    session = killed.recover()
    steps = [item.step for item in killed.metrics("training_loss")]
    assert steps == (list(range(1, 12)) if kill_at is _is_state else [])
    again = whole.recover()
    assert session.results.trained_parameters == again.results.trained_parameters
    assert session.results.protocol["retraining"] == again.results.protocol["retraining"]
    assert session.results.warnings == again.results.warnings
    for (phase, name), item in whole.stored.items():
        if name.startswith("block-"):
            assert killed.stored[phase, name].sha256 == item.sha256


def _same(ours: Weights, theirs: Weights) -> bool:
    return all(torch.equal(ours.get(name), theirs.get(name)) for name in theirs.names)


def test_a_rate_that_only_harms_leaves_the_model_as_it_was(tmp_path: Path, text: Path) -> None:
    harmful = {"method": "full", "learning_rate": 1.0, "schedule": "constant", "steps": 10}
    run = _run(tmp_path, text, retrain=harmful)
    session = run.recover()
    assert run.warnings == ["retraining_did_not_help"]
    assert _same(session.weights, pruned_weights(session))


@pytest.mark.parametrize(
    ("at", "kept", "warnings"),
    [(4, 0, ["retraining_diverged", "retraining_did_not_help"]), (11, 10, ["retraining_diverged"])],
)
def test_a_run_that_diverges_ends_in_its_best_state(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, at: int, kept: int, warnings: list[str]
) -> None:
    settings = {"learning_rate": 0.01, "schedule": "constant"}
    ten = _run(tmp_path, text, name="ten", retrain=settings | {"steps": 10}).recover()

    @contextmanager
    def teaching(*_: object) -> Iterator[Loss]:
        steps = count()
        yield lambda model, tokens_BT: language_loss(model, tokens_BT) * (math.nan if next(steps) == at else 1.0)

    monkeypatch.setattr(retraining, "teaching", teaching)
    run = _run(tmp_path, text, retrain=settings | {"steps": 12})
    session = run.recover()
    assert run.warnings == warnings
    protocol = session.results.protocol["retraining"]
    assert (protocol["kept_step"], protocol["steps"]) == (kept, at)
    assert _same(session.weights, ten.weights if kept else pruned_weights(session))


def test_a_model_that_cannot_be_scored_is_a_numerical_failure(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run(tmp_path, text)

    def broken(*args: Any) -> Any:
        items = trainable_parameters.select_trainable_parameters(*args)
        items[0].parameter.data.fill_(float("inf"))
        return items

    monkeypatch.setattr(loading, "select_trainable_parameters", broken)
    with pytest.raises(NumericalError, match="not finite"):
        run.recover()
    assert run.messages
    for message in run.messages:
        assert MESSAGES.validate_json(message.model_dump_json()) == message


def test_biases_alone_need_biases(tmp_path: Path, text: Path) -> None:
    with pytest.raises(TargetsError, match="no biases"):
        _run(tmp_path, text, retrain={"trainable": ["biases"]}).recover()


def test_windows_that_evaluation_reads_are_not_trained_on(tmp_path: Path, text: Path) -> None:
    shared = tmp_path / "evaluation.txt"
    shared.write_text(text.read_text()[:8000])
    evaluation = [{"dataset": {"kind": "local", "path": str(shared)}, "sequence_length": 64}]
    run = _run(tmp_path, text, retrain={"steps": 1, "sequence_length": 64}, evaluate={"perplexity": evaluation})
    session = run.recover()
    spec = session.request.spec.retrain
    assert spec is not None
    windows_NT = training_windows(session, spec)
    everything = session.text(session.request.spec.calibration.dataset).evaluation(length=64, max_windows=None)
    assert "evaluation_windows_excluded" in run.warnings
    assert 8000 / 64 / 4 < len(everything) - len(windows_NT) < 8000 / 64
    assert torch.equal(windows_NT, everything[len(everything) - len(windows_NT) :])


def test_too_little_text_is_said(tmp_path: Path, text: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text(text.read_text()[:3000])
    run = _run(
        tmp_path,
        short,
        retrain={"sequence_length": 1000},
        calibration={"dataset": {"kind": "local", "path": str(short)}, "samples": 2, "sequence_length": 32},
    )
    with pytest.raises(DatasetError, match=r"windows to train on|tokens"):
        run.recover()
