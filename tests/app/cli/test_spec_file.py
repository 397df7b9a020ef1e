"""YAML is read the way a JSON user expects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.cli.spec_file import read_body
from espalier.recipe.reading import RecipeError

SCALARS = {
    "1e-3": 0.001,
    "1E3": 1000.0,
    "-2.5e+2": -250.0,
    ".5": 0.5,
    "1.": 1.0,
    "1": 1,
    "-3": -3,
    "0.10": 0.1,
    "2026-11-21": "2026-11-21",
    "1.2.3": "1.2.3",
    "true": True,
    "null": None,
    "2:4": "2:4",
    "e5": "e5",
    "'1e-3'": "1e-3",
    "no": "no",
    "~": None,
    "''": "",
    "017": "017",
    ".nan": ".nan",
    "-.inf": "-.inf",
}


def read(tmp_path: Path, text: str | bytes) -> dict[str, Any]:
    path = tmp_path / "spec"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_body(path)


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_scalars_are_those_of_json(text: str, value: object, tmp_path: Path) -> None:
    scalar = read(tmp_path, f"source: {{}}\nspec: {{a: {text}}}")["spec"]["a"]
    assert (scalar, type(scalar)) == (value, type(value))


def test_json_is_read_too(tmp_path: Path) -> None:
    assert read(tmp_path, '{"source": {"a": 1e-3}, "spec": {"b": [1, "x"]}}') == {
        "source": {"a": 0.001},
        "spec": {"b": [1, "x"]},
    }


BAD = {
    "empty": "",
    "a list": "- source\n- spec",
    "no spec": "source: {}",
    "broken": "source: [",
    "duplicate": "source: {}\nspec: {a: 1, a: 2}",
    "python object": "source: {}\nspec: !!python/object/apply:os.getcwd []",
    "not text": b"\xff\xfe\x00",
    "too large": "source: {}\nspec: '" + "x" * 300_000 + "'",
    "mapping as a key": "source: {}\nspec: {[1]: 2}",
    "deep": "source: " + "[" * 50_000,
    "control": "source: \x00",
    "infinite": "source: {}\nspec: {a: 1e999}",
    "contains itself": "source: &a {x: *a}\nspec: {}",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_a_file_that_is_no_spec_is_refused_in_words(text: str | bytes, tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        read(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nothing\.yaml"):
        read_body(tmp_path / "nothing.yaml")
