"""A target is split over depth and width: sizes add up, the search finds the valley, and its budget is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from espalier.families.sizes import Part, Sizes
from espalier.probe import probe
from espalier.recipe.spec import CompressionSpec
from espalier.recipe.steps.objective import Target
from espalier.recipe.steps.structure import Width
from espalier.search.split import LEVELS, Cut, Split, Tried
from tests.fixtures.library.tiny_models import FAMILIES, write_tiny_model

BLOCK = 1000
SIZES = Sizes(
    parameters=40_000 + 32 * BLOCK,
    head=20_000,
    tensors=300,
    parts=(Part(kind="depth", count=32, parameters=32 * BLOCK), Part(kind="neurons", count=200, parameters=32 * 3)),
)


def split(steps: list[dict[str, Any]] | None = None, **target: Any) -> Split:
    depth, width = {"method": "angular", "sparsity": 0.5}, {"method": "structured_obs", "sparsity": 0.5}
    spec = CompressionSpec.model_validate({"prune": [depth, width] if steps is None else steps, "objective": target})
    assert isinstance(spec.objective, Target)
    return Split(spec.objective, spec.structure, SIZES, "bfloat16")


def search(one: Split, increase: Callable[[Cut], float], measured: Callable[[Cut], float]) -> list[Tried]:
    tried: list[Tried] = []
    while (cut := one.next(tried)) is not None:
        tried.append(Tried(cut, measured(cut), increase(cut), measured(Cut(0, 0))))
        assert len(tried) <= one.target.max_trials
    return tried


@pytest.mark.parametrize("valley", [0, 5, 12])
def test_the_number_of_blocks_in_the_valley_is_found(valley: int) -> None:
    one = split(parameters=60_000, max_trials=10)
    tried = search(one, lambda cut: abs(cut.blocks - valley) + 1.0, one.predicted)
    best = one.best(tried)
    assert best is not None
    possible = [cut.blocks for cut in one.candidates([])]
    assert best.cut.blocks == min(possible, key=lambda blocks: abs(blocks - valley))
    assert len({trial.cut for trial in tried}) == len(tried)


def test_no_number_of_groups_is_tried_that_a_stock_configuration_cannot_carry() -> None:
    groups = Part(kind="kv_groups", count=8, parameters=32 * 100, fits=(1, 2, 4, 8))
    sizes = SIZES.model_copy(update={"parts": (*SIZES.parts, groups)})
    width = {"method": "flap", "sparsity": 0.75, "pattern": {"kind": "kv_groups"}}
    neurons = {"method": "structured_obs", "sparsity": 0.5}
    one = replace(split([width, neurons], parameters=60_000), sizes=sizes)
    tried = set()
    for level in range(LEVELS + 1):
        steps = {step.pattern.kind: step for step in one.steps_of(Cut(0, level))}
        share = steps["kv_groups"].sparsity if "kv_groups" in steps else 0.0
        tried.add(Width(kind="kv_groups").kept(8, sparsity=share or 0.0))
        assert one.cut_of(list(steps.values())) == Cut(0, level)
    assert tried == {2, 4, 8}


def test_every_candidate_reaches_the_target_and_a_milder_one_does_not() -> None:
    one = split(parameters=60_000)
    cuts = one.candidates([])
    assert [cut.blocks for cut in cuts] == list(range(cuts[0].blocks, 13))
    assert cuts[-1] == Cut(12, 0)  # twelve blocks alone
    for cut in cuts[:-1]:
        assert one.predicted(cut) <= 60_000
        assert one.predicted(Cut(cut.blocks, cut.level - 1)) > 60_000


def test_a_cut_can_be_told_from_its_steps() -> None:
    one = split(parameters=60_000)
    for cut in (*one.candidates([]), one.most, Cut(0, 1), Cut(3, LEVELS)):
        assert one.cut_of(one.steps_of(cut)) == cut


def test_with_one_kind_of_step_there_is_one_cut() -> None:
    for step in ({"method": "angular", "sparsity": 0.5}, {"method": "flap", "sparsity": 0.8}):
        one = split([step], bytes=165_000)
        tried = search(one, lambda _: 0.1, one.predicted)
        assert len(tried) == 1
        assert one.meets(tried[0])


def test_times_are_learned_from_trials_and_a_miss_is_followed_by_a_tighter_cut() -> None:
    def seconds(cut: Cut) -> float:  # a third of a block's time does not depend on its width
        left = SIZES.after(one.steps_of(cut))
        return 0.002 * (0.1 + 0.9 * (left.blocks_share / 3 + left.products_share * 2 / 3))

    one = split(seconds_per_token=0.0013, max_trials=12)
    tried = search(one, lambda cut: cut.blocks + cut.level / 400, seconds)
    assert tried[0].cut == one.most
    best = one.best(tried)
    assert best is not None
    assert best.measured is not None
    assert 0.0012 < best.measured <= 0.0013


def test_a_trial_without_a_model_is_not_the_best() -> None:
    one = split(parameters=60_000)
    assert one.best([Tried(Cut(12, 0), None, None), Tried(Cut(8, 500), 59_000.0, 0.3)]) is not None
    assert one.best([Tried(Cut(12, 0), None, None)]) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_those_of_the_smaller_model(family: str, tmp_path: Path) -> None:
    """A model that is written smaller has the parameters that the arithmetic tells."""
    facts = probe(write_tiny_model(tmp_path / "whole", family))
    assert facts.sizes is not None
    assert facts.sizes.parameters == facts.parameters
    names = {"gpt2": {"neurons": "n_inner"}, "opt": {"neurons": "ffn_dim"}, "falcon": {"neurons": "ffn_hidden_size"}}
    for part in facts.sizes.parts:
        if part.kind == "kv_groups" or part.refusal:
            continue
        known = {"depth": "num_hidden_layers", "neurons": "intermediate_size", "experts": "num_experts"}
        name = {**known, **names.get(family, {})}[part.kind]
        if family in {"gpt2", "bloom"} and part.kind == "depth":
            name = "n_layer"
        if family == "mixtral" and part.kind == "experts":
            name = "num_local_experts"
        changed: dict[str, Any] = {name: part.count // 2}
        smaller = probe(write_tiny_model(tmp_path / part.kind, family, **changed))
        step = {"depth": "angular", "neurons": "flap", "kv_groups": "flap", "experts": "reap"}[part.kind]
        pattern = {} if part.kind == "depth" else {"pattern": {"kind": part.kind}}
        spec = CompressionSpec.model_validate({"prune": [{"method": step, "sparsity": 0.5, **pattern}]})
        assert facts.sizes.after(spec.structure).parameters == smaller.parameters
