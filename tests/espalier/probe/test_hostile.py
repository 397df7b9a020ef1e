"""Configurations and headers made to harm: everyone is refused, in every family, and none is read any further."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from espalier.errors import SourceRefused, UnsafeSource, UnsupportedArchitecture
from espalier.families import FAMILIES
from espalier.probe import probe
from espalier.probe.config import parse_config
from tests.espalier.probe.checkpoints import LLAMA, write_model
from tests.espalier.probe.hostile_configs import MORE_CODE, NAMES_CODE, UNSUPPORTED, WRONG, WRONG_FOR
from tests.espalier.probe.hostile_headers import BAD
from tests.espalier.probe.published import MODELS


def refused(config: dict[str, Any]) -> SourceRefused | None:
    try:
        parse_config(config)
    except SourceRefused as refusal:
        return refusal
    return None


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_lets_code_through(family: str) -> None:
    for name, extra in (NAMES_CODE | MORE_CODE).items():
        refusal = refused(MODELS[family] | extra)
        assert isinstance(refusal, UnsafeSource), name
        assert "evil" not in f"{refusal} {refusal.hint}"


@pytest.mark.parametrize("changes", UNSUPPORTED.values(), ids=list(UNSUPPORTED))
def test_what_cannot_be_compressed_is_refused_with_a_reason(changes: dict[str, Any]) -> None:
    refusal = refused(LLAMA | changes)
    assert isinstance(refusal, UnsupportedArchitecture)
    assert refusal.hint


@pytest.mark.parametrize("family", WRONG_FOR)
def test_a_wrong_value_of_a_family_is_refused(family: str) -> None:
    for changes in WRONG_FOR[family]:
        refusal = refused(MODELS[family] | changes)
        assert isinstance(refusal, UnsafeSource), changes
        assert f"this {family} model is not usable" in str(refusal)


def test_a_hostile_header_harms_no_family(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    for name, content in BAD.items():
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(SourceRefused):
            probe(folder)
        assert {path.name for path in folder.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}, name


def test_the_batteries_are_as_large_as_promised() -> None:
    wrong = len(WRONG) + sum(len(cases) for cases in WRONG_FOR.values())
    assert len(NAMES_CODE) + len(MORE_CODE) + len(UNSUPPORTED) + wrong >= 60
    assert len(BAD) >= 40
