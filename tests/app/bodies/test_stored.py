"""Stored documents are read once, and a preset of one project is never another's."""

from __future__ import annotations

import copy

import pytest
from pydantic import ValidationError

from app.bodies.stored import stored_request, stored_spec
from espalier.recipe import presets

WANDA = {"prune": {"method": "wanda", "sparsity": 0.5}}


def test_the_same_document_is_the_same_object() -> None:
    whole = stored_spec(WANDA).model_dump(mode="json")
    assert stored_spec(whole) is stored_spec(copy.deepcopy(whole))
    assert stored_spec(whole).model_dump(mode="json") == whole


def test_a_preset_means_what_it_means_to_whoever_reads() -> None:
    document = {"preset": "ours"}
    sparsities = []
    for sparsity in (0.4, 0.6):
        found = presets.Found("ours", 1, "", {"prune": {"method": "wanda", "sparsity": sparsity}})
        token = presets.LOOKUP.set(lambda name, version, found=found: found)
        try:
            sparsities.append(stored_spec(document).masking[0].amount)
        finally:
            presets.LOOKUP.reset(token)
    assert sparsities == [0.4, 0.6]


def test_what_this_version_does_not_take_is_refused_every_time() -> None:
    for _ in range(2):
        with pytest.raises(ValidationError):
            stored_spec({"prune": {"method": "of-tomorrow"}})
    with pytest.raises(ValidationError):
        stored_request({"spec": WANDA})
