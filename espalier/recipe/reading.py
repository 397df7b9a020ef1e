"""Read recipes: a document, a YAML or JSON file, or the name of a preset."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Hashable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final, cast

import yaml
from pydantic import ValidationError

from espalier.recipe import presets
from espalier.recipe.refusals import pointers
from espalier.recipe.refusals.mistakes import describe
from espalier.recipe.spec import CompressionSpec

MAX_BYTES: Final = 256 * 1024
"""Of a file: what the service takes as a body."""
MAX_DEPTH: Final = 32
"""Of mappings and lists, as the service has it."""


class RecipeError(ValueError):
    """The recipe cannot be read, or says what cannot be done; each line begins with the place in it."""


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of JSON: `1e-3` is a number; a date, `no` and `2:4` are text; a key stands once."""

    yaml_implicit_resolvers = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse what YAML would drop without a word."""
        keys = [key.value for key, _ in node.value]
        twice = next((key for key in keys if isinstance(key, str) and keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(problem=f"the key {twice!r} stands twice")
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"(null|~)?$", ["n", "~", ""]),
    ("bool", r"(true|false)$", "tf"),
    ("int", r"[-+]?(0|[1-9]\d*)$", "-+0123456789"),
    ("float", r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def read_document(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML or JSON file; raises RecipeError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{path} is larger than {MAX_BYTES // 1024} KiB")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read {path}: {error}") from None
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader; JSON is YAML
        json.dumps(document, allow_nan=False)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise RecipeError(f"{path} is neither YAML nor JSON: {error}") from None
    if not isinstance(document, dict):
        raise RecipeError(f"{path} does not hold a mapping")
    return document


def read_recipe(recipe: Mapping[str, Any] | str | PathLike[str]) -> CompressionSpec:
    """Return the spec that a recipe stands for: a spec as a mapping, a preset, or a file with a spec or a job in it.

    Paths of local texts may be relative: to the working folder, or to the file's. Raises RecipeError.
    """
    if isinstance(recipe, Mapping):
        return _parsed(recipe, Path())
    if not isinstance(recipe, str | PathLike):
        raise RecipeError(
            "a recipe is a spec as a mapping, the path of a YAML or JSON file, or the name of a preset "
            f"({', '.join(presets.BUILT_IN)}); this is {_a(recipe)}"
        )
    if isinstance(recipe, str) and _names_a_preset(recipe):
        return _parsed({"preset": recipe}, Path())
    document = read_document(Path(recipe))
    spec = document["spec"] if isinstance(document.get("spec"), dict) else document
    return _parsed(spec, Path(recipe).parent)


def _names_a_preset(recipe: str) -> bool:
    """Return whether a text is meant as a preset's name and not as a path; its version looks like a file extension."""
    if presets.find(recipe) is not None:
        return True
    name, at, _ = recipe.partition("@")
    is_versioned = bool(at) and presets.find(name) is not None
    return not Path(recipe).suffix or (is_versioned and not Path(recipe).exists())


def _parsed(recipe: Mapping[str, Any], folder: Path) -> CompressionSpec:
    document = located(_as_json(recipe, ()), folder)
    try:
        return CompressionSpec.model_validate_json(json.dumps(document))
    except ValidationError as error:
        details = error.errors(include_url=False)
        locations = [pointers.of_error(detail, detail["loc"], document) for detail in details]
        texts = [describe(detail, CompressionSpec) for detail in details]
        raise RecipeError(
            "\n".join(f"{location or '/'}: {text}" for location, text in zip(locations, texts, strict=True))
        ) from None


def _as_json(value: object, place: tuple[str | int, ...]) -> Any:  # noqa: ANN401 - JSON
    """Convert a recipe's Python values to JSON: numbers of numpy, paths, tuples.

    Raises RecipeError, with the place of what JSON cannot hold.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if len(place) > MAX_DEPTH:
        raise RecipeError(f"{pointers.join(place[:4])}: JSON cannot hold what holds itself, or nests this deeply")
    if isinstance(value, PathLike):
        return os.fsdecode(value)
    if isinstance(value, Mapping):
        return {_key(key, place): _as_json(item, (*place, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item, (*place, index)) for index, item in enumerate(value)]
    if getattr(value, "ndim", None) == 0 and isinstance(plain := cast(Any, value).item(), bool | int | float | str):
        return plain  # a scalar of numpy or torch
    raise RecipeError(f"{pointers.join(place)}: JSON cannot hold {_a(value)}")


def _key(key: object, place: tuple[str | int, ...]) -> str:
    if not isinstance(key, str):
        raise RecipeError(f"{pointers.join((*place, str(key)))}: a key of a recipe is a text, and this is {_a(key)}")
    return key


def _a(value: object) -> str:
    kind = type(value)
    return (
        "None"
        if value is None
        else kind.__name__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__name__}"
    )


def located(value: Any, folder: Path) -> Any:  # noqa: ANN401 - JSON
    """Make the paths of local models and texts absolute: what runs the job has a working folder of its own."""
    if isinstance(value, Mapping):
        document = {key: located(item, folder) for key, item in value.items()}
        if document.get("kind") == "local" and isinstance(document.get("path"), str):
            document["path"] = str((folder / document["path"]).absolute())
        return document
    return [located(item, folder) for item in value] if isinstance(value, list | tuple) else value
