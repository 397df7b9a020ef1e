"""Public models are accepted as they are published, and counted right."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
from transformers import AutoConfig

from espalier.errors import UnsafeSource
from espalier.families import FAMILIES
from espalier.probe.config import parse_config, sanitised_config
from espalier.probe.tensors import Expected
from tests.espalier.probe.published import PUBLISHED


@pytest.mark.parametrize(("config", "parameters"), PUBLISHED.values(), ids=list(PUBLISHED))
def test_a_public_model_is_accepted_and_counted(config: dict[str, Any], parameters: int) -> None:
    expected = Expected(parse_config(config))
    assert sum(math.prod(shape) for shape in expected.own.values()) == parameters
    maps = expected.family.maps(0).values()
    assert all(each.inputs % 4 == 0 for each in maps)


def test_every_family_has_a_public_model() -> None:
    assert {config["model_type"] for config, _ in PUBLISHED.values()} == set(FAMILIES)


@pytest.mark.parametrize("config", [config for config, _ in PUBLISHED.values()], ids=list(PUBLISHED))
def test_stock_transformers_reads_the_same_from_what_is_passed_on(config: dict[str, Any]) -> None:
    # Copies: stock configurations write into the dictionaries that they are made of.
    passed_on = AutoConfig.for_model(**sanitised_config(deepcopy(config))).to_dict()
    whole = AutoConfig.for_model(**deepcopy(config) | {"_name_or_path": ""}).to_dict()
    assert passed_on == {key: whole[key] for key in passed_on}


def test_a_published_configuration_that_names_code_is_refused_with_the_way_out() -> None:
    config, _ = PUBLISHED["Phi-3-mini-4k"]
    code = {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}
    with pytest.raises(UnsafeSource, match="`auto_map` of") as caught:
        parse_config(config | {"auto_map": code})
    assert "remove the entry" in caught.value.hint
