"""What the probe takes, stock transformers takes: it builds the model that was told, and runs it, map by map."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from espalier.errors import SourceRefused
from espalier.families import FAMILIES
from espalier.probe.config import parse_config, sanitised_config
from espalier.probe.tensors import Expected
from tests.espalier.probe.generated import configuration, tiny

ROUNDS, PER_ROUND = 8, 50
"""Of every family: 5,600 configurations in all."""
SMALL = 2**20
"""Parameters of a model that is really built, and run; larger ones have shapes alone."""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_of_every_family_is_right_to_begin_with(family: str, tmp_path: Path) -> None:
    assert _taken(tiny(family), tmp_path)


@pytest.mark.parametrize(
    ("family", "settings", "taken"),
    [
        ("bloom", {"slow_but_exact": True, "pretraining_tp": 2}, False),
        ("bloom", {"slow_but_exact": True}, True),
        ("bloom", {"pretraining_tp": 2}, True),
        ("gemma2", {"layer_types": ["full_attention"] * 2, "sliding_window": None}, False),
        ("gemma2", {"layer_types": ["sliding_attention"] * 2, "sliding_window": None}, False),
        ("gemma2", {"sliding_window": None}, False),
        ("gemma2", {"layer_types": ["full_attention"] * 2}, True),
        ("phi3", {"rope_scaling": {"rope_type": "default", "short_factor": [1.0], "long_factor": [1.0]}}, False),
        ("phi3", {"rope_parameters": {"rope_type": "default", "long_factor": [1.0] * 4}}, False),
        ("phi3", {"rope_scaling": {"rope_type": "default", "short_factor": [1.0] * 2}}, True),
    ],
)
def test_settings_that_cannot_be_run_together_are_refused(
    family: str, settings: dict[str, Any], tmp_path: Path, *, taken: bool
) -> None:
    assert _taken(tiny(family) | settings, tmp_path) is taken


@pytest.mark.deep
@pytest.mark.parametrize("part", range(ROUNDS))
@pytest.mark.parametrize("family", FAMILIES)
def test_no_configuration_passes_that_stock_transformers_refuses(family: str, part: int, tmp_path: Path) -> None:
    cases = [configuration(family, number) for number in range(part * PER_ROUND, (part + 1) * PER_ROUND)]
    taken = sum(_taken(config, tmp_path) for config in cases)
    assert 0 < taken < PER_ROUND


def _taken(config: dict[str, Any], folder: Path) -> bool:
    """Tell whether the probe takes a configuration; fails where stock transformers then does not."""
    try:
        family, passed_on = parse_config(deepcopy(config)), sanitised_config(deepcopy(config))
    except SourceRefused:
        return False
    try:
        _build(passed_on, Expected(family), folder)
    except Exception as error:
        raise AssertionError(f"the probe takes {config}") from error
    return True


def _build(config: dict[str, Any], expected: Expected, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    stock = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    small = sum(math.prod(shape) for shape in expected.own.values()) <= SMALL
    with torch.device("cpu" if small else "meta"):
        model = AutoModelForCausalLM.from_config(stock, dtype=torch.float32, trust_remote_code=False).eval()
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters() if ".experts." not in name}
    assert shapes == {name: shape for name, shape in expected.own.items() if ".experts." not in name}
    if small:
        called: set[str] = set()
        length = min(8, expected.family.max_position_embeddings)
        tokens = torch.arange(length)[None] % expected.family.vocab_size
        maps = [f"{prefix}{name}" for index, prefix in expected.blocks() for name in expected.family.maps(index)]
        single = {name for name in maps if ".experts." not in name}
        for name in single:
            model.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))
        with torch.no_grad():
            logits = model(input_ids=tokens, use_cache=False).logits
        assert logits.shape == (1, length, expected.family.vocab_size)
        assert torch.isfinite(logits).all()
        assert called == single, "statistics of these would be of nothing"
