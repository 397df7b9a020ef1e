"""A family is what its own file declares: found by its name, and refused at import where the declaration is broken."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from espalier.discovery import discover
from espalier.families import FAMILIES, Family, PartKind
from espalier.families.shared.family import Maps
from espalier.families.shared.gpt_like import GptLike
from espalier.families.shared.llama_like import LlamaLike
from espalier.families.shared.mixture import MixtureOfExperts
from espalier.probe.config import parse_config
from tests.espalier.probe.generated import tiny

NEWCOMER = '''
"""A newcomer."""
from typing import ClassVar, Literal
from espalier.families.shared.llama_like import LlamaLike

class Newcomer(LlamaLike):
    """A newcomer."""

    architecture: ClassVar[str] = "NewcomerForCausalLM"
    model_type: Literal["{name}"] = "{name}"
'''


def found_beside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, type[Family]]:
    """Discover the families of the house and those of a folder."""
    path = [*importlib.import_module("espalier.families").__path__, str(folder)]
    monkeypatch.setattr("espalier.families.__path__", path)
    try:
        return discover("espalier.families", Family, tag="model_type")  # type: ignore[type-abstract]
    finally:
        sys.modules.pop("espalier.families.newcomer", None)


def test_a_file_beside_the_others_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "newcomer.py").write_text(NEWCOMER.format(name="newcomer"))
    families = found_beside(tmp_path, monkeypatch)
    assert families.keys() - FAMILIES.keys() == {"newcomer"}
    assert families["newcomer"].architecture == "NewcomerForCausalLM"


def test_two_families_of_one_name_stop_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "newcomer.py").write_text(NEWCOMER.format(name="llama"))
    with pytest.raises(TypeError, match="both called 'llama'"):
        found_beside(tmp_path, monkeypatch)


def test_a_family_without_a_model_type_stops_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "newcomer.py").write_text(NEWCOMER.format(name="newcomer").replace(' = "newcomer"', ""))
    with pytest.raises(TypeError, match="declares no `model_type`"):
        found_beside(tmp_path, monkeypatch)


def unnamed() -> type[Family]:
    class Unnamed(LlamaLike):
        """A family without a stock class."""

        model_type: Literal["unnamed"] = "unnamed"

    return Unnamed


def of_two_names() -> type[Family]:
    class OfTwoNames(LlamaLike):
        """A family whose type says another name."""

        architecture: ClassVar[str] = "Two"
        model_type: Literal["one", "two"] = "two"

    return OfTwoNames


def silent() -> type[Family]:
    class Silent(LlamaLike):
        architecture: ClassVar[str] = "Silent"
        model_type: Literal["silent"] = "silent"

    return Silent


def unfinished() -> type[Family]:
    class Unfinished(Family):
        """A family that does not say which tensors it has."""

        architecture: ClassVar[str] = "Unfinished"
        model_type: Literal["unfinished"] = "unfinished"

        def maps(self, block: int) -> Maps:
            return {}

    return Unfinished


def of_other_fields() -> type[Family]:
    class OfOtherFields(LlamaLike):
        """A family with fields that it does not have."""

        architecture: ClassVar[str] = "Other"
        bias_fields: ClassVar[dict[str, str]] = {"neurons": "mlp_bias"}
        per_block: ClassVar[frozenset[str]] = frozenset({"layer_kinds"})
        model_type: Literal["other"] = "other"

    return OfOtherFields


def of_no_experts() -> type[Family]:
    class OfNoExperts(MixtureOfExperts):
        """A mixture that does not say how many experts it has."""

        architecture: ClassVar[str] = "NoExperts"
        model_type: Literal["no_experts"] = "no_experts"

    return OfNoExperts


def undecided() -> type[Family]:
    class Undecided(GptLike):
        """A family that does not say whether its neurons can go."""

        architecture: ClassVar[str] = "Undecided"
        model_type: Literal["undecided"] = "undecided"

    return Undecided


def of_unknown_width() -> type[Family]:
    class OfUnknownWidth(GptLike):
        """A family whose neurons can go, and no field says how many there are."""

        architecture: ClassVar[str] = "UnknownWidth"
        readers: ClassVar[dict[str, str]] = {"neurons": "mlp.dense_4h_to_h"}
        model_type: Literal["unknown_width"] = "unknown_width"

    return OfUnknownWidth


@pytest.mark.parametrize(
    ("declare", "why"),
    [
        (unnamed, "names no stock class"),
        (of_two_names, "does not say so in its type"),
        (silent, "says nothing of itself"),
        (unfinished, "leaves out others, outer_shapes"),
        (of_other_fields, "fields that it does not have: 'layer_kinds', 'mlp_bias'"),
        (of_no_experts, "fields that it does not have: ''"),
        (undecided, "what reads neurons"),
        (of_unknown_width, "names no `width_field`"),
    ],
)
def test_a_malformed_declaration_fails_as_soon_as_it_is_made(declare: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        declare()


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_declared_of_a_part_that_can_go_holds_for_a_block(name: str) -> None:
    family = parse_config(tiny(name))
    parts: tuple[PartKind, ...] = ("neurons", "kv_groups")
    for part in parts:
        if family.why_not(part) is None:
            fewer = family.model_copy(update=family.narrowed(part, family.count(part) - 1))
            assert fewer.count(part) == family.count(part) - 1
            reader = family.readers[part]
            assert fewer.maps(0)[reader].inputs < family.maps(0)[reader].inputs


def test_families_load_without_torch() -> None:
    code = "import espalier.families, sys; assert 'torch' not in sys.modules; assert 'transformers' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
