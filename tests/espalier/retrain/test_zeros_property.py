"""Zeros stay zeros, bit for bit: jobs dealt like cards, looked at after every step and in their files."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

from espalier import pipeline
from espalier.model import masks
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.retrain import SCHEDULES, Retrain, Trained
from espalier.retrain.merging import Merging
from espalier.retrain.train import Trainer, TrainingPoint
from espalier.session import Session
from espalier.training.lora import Adapter, Lora
from tests.fixtures.library.jobs import LocalJob, local_job
from tests.fixtures.library.tiny_models import write_tiny_model

NM = {"method": "wanda", "pattern": {"kind": "nm", "n": 2, "m": 4}}
TRAINED: Final = ("mask_lora", "scale_lora", "lora_prune", "spp", "lora", "full")
CASES: Final = range(2 * len(TRAINED))
PAIRS: Final[Mapping[str, Sequence[Any]]] = {
    "weight_decay": (0.0, 0.1),
    "accumulate": (1, 2),
    # The second turns factors of `scale_lora` and `spp` negative, and a zero times those is a negative zero.
    "learning_rate": (0.02, 0.5),
    "gradient_checkpointing": (False, True),
}
"""Everything that is trained gets both cards."""
DECKS: Final[Mapping[str, Sequence[Any]]] = {
    "family": ("llama", "opt", "gpt2", "qwen3", "mistral"),
    "intermediate_size": (24, 40, 64),
    "prune": (NM, *({"method": "magnitude", "sparsity": sparsity} for sparsity in (0.3, 0.5, 0.8))),
    "whole": ([], ["norms"], ["biases", "head"], ["norms", "biases", "embeddings"]),
    "loss": ("cross_entropy", "kl", "squarehead"),
    "schedule": SCHEDULES,
    "steps": (2, 3, 4),
    "rank": (1, 3, 4, 8),
    "average": (None, "uniform", None, "greedy"),
    "vary": ("seed", "order", "schedule", "steps", "weight_decay"),
}
"""Every card of a deck is dealt about as often as the others."""


def _hand(case: int) -> dict[str, Any]:
    turn, index = divmod(case, len(TRAINED))
    hand: dict[str, Any] = {"trained": TRAINED[index]}
    for name, pair in PAIRS.items():
        hand[name] = random.Random(f"{TRAINED[index]} {name}").sample(pair, 2)[turn]
    for name, deck in DECKS.items():
        cards = [deck[each % len(deck)] for each in CASES]
        random.Random(name).shuffle(cards)
        hand[name] = cards[case]
    return hand


def _spec(case: int) -> dict[str, Any]:
    hand = _hand(case)
    trained, names = hand["trained"], (*PAIRS, "loss", "schedule", "steps", "rank")
    retrain = {"batch_size": 2, "seed": case} | {name: hand[name] for name in names}
    retrain |= {"method": "full"} if trained == "full" else {"trainable": [trained, *hand["whole"]]}
    spec = {"prune": hand["prune"], "retrain": retrain}
    if hand["average"] and trained != "lora":
        spec["soup"] = {"members": 2, "average": hand["average"], "vary": hand["vary"]}
    return spec


def _job(case: int, folder: Path, texts: Path) -> LocalJob:
    hand = _hand(case)
    family = hand["family"]
    sizes = {} if family in {"opt", "gpt2"} else {"intermediate_size": hand["intermediate_size"]}
    model_dir = write_tiny_model(folder / "model", family, seed=case, **sizes)
    return local_job(folder / "job", model_dir, texts, **_spec(case))


def _assert_zeros(value: torch.Tensor, name: str) -> None:
    """Positive ones."""
    assert not value.any(), name
    assert not torch.signbit(value).any(), name


def _look_at_parameters(trainer: Trainer) -> None:
    for item in trainer.trainables:
        if item.pruned is not None:
            moments = trainer.optimizer.state[item.parameter]
            for value in (item.parameter, moments["exp_avg"], moments["exp_avg_sq"]):
                _assert_zeros(value[item.pruned], item.name)


@torch.no_grad()
def _look_at_adapters(trainer: Trainer) -> int:
    """The weight below every adapter, and the one that its forward pass has; how many there are."""
    adapters = {name: module for name, module in trainer.model.named_modules() if isinstance(module, Adapter)}
    for name, module in adapters.items():
        mask_OI, weight_OI = masks.unpack_here(module.bits, num_inputs=module.num_inputs), module.oriented_weight()
        _assert_zeros(weight_OI[~mask_OI], name)
        if type(module) is not Lora:
            merged_OI = type(module).merged(weight_OI, module.b_OR, module.a_RI, mask_OI, module.scale)
            assert not merged_OI[~mask_OI].any(), name
    return len(adapters)


def _look_at_what_would_be_written(trainer: Trainer, session: Session) -> int:
    """How many pruned matrices would change."""
    path = session.workspace / "as-if-finished"
    save_file({f"value:{item.name}": item.parameter.detach() for item in trainer.trainables}, path)
    merging, count = Merging(session, path), 0
    for block in session.streamed.layout.blocks:
        tensors = merging.whole(block) | merging.matrices(block)
        for matrix in block.matrices:
            if matrix.tensor in tensors:
                _assert_zeros(matrix.view(tensors[matrix.tensor])[~session.mask(matrix.name)], matrix.name)
                count += 1
    return count


def _watch(monkeypatch: pytest.MonkeyPatch, session: Session) -> list[int]:
    """Look at everything that could hold a zero after every step; the steps that were seen."""
    seen: list[int] = []
    advance, retrain = Trainer.advance, session.request.spec.retrain
    assert retrain is not None

    def watched(trainer: Trainer) -> TrainingPoint:
        point = advance(trainer)
        pruned = len(session.streamed.layout.matrices)
        _look_at_parameters(trainer)
        assert _look_at_adapters(trainer) == pruned * (retrain.adapter is not None) + ("head" in retrain.trainable)
        assert _look_at_what_would_be_written(trainer, session) == pruned * (retrain.adapter != "lora")
        seen.append(point.step)
        return point

    monkeypatch.setattr(Trainer, "advance", watched)
    return seen


def _prove_the_files(job: LocalJob, session: Session) -> None:
    weights = load_file(job.artifact / "model.safetensors")
    packed = load_file(job.artifact / "masks.safetensors")
    kept = total = 0
    for matrix in session.streamed.layout.matrices:
        mask_OI = masks.unpack(packed[matrix.name], num_inputs=matrix.shape[1])
        weight_OI = matrix.view(weights[matrix.tensor])
        _assert_zeros(weight_OI[~mask_OI], matrix.name)
        if job.spec.masking[0].pattern.implied_sparsity() == 0.5:
            assert int((weight_OI.reshape(len(weight_OI), -1, 4) != 0).sum(-1).max()) <= 2
        kept, total = kept + int(mask_OI.sum()), total + mask_OI.numel()
    report = json.loads((job.artifact / "report.json").read_text())
    assert report["sparsity"]["achieved"] == 1 - kept / total


@pytest.mark.parametrize("case", CASES)
def test_no_zero_is_ever_lost(tmp_path: Path, texts: Path, case: int, monkeypatch: pytest.MonkeyPatch) -> None:
    job = _job(case, tmp_path, texts)
    session = job.session()
    seen = _watch(monkeypatch, session)
    pipeline.compute(session)
    assert job.spec.retrain is not None
    assert len(seen) >= job.spec.retrain.steps
    _prove_the_files(job, job.session())


def test_the_cases_have_every_way_of_training_between_them() -> None:
    dealt = [CompressionSpec.model_validate(_spec(case)) for case in CASES]
    retrains = [each.retrain for each in dealt if each.retrain]
    assert {name for each in retrains for name in each.trainable} == set(get_args(Trained))
    assert {each.loss for each in retrains} == set(get_args(Retrain.model_fields["loss"].annotation))
    assert {each.schedule for each in retrains} == set(SCHEDULES)
    assert {each.soup.average for each in dealt if each.soup} == {"uniform", "greedy"}
    for adapter in {each.adapter for each in retrains}:
        alike = [each for each in retrains if each.adapter == adapter]
        assert {each.accumulate for each in alike} == {1, 2}, adapter
        assert {each.weight_decay for each in alike} == {0.0, 0.1}, adapter
