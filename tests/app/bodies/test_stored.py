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
    assert [_share_of_ours(0.4), _share_of_ours(0.6)] == [0.4, 0.6]


def _share_of_ours(sparsity: float) -> float:
    """What the document {"preset": "ours"} prunes where that preset prunes so much."""
    preset = presets.PresetVersion("ours", 1, "", {"prune": {"method": "wanda", "sparsity": sparsity}})
    token = presets.LOOKUP.set(lambda _name, _version: preset)
    try:
        return stored_spec({"preset": "ours"}).masking[0].target_sparsity
    finally:
        presets.LOOKUP.reset(token)


def test_what_this_version_does_not_take_is_refused_every_time() -> None:
    for _ in range(2):
        with pytest.raises(ValidationError):
            stored_spec({"prune": {"method": "of-tomorrow"}})
    with pytest.raises(ValidationError):
        stored_request({"spec": WANDA})
