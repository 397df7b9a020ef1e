"""Every trainable, loss and schedule on small random models: zeros, counts, and runs that were stopped."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from espalier.errors import InsufficientMemoryError, TargetsError
from espalier.evaluate.scoring import score_weights
from espalier.messages import Checkpoint, Message
from espalier.model import numerics
from espalier.retrain import retraining, teacher
from espalier.retrain.allr_warm_start import pruning_distance
from espalier.session import limits
from tests.fixtures.library.jobs import KilledError, write_topics
from tests.fixtures.library.recovery import Recovery, assert_zeros_hold, pruned_weights, recovery, save_every_step
from tests.fixtures.library.tiny_models import write_tiny_model

RANK = 4
SIDES = 2 * (2 * (32 + 32) + 2 * (16 + 32) + 3 * (64 + 32))
"""Outputs and inputs of all matrices of the two Llama blocks: q, o; k, v; gate, up, down."""
WEIGHTS = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32)
TABLE = 384 * 32
COUNTS: dict[str, int] = {
    "norms": 5 * 32,
    "embeddings": TABLE,
    "head": RANK * (384 + 32),
    **dict.fromkeys(("mask_lora", "scale_lora", "lora_prune", "lora", "spp"), RANK * SIDES),
}
"""Closed formulas for the untied Llama."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    kinds = {"llama": False, "opt": True, "gpt2": True, "qwen2": False}
    return {family: write_tiny_model(folder / family, family, tied=tied) for family, tied in kinds.items()}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_topics(tmp_path_factory.mktemp("text") / "train.txt", 8)


def _run(
    tmp_path: Path, model_dir: Path, text: Path, *, prune: dict[str, Any] | None = None, **fields: Any
) -> Recovery:
    settings = {"steps": 6, "batch_size": 2, "rank": RANK, "alpha": 8, "learning_rate": 0.01, **fields}
    step = {"method": "magnitude", "sparsity": 0.5} if prune is None else prune
    return recovery(tmp_path, model_dir, text, prune=[step], retrain=settings)


@pytest.mark.deep
@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
@pytest.mark.parametrize(
    "kind", ["norms", "embeddings", "mask_lora", "scale_lora", "lora_prune", "lora", "spp", "full"]
)
def test_zeros_hold_and_something_moves(
    tmp_path: Path, models: dict[str, Path], text: Path, family: str, kind: str
) -> None:
    fields: dict[str, Any] = {"method": "full"} if kind == "full" else {"trainable": [kind]}
    session = _run(tmp_path, models[family], text, **fields).recover()
    assert_zeros_hold(session.weights, session)
    before = pruned_weights(session)
    moved = {name for name in before.names if not torch.equal(before.get(name), session.weights.get(name))}
    matrices = {matrix.tensor for matrix in session.streamed.layout.matrices}
    if kind in {"norms", "embeddings", "lora"}:
        assert not moved & matrices
        assert bool(moved) == (kind != "lora")
    else:
        assert matrices <= moved
        assert (moved == matrices) == (kind != "full")


@pytest.mark.deep
@pytest.mark.parametrize("loss", ["kl", "squarehead"])
@pytest.mark.parametrize("schedule", ["cosine", "constant", "slr", "clr", "llr", "allr"])
def test_zeros_hold_for_every_loss_and_schedule(
    tmp_path: Path, models: dict[str, Path], text: Path, loss: str, schedule: str
) -> None:
    run = _run(
        tmp_path,
        models["llama"],
        text,
        loss=loss,
        schedule=schedule,
        weight_decay=0.1,
        trainable=["norms", "head", "embeddings", "spp"],
    )
    session = run.recover()
    assert_zeros_hold(session.weights, session)
    assert run.warnings.count("teacher_in_memory") == 0  # said by the check before the run, which this skips


@pytest.mark.parametrize("kind", sorted(COUNTS))
def test_trained_parameters_are_the_closed_formulas(
    tmp_path: Path, models: dict[str, Path], text: Path, kind: str
) -> None:
    session = _run(tmp_path, models["llama"], text, steps=1, trainable=[kind]).recover()
    assert session.results.trained_parameters == {"retraining": COUNTS[kind]}


