"""What retraining, other losses and soups win back on ref-llama after wanda 70 %: 80 steps of 8 x 256 tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from espalier.evaluate.scoring import score_weights
from tests.fixtures.library.recovery import Recovery, assert_zeros_hold, recovery

pytestmark = [pytest.mark.numbers, pytest.mark.reference, pytest.mark.timeout(7200)]

DENSE = 31.83
"""ref-llama on docs.valid: 200 windows of 256 tokens, from the reference folder's README."""
STEPS = 80


def _job(folder: Path, reference: Path, retrain: dict[str, Any], **fields: Any) -> Recovery:
    train, docs = reference / "calibration.txt", reference / "docs.valid.txt"
    evaluation: dict[str, Any] = {
        "name": "docs",
        "dataset": {"kind": "local", "path": str(docs)},
        "sequence_length": 256,
        "max_windows": 200,
    }
    return recovery(
        folder,
        reference / "ref-llama",
        train,
        calibration={"dataset": {"kind": "local", "path": str(train)}, "samples": 128, "sequence_length": 256},
        prune=[{"method": "wanda", "sparsity": 0.7}],
        retrain={"steps": STEPS, "batch_size": 8, **retrain},
        evaluate={"perplexity": [evaluation]},
        **fields,
    )


@pytest.fixture(scope="module")
def numbers() -> dict[str, float]:
    """Perplexities that several tests read, each measured once."""
    return {}


def _perplexity(
    numbers: dict[str, float], name: str, tmp_path: Path, reference: Path, retrain: dict[str, Any], **fields: Any
) -> float:
    if name in numbers:
        return numbers[name]
    session = _job(tmp_path / name, reference, retrain, **fields).recover()
    assert_zeros_hold(session.weights, session)
    numbers[name] = score_weights(session, session.weights)["docs"]
    pruned = next(done.perplexity for done in session.results.phases if done.phase == "pruning")
    assert pruned is not None
    numbers["pruned"] = pruned["docs"]
    return numbers[name]


def test_norms_win_a_third_and_mask_lora_nearly_all_of_what_full_training_wins(
    tmp_path: Path, reference_dir: Path, numbers: dict[str, float]
) -> None:
    specs: dict[str, dict[str, Any]] = {
        "full": {"method": "full"},
        "mask_lora": {"trainable": ["mask_lora"]},
        "norms": {"trainable": ["norms"]},
    }
    perplexities = {name: _perplexity(numbers, name, tmp_path, reference_dir, spec) for name, spec in specs.items()}
    won = {name: numbers["pruned"] - value for name, value in perplexities.items()}
    assert won["norms"] >= 0.35 * won["full"]
    assert won["mask_lora"] >= 0.95 * won["full"]


@pytest.mark.parametrize("loss", ["kl", "squarehead"])
def test_a_teacher_alone_recovers_too(
    tmp_path: Path, reference_dir: Path, numbers: dict[str, float], loss: str
) -> None:
    text = _perplexity(numbers, "mask_lora", tmp_path, reference_dir, {"trainable": ["mask_lora"]})
    taught = _perplexity(numbers, loss, tmp_path, reference_dir, {"trainable": ["mask_lora"], "loss": loss})
    print(f"cross entropy {text:.2f}, {loss} {taught:.2f}, dense {DENSE}")  # noqa: T201
    assert numbers["pruned"] - taught >= 0.5 * (numbers["pruned"] - text)


@pytest.mark.parametrize("average", ["uniform", "greedy"])
def test_a_soup_of_three_is_better_than_its_members(tmp_path: Path, reference_dir: Path, average: str) -> None:
    job = _job(tmp_path, reference_dir, {"trainable": ["mask_lora"]}, soup={"members": 3, "average": average})
    session = job.recover()
    assert_zeros_hold(session.weights, session)
    soup = session.results.recovery["soup"]
    assert soup["validation_loss"] < sum(soup["members"]) / 3
    if average == "greedy":
        assert soup["validation_loss"] <= min(soup["members"])
