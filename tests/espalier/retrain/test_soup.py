"""Soups of small random models: what is averaged, what is refused, and that one goes on where it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from espalier.errors import UnequalMembersError
from espalier.messages import Checkpoint, Message
from espalier.model.safetensors_writer import save_overlay
from espalier.model.weights import Weights
from espalier.prune import pruning
from espalier.prune.calibrating import run as calibrate
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.recovery import VECTORS, Soup, vary
from espalier.recipe.steps.retrain import Retrain
from espalier.retrain import soup
from espalier.retrain.averaging import Masks, greedy, mean
from espalier.retrain.soup import Member
from espalier.retrain.train import UNDECAYED
from espalier.search.soup import member_specs
from tests.fixtures.library.jobs import KilledError, LocalJob, local_job, write_texts, write_topics
from tests.fixtures.library.recovery import assert_zeros_hold, recovery
from tests.fixtures.library.tiny_models import write_tiny_model

TRAINING = {"steps": 4, "batch_size": 2, "rank": 2, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_topics(tmp_path_factory.mktemp("text") / "train.txt", 6)


def test_the_mean_of_equal_values_is_that_value() -> None:
    value = torch.randn(4096) * 10 ** torch.randint(-20, 20, (4096,)).float()
    for count in (2, 3, 7, 16):
        assert torch.equal(mean([value] * count), value)
    assert mean([torch.tensor([1.0]), torch.tensor([4.0])]).tolist() == [2.5]


def test_greedy_takes_what_does_not_harm() -> None:
    blends = {(1, 0): 2.0, (1, 0, 2): 2.5}
    assert greedy([3.0, 2.2, 4.0], lambda chosen: blends[tuple(chosen)]) == ([1, 0], 2.0)
    assert greedy([3.0, 2.2], lambda _: 9.0) == ([1], 2.2)


@pytest.mark.parametrize("what", ["seed", "order", "weight_decay", "steps", "schedule"])
def test_members_differ_in_one_thing_and_from_each_other(what: Any) -> None:
    spec = CompressionSpec.model_validate(
        {
            "prune": {"method": "wanda", "sparsity": 0.5},
            "retrain": {"steps": 100},
            "soup": {"members": 5, "vary": what},
            "gate": {"max_perplexity": 30.0},
        }
    )
    members = member_specs(spec)
    retrains = [member.retrain.model_dump() for member in members if member.retrain]
    assert len({str(retrain) for retrain in retrains}) == 5
    field = {"order": "order_seed"}.get(what, what)
    assert {str({**retrain, field: 0}) for retrain in retrains} == {str({**retrains[0], field: 0})}
    assert all(member.soup is None and member.gate is None and member.prune == spec.prune for member in members)
    assert [CompressionSpec.model_validate_json(m.model_dump_json()) for m in members] == members
    if what == "steps":
        assert sum(retrain["steps"] for retrain in retrains) == 500


def test_a_decay_of_its_own_is_not_taken_twice() -> None:
    decays = [member.weight_decay for member in vary(Retrain(weight_decay=0.03), Soup(members=4, vary="weight_decay"))]
    assert len(set(decays)) == 4
    assert decays[0] == 0.03


def test_the_first_member_reads_in_the_order_that_was_asked_for() -> None:
    orders = [member.order_seed for member in vary(Retrain(seed=7, order_seed=0), Soup(members=2, vary="order"))]
    assert orders == [0, 1]


@pytest.mark.parametrize(
    ("retrain", "what", "equal"),
    [
        ({"trainable": ["norms", "biases"]}, "weight_decay", True),
        ({"trainable": ["norms", "embeddings"]}, "weight_decay", False),
        ({"method": "full"}, "weight_decay", False),
        ({"trainable": ["norms"], "order_seed": 1}, "seed", True),
        ({"method": "full", "order_seed": 1}, "seed", True),
        ({"trainable": ["norms"]}, "seed", False),
        ({"trainable": ["mask_lora"], "order_seed": 1}, "seed", False),
        ({"steps": 1}, "steps", True),
        ({"steps": 2}, "steps", True),
        ({"steps": 8}, "steps", False),
    ],
)
def test_members_that_would_be_equal_are_refused(retrain: dict[str, Any], what: str, equal: bool) -> None:
    fields = {"prune": {"method": "wanda", "sparsity": 0.5}, "retrain": retrain, "soup": {"vary": what}}
    if not equal:
        CompressionSpec.model_validate(fields)
        return
    with pytest.raises(ValidationError) as refused:
        CompressionSpec.model_validate(fields)
    assert [error["type"] for error in refused.value.errors()] == ["equal_members"]


def test_specs_and_trainer_agree_on_what_never_decays() -> None:
    assert VECTORS == UNDECAYED


@pytest.mark.parametrize(("what", "max_members"), [("schedule", 7), ("weight_decay", 6)])
def test_there_are_no_more_members_than_values(what: Any, max_members: int) -> None:
    members = vary(Retrain(), Soup(members=max_members, vary=what))
    assert [Retrain.model_validate(member.model_dump()) for member in members] == members
    with pytest.raises(ValidationError, match=f"{max_members} at most"):
        Soup(members=max_members + 1, vary=what)


def _soup(folder: Path, model_dir: Path, text: Path, **fields: Any) -> Any:
    return recovery(folder, model_dir, text, retrain=TRAINING, soup={"members": 3, **fields})


@pytest.mark.parametrize("average", ["uniform", "greedy"])
def test_a_soup_is_the_mean_of_its_members_and_goes_on_where_it_was_stopped(
    tmp_path: Path, model_dir: Path, text: Path, average: str
) -> None:
    whole = _soup(tmp_path / "whole", model_dir, text, average=average)
    session = whole.recover()
    reported = session.results.recovery["soup"]
    overlays = {number: [p for p in _merged(whole) if f"member-{number}--" in p.name] for number in (1, 2, 3)}
    pruned = [path for path in session.weights.overlays if "pruning" in str(path)]
    members = [Weights(model_dir, [*pruned, *overlays[number]]) for number in (1, 2, 3)]
    used = [members[index] for index in reported["used"]]
    for name in session.weights.names:
        values = [member.get(name) for member in used]
        assert torch.equal(session.weights.get(name), mean(values).to(values[0].dtype)), name
    assert_zeros_hold(session.weights, session)
    assert len(reported["members"]) == 3
    if average == "greedy":
        assert reported["validation_loss"] <= min(reported["members"])
    else:
        assert reported["used"] == [0, 1, 2]

    def in_the_second_member(message: Message) -> bool:
        return isinstance(message, Checkpoint) and message.name == "member-2--trained"

    killed = _soup(tmp_path / "killed", model_dir, text, average=average)
    with pytest.raises(KilledError):
        killed.recover(kill_at=in_the_second_member)
    again = killed.recover()
    assert again.results.recovery["soup"] == reported
    of_an_ended_job = killed.recover().results
    assert of_an_ended_job.protocol["retraining"] == again.results.protocol["retraining"]
    assert all(torch.equal(again.weights.get(name), session.weights.get(name)) for name in again.weights.names)


def _merged(job: Any) -> list[Path]:
    paths: list[Path] = sorted((job.folder / "checkpoints" / "merging").glob("*.safetensors"))
    return paths


def _finished(folder: Path, model_dir: Path, texts: Path, **spec: Any) -> LocalJob:
    job = local_job(folder, model_dir, texts, evaluate={"perplexity": []}, **spec)
    job.attempt()
    return job


def test_equal_artifacts_make_the_same_model_and_unequal_masks_are_refused(tmp_path: Path, model_dir: Path) -> None:
    texts = write_texts(tmp_path)
    member = _finished(tmp_path / "a", model_dir, texts, retrain=TRAINING)
    other = _finished(tmp_path / "b", model_dir, texts, prune={"method": "magnitude", "sparsity": 0.5})
    parent = local_job(tmp_path / "p", model_dir, texts, evaluate={"perplexity": []}, retrain=TRAINING, soup={})
    parent.messages = []
    request = parent.request().model_copy(update={"member_dirs": [str(member.artifact)] * 3})
    parent.request = lambda: request  # type: ignore[method-assign]
    parent.attempt()
    assert (parent.artifact / "model.safetensors").read_bytes() == (member.artifact / "model.safetensors").read_bytes()
    assert (parent.artifact / "masks.safetensors").read_bytes() == (member.artifact / "masks.safetensors").read_bytes()
    session = parent.session()
    pruning.run(session, calibrate(session))
    with pytest.raises(UnequalMembersError, match="member 2"):
        soup.run(session, [member.artifact, other.artifact])


def test_a_mean_that_fills_a_zero_is_found(tmp_path: Path, model_dir: Path, text: Path) -> None:
    job = _soup(tmp_path / "job", model_dir, text)
    session = job.session()
    pruning.run(session, calibrate(session))
    name = next(iter(session.weights.mask_names))
    tensor = f"{name}.weight"
    save_overlay(tmp_path / "bad.safetensors", {tensor: torch.ones_like(session.weights.get(tensor))}, {})
    bad = session.weights.with_overlay(tmp_path / "bad.safetensors")
    with pytest.raises(Exception, match="not zero"):
        soup.average_members(
            session, [Member(weights, Masks.of_weights(weights)) for weights in (session.weights, bad)]
        )
