"""The phase `reconstructing` on small random models of several families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.messages import Checkpoint
from espalier.session import Session
from tests.fixtures.library.jobs import KilledError, write_topics
from tests.fixtures.library.recovery import Recovery, assert_zeros_hold, is_first_block, recovery
from tests.fixtures.library.tiny_models import write_tiny_model


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_topics(tmp_path_factory.mktemp("text") / "train.txt", 12)


def _run(tmp_path: Path, text: Path, family: str = "llama", *, name: str = "run", **spec: Any) -> Recovery:
    model_dir = tmp_path / family
    if not model_dir.exists():
        write_tiny_model(model_dir, family)
    reconstruct = {"epochs": 3, "batch_size": 4, **spec.pop("reconstruct", {})}
    return recovery(tmp_path / name, model_dir, text, reconstruct=reconstruct, **spec)


def _distance(session: Session, *, pruned: bool) -> float:
    """Mean squared difference of the logits from the dense model's."""
    windows_NT = session.calibration_windows()
    overlays = [path for path in session.weights.overlays if not pruned or "pruning" in str(path)]
    weights = type(session.weights)(session.model_dir, overlays)
    logits = []
    for each in (session.dense, weights):
        with session.streamed.whole(each) as model, torch.no_grad():
            logits.append(model(input_ids=windows_NT, use_cache=False).logits)
    return float((logits[0] - logits[1]).square().mean())


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
@pytest.mark.parametrize("window", ["matrix", "submodule", "block"])
def test_every_window_brings_the_model_closer_to_the_dense_one(
    tmp_path: Path, text: Path, family: str, window: str
) -> None:
    run = _run(tmp_path, text, family, reconstruct={"window": window})
    session = run.recover()
    before, after = run.metrics("error_before"), run.metrics("error_after")
    in_a_block = {"matrix": {"llama": 7, "opt": 6, "gpt2": 4}[family], "submodule": 2, "block": 1}[window]
    assert len(before) == len(after) == 2 * in_a_block
    assert all(new.value <= old.value for old, new in zip(before, after, strict=True))
    assert sum(item.value for item in after) < 0.9 * sum(item.value for item in before)
    assert _distance(session, pruned=False) < 0.9 * _distance(session, pruned=True)
    assert_zeros_hold(session.weights, session)


def test_only_what_is_named_moves(tmp_path: Path, text: Path) -> None:
    run = _run(tmp_path, text, "opt", reconstruct={"trainable": ["norms", "biases"]})
    session = run.recover()
    changed = {name for tensors in run.files("reconstructing").values() for name in tensors}
    assert changed
    assert all(len(session.dense.shape(name)) == 1 for name in changed)
    # Per block: two norms with biases (4 x 32), q, k, v, o and fc2 (5 x 32), fc1 (64).
    assert session.results.trained_parameters == {"reconstructing": 2 * (9 * 32 + 64)}


def test_what_was_not_pruned_is_not_fitted(tmp_path: Path, text: Path) -> None:
    prune = [{"method": "magnitude", "sparsity": 0.5, "targets": {"include": [r"layers\.1\.mlp"]}}]
    run = _run(tmp_path, text, prune=prune)
    run.recover()
    assert [(item.name, item.step) for item in run.metrics("error_after")] == [("mlp.error_after", 1)]
    files = run.files("reconstructing")
    assert files["block-00000"] == {}
    moved = {f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
    assert set(files["block-00001"]) == moved | {"model.layers.1.post_attention_layernorm.weight"}


def test_a_wrecking_learning_rate_leaves_the_pruned_model(tmp_path: Path, text: Path) -> None:
    run = _run(tmp_path, text, reconstruct={"learning_rate": 1.0})
    session = run.recover()
    assert _distance(session, pruned=False) <= _distance(session, pruned=True)
    for old, new in zip(run.metrics("error_before"), run.metrics("error_after"), strict=True):
        assert new.value <= old.value


def test_a_killed_walk_goes_on_to_the_same_bytes(tmp_path: Path, text: Path) -> None:
    whole = _run(tmp_path, text)
    whole.recover()
    killed = _run(tmp_path, text, name="killed")

    with pytest.raises(KilledError):
        killed.recover(kill_at=is_first_block)
    session = killed.recover()
    assert {item.step for item in killed.metrics("error_after")} == {1}  # block 0 was not done again
    for (phase, name), item in whole.stored.items():
        if name.startswith("block-"):
            assert killed.stored[phase, name].sha256 == item.sha256
    assert session.results.trained_parameters == whole.recover().results.trained_parameters


def test_a_finished_phase_is_not_repeated(tmp_path: Path, text: Path) -> None:
    run = _run(
        tmp_path, text, evaluate={"perplexity": [{"sequence_length": 32, "max_windows": 4}], "after_each_phase": True}
    )
    first = run.recover()
    second = run.recover()
    assert not run.metrics("error_after")
    assert not [item for item in run.messages if isinstance(item, Checkpoint)]
    numbers = [
        [done.perplexity for done in session.results.phases if done.phase == "reconstructing"]
        for session in (first, second)
    ]
    assert numbers[0] == numbers[1]
    assert numbers[0][0] is not None
    assert numbers[0][0].keys() == {"python-docs"}
