"""Files that the version before has stored for other jobs are found again: the keys of phases are what they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from espalier.checkpoint_names import CheckpointName, Kind, RepetitionName
from espalier.recipe.base import fingerprint
from espalier.recipe.hashes import DECLARED, datasets_in, phase_key

# Dumped specs, and the key of each checkpoint, `phase/name`, as version 0.1.0 at 05ac94f made it (null: not shared).
GOLDEN: Final[dict[str, dict[str, Any]]] = json.loads(Path(__file__).with_name("phase_keys.json").read_text())


@pytest.mark.parametrize("title", GOLDEN["specs"])
def test_the_keys_of_a_spec_are_those_of_the_version_before(title: str) -> None:
    spec = GOLDEN["specs"][title]
    data = {fingerprint(item): f"sha-of-{item.get('path') or item.get('split')}" for item in datasets_in(spec)}
    data["of another job"] = "x"
    keys = {}
    for place in GOLDEN["keys"][title]:
        phase, _, text = place.partition("/")
        name = CheckpointName.parse(text)
        assert name is not None
        keys[place] = phase_key(phase, name, revision="r1", data=data, spec=spec, made_by={"engine": "1", "threads": 1})
    assert keys == GOLDEN["keys"][title]


def test_the_golden_keys_tell_specs_apart() -> None:
    keys = [key for of in GOLDEN["keys"].values() for key in of.values()]
    assert len(GOLDEN["specs"]) >= 20
    assert len(set(keys)) > 100
    assert None in keys


def test_what_a_cycle_or_a_member_has_made_is_its_own() -> None:
    spec = GOLDEN["specs"]["plain"]
    whole = CheckpointName(Kind.BLOCK, block=0)
    made = {"revision": "r1", "data": {}, "spec": spec, "made_by": {}}
    assert phase_key("pruning", whole, **made) is not None
    for repetition in (RepetitionName(cycle=1), RepetitionName(member=1)):
        assert phase_key("pruning", whole.of(repetition), **made) is None


def test_a_field_that_is_new_gives_keys_of_its_own() -> None:
    spec = GOLDEN["specs"]["plain"]
    for phase, kinds in DECLARED.items():
        for kind, declared in kinds.items():
            block, step = (0 if number in kind.fields else None for number in ("block", "step"))
            statistics = "norms" if "statistics" in kind.fields else None
            name = CheckpointName(kind, block, step, statistics)
            old, new = (
                phase_key(phase, name, revision="r1", data={}, spec=each, made_by={})
                for each in (spec, spec | {"field_of_tomorrow": True})
            )
            assert (old == new) is declared.of_dense_inputs, name
