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
from espalier.search.split import WIDTH_STEPS, Candidate, CandidateTrial, Split
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


def search(
    one: Split, increase: Callable[[Candidate], float], measured: Callable[[Candidate], float]
) -> list[CandidateTrial]:
    tried: list[CandidateTrial] = []
    while (candidate := one.next(tried)) is not None:
        tried.append(CandidateTrial(candidate, measured(candidate), increase(candidate), measured(Candidate(0, 0))))
        assert len(tried) <= one.target.max_trials
    return tried


@pytest.mark.parametrize("valley", [0, 5, 12])
def test_the_number_of_blocks_in_the_valley_is_found(valley: int) -> None:
    one = split(parameters=60_000, max_trials=10)
    tried = search(one, lambda candidate: abs(candidate.blocks - valley) + 1.0, one.predicted)
    best = one.best(tried)
    assert best is not None
    possible = [candidate.blocks for candidate in one.candidates([])]
    assert best.candidate.blocks == min(possible, key=lambda blocks: abs(blocks - valley))
    assert len({trial.candidate for trial in tried}) == len(tried)


def test_no_number_of_groups_is_tried_that_a_stock_configuration_cannot_carry() -> None:
    groups = Part(kind="kv_groups", count=8, parameters=32 * 100, fits=(1, 2, 4, 8))
    sizes = SIZES.model_copy(update={"parts": (*SIZES.parts, groups)})
    width = {"method": "flap", "sparsity": 0.75, "pattern": {"kind": "kv_groups"}}
    neurons = {"method": "structured_obs", "sparsity": 0.5}
    one = replace(split([width, neurons], parameters=60_000), sizes=sizes)
    tried = set()
    for width_step in range(WIDTH_STEPS + 1):
        steps = {step.pattern.kind: step for step in one.steps_of(Candidate(0, width_step))}
        sparsity = steps["kv_groups"].sparsity if "kv_groups" in steps else 0.0
        tried.add(Width(kind="kv_groups").kept(8, sparsity=sparsity or 0.0))
        assert one.candidate_of(list(steps.values())) == Candidate(0, width_step)
    assert tried == {2, 4, 8}


def test_every_candidate_reaches_the_target_and_a_milder_one_does_not() -> None:
    one = split(parameters=60_000)
    candidates = one.candidates([])
    assert [candidate.blocks for candidate in candidates] == list(range(candidates[0].blocks, 13))
    assert candidates[-1] == Candidate(12, 0)  # twelve blocks alone
    for candidate in candidates[:-1]:
        assert one.predicted(candidate) <= 60_000
        assert one.predicted(Candidate(candidate.blocks, candidate.width_step - 1)) > 60_000


def test_a_cut_can_be_told_from_its_steps() -> None:
    one = split(parameters=60_000)
    for candidate in (*one.candidates([]), one.largest, Candidate(0, 1), Candidate(3, WIDTH_STEPS)):
        assert one.candidate_of(one.steps_of(candidate)) == candidate


def test_with_one_kind_of_step_there_is_one_cut() -> None:
    for step in ({"method": "angular", "sparsity": 0.5}, {"method": "flap", "sparsity": 0.8}):
        one = split([step], bytes=165_000)
        tried = search(one, lambda _: 0.1, one.predicted)
        assert len(tried) == 1
        assert one.meets(tried[0])


def test_times_are_learned_from_trials_and_a_miss_is_followed_by_a_tighter_cut() -> None:
    def seconds(candidate: Candidate) -> float:  # a third of a block's time does not depend on its width
        left = SIZES.after(one.steps_of(candidate))
        return 0.002 * (0.1 + 0.9 * (left.blocks_fraction / 3 + left.products_fraction * 2 / 3))

    one = split(seconds_per_token=0.0013, max_trials=12)
    tried = search(one, lambda candidate: candidate.blocks + candidate.width_step / 400, seconds)
    assert tried[0].candidate == one.largest
    best = one.best(tried)
    assert best is not None
    assert best.measured is not None
    assert 0.0012 < best.measured <= 0.0013


def test_a_trial_without_a_model_is_not_the_best() -> None:
    one = split(parameters=60_000)
    assert (
        one.best([CandidateTrial(Candidate(12, 0), None, None), CandidateTrial(Candidate(8, 500), 59_000.0, 0.3)])
        is not None
    )
    assert one.best([CandidateTrial(Candidate(12, 0), None, None)]) is None


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