@pytest.mark.parametrize(
    ("kind", "rank", "refusal"),
    [
        ("spp", 17, "k_proj is only 16 x 32, too small for a rank of 17"),
        ("head", 33, "lm_head is only 384 x 32, too small for a rank of 33"),
    ],
)
def test_a_rank_above_the_smaller_side_is_refused(
    tmp_path: Path, models: dict[str, Path], text: Path, kind: str, rank: int, refusal: str
) -> None:
    with pytest.raises(TargetsError, match=refusal) as caught:
        _run(tmp_path, models["llama"], text, steps=1, trainable=[kind], rank=rank).recover()
    assert caught.value.hint == f"Ask for a rank of {rank - 1} at most."


def test_full_training_counts_what_is_kept(tmp_path: Path, models: dict[str, Path], text: Path) -> None:
    session = _run(tmp_path, models["llama"], text, steps=1, method="full").recover()
    assert session.results.trained_parameters == {"retraining": WEIGHTS // 2 + 2 * TABLE + 5 * 32}


@pytest.mark.parametrize("kind", ["mask_lora", "scale_lora", "spp", "full"])
def test_two_of_four_stays_two_of_four(tmp_path: Path, models: dict[str, Path], text: Path, kind: str) -> None:
    fields: dict[str, Any] = {"method": "full"} if kind == "full" else {"trainable": [kind]}
    pattern = {"method": "wanda", "pattern": {"kind": "nm", "n": 2, "m": 4}}
    session = _run(tmp_path, models["qwen2"], text, prune=pattern, **fields).recover()
    for matrix in session.streamed.layout.matrices:
        weight_OI = matrix.view(session.weights.get(matrix.tensor))
        assert int(weight_OI.reshape(len(weight_OI), -1, 4).count_nonzero(dim=2).max()) <= 2


def _is_state(message: Message) -> bool:
    return isinstance(message, Checkpoint) and message.path.endswith("state-00000003.safetensors")


@pytest.mark.deep
@pytest.mark.parametrize(
    "fields",
    [
        {"method": "full", "weight_decay": 0.1},
        {"trainable": ["scale_lora", "norms"], "schedule": "allr"},
        {"trainable": ["spp", "embeddings", "head"], "loss": "kl"},
        {"trainable": ["lora"], "accumulate": 2, "order_seed": 5},
        {"trainable": ["lora_prune"], "loss": "squarehead", "gradient_checkpointing": True},
    ],
    ids=lambda fields: "-".join(str(value) for value in fields.values()),
)
def test_a_run_killed_mid_training_ends_with_the_same_bits(
    tmp_path: Path, models: dict[str, Path], text: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    save_every_step(monkeypatch)
    whole = _run(tmp_path / "whole", models["llama"], text, **fields)
    whole.recover()
    killed = _run(tmp_path / "killed", models["llama"], text, **fields)
    with pytest.raises(KilledError):
        killed.recover(kill_at=_is_state)
    killed.recover()
    assert [point.step for point in killed.metrics("training_loss")] == [3, 4, 5]
    trained = [job.stored["retraining", "trained"].sha256 for job in (whole, killed)]
    assert trained[0] == trained[1]


def test_recomputed_activations_change_nothing(tmp_path: Path, models: dict[str, Path], text: Path) -> None:
    runs = [
        _run(tmp_path / str(recompute), models["opt"], text, gradient_checkpointing=recompute).recover()
        for recompute in (False, True)
    ]
    names = runs[0].weights.names
    assert all(torch.equal(runs[0].weights.get(name), runs[1].weights.get(name)) for name in names)


def test_tied_embeddings_stay_tied_and_a_tied_head_is_refused(
    tmp_path: Path, models: dict[str, Path], text: Path
) -> None:
    for dtype in ("float32", "bfloat16"):
        job = recovery(
            tmp_path / dtype,
            models["opt"],
            text,
            compute_dtype=dtype,
            retrain={"steps": 4, "batch_size": 2, "trainable": ["embeddings"], "learning_rate": 0.01},
        )
        session = job.recover()
        # Tokens, and OPT's positions with two to spare.
        assert session.results.trained_parameters == {"retraining": TABLE + 130 * 32}
        with session.streamed.whole(session.weights) as model:
            assert model.get_output_embeddings().weight is model.get_input_embeddings().weight  # type: ignore[operator]
    with pytest.raises(TargetsError, match="shares its weight"):
        _run(tmp_path / "head", models["opt"], text, trainable=["head"]).recover()


def test_training_stops_early_with_the_best_state(
    tmp_path: Path, models: dict[str, Path], text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = iter([3.0, 2.0, 2.5, 2.2, 9.0, 9.0])
    monkeypatch.setattr(retraining, "held_out_loss", lambda *_, **__: next(judged))
    run = _run(tmp_path, models["llama"], text, steps=200, patience=2, trainable=["norms"])
    session = run.recover()
    curve = [(point.step, point.value) for point in run.metrics("validation_loss")]
    assert curve == [(0, 3.0), (10, 2.0), (20, 2.5), (30, 2.2)]
    protocol = session.results.protocol["retraining"]
    assert (protocol["kept_step"], protocol["steps"], protocol["validation_loss"]) == (10, 30, 2.0)
    assert protocol["tokens_read"] == 30 * 2 * protocol["sequence_length"], "what was read, not what was planned"


def test_allr_starts_by_what_pruning_took(tmp_path: Path, models: dict[str, Path], text: Path) -> None:
    session = _run(tmp_path, models["llama"], text, steps=2, schedule="allr").recover()
    distance, pruned = pruning_distance(session, session.before_pruning)
    matrices = [session.dense.get(matrix.tensor).double() for matrix in session.streamed.layout.matrices]
    lost = sum(
        float((weight * ~session.mask(matrix.name)).square().sum())
        for weight, matrix in zip(matrices, session.streamed.layout.matrices, strict=True)
    )
    assert distance == pytest.approx((lost / sum(float(weight.square().sum()) for weight in matrices)) ** 0.5)
    assert pruned == pytest.approx(0.5, abs=0.01)
    assert session.results.protocol["retraining"]["start"] == pytest.approx(distance / pruned**0.5)


def test_a_teacher_tells_its_memory_before_the_run(tmp_path: Path, models: dict[str, Path], text: Path) -> None:
    run = _run(tmp_path, models["llama"], text, loss="kl")
    teacher.warn(run.session())
    assert run.warnings == ["teacher_in_memory"]


@pytest.mark.parametrize("loss", ["cross_entropy", "kl", "squarehead"])
def test_a_retraining_that_does_not_fit_is_refused_before_the_run(
    loss: str, tmp_path: Path, models: dict[str, Path], text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run(tmp_path, models["llama"], text, loss=loss)
    session = run.session()
    needed = replace(limits.measured(session), text=0)  # of a tiny model the text is the most
    monkeypatch.setattr(limits, "measured", lambda _: needed)
    held = needed.training + needed.training_batch
    for free, wrong in ((held * 10 // 9 + 2, False), (held * 10 // 9 - 2, True)):
        monkeypatch.setattr(numerics, "free_bytes", lambda _, free=free: free)
        with pytest.raises(InsufficientMemoryError, match="retraining") if wrong else nullcontext() as refusal:
            limits.check(session)
    assert refusal is not None
    assert refusal.value.class_ == "host_oom"
    assert str(needed.process + held) in refusal.value.message
    assert "batch_size" in refusal.value.hint
    monkeypatch.undo()
    monkeypatch.setattr(limits, "measured", lambda _: needed)
    enough = needed.process + held
    for limit, wrong in ((enough, False), (enough - 1, True)):
        session.request = session.request.model_copy(update={"max_host_memory_bytes": limit})
        with pytest.raises(InsufficientMemoryError, match="retraining") if wrong else nullcontext():
            limits.check(session)


def test_a_head_is_merged_whole(tmp_path: Path, models: dict[str, Path], text: Path) -> None:
    run = recovery(
        tmp_path,
        models["llama"],
        text,
        output={"dtype": "float32"},
        retrain={"steps": 6, "batch_size": 2, "trainable": ["head"], "rank": RANK, "learning_rate": 0.02},
        evaluate={"perplexity": [{"sequence_length": 32, "max_windows": 8}], "after_each_phase": True},
    )
    session = run.recover()
    trained = next(done.perplexity for done in session.results.phases if done.phase == "retraining")
    assert trained is not None
    merged = score_weights(session, session.weights)
    assert merged["python-docs"] == pytest.approx(trained["python-docs"], rel=1e-5)
    assert merged != score_weights(session, pruned_weights(session))
