"""Recipes as people write them: a document, a YAML or JSON file, or the name of a preset."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from espalier.recipe import pointers, presets
from espalier.recipe.spec import CompressionSpec

MAX_BYTES: Final = 256 * 1024
"""Of a file: what the service takes as a body."""


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
        return _parsed(dict(recipe), Path())
    if isinstance(recipe, str) and (presets.find(recipe) is not None or not Path(recipe).suffix):
        return _parsed({"preset": recipe}, Path())
    document = read_document(Path(recipe))
    spec = document["spec"] if isinstance(document.get("spec"), dict) else document
    return _parsed(spec, Path(recipe).parent)


def _parsed(document: dict[str, Any], folder: Path) -> CompressionSpec:
    try:
        return CompressionSpec.model_validate_json(json.dumps(located(document, folder)))
    except ValidationError as error:
        details = error.errors(include_input=False, include_url=False)
        places = [pointers.of_error(detail, detail["loc"], document) for detail in details]
        lines = [f"{place or '/'}: {detail['msg']}" for place, detail in zip(places, details, strict=True)]
        raise RecipeError("\n".join(lines)) from None
    except (TypeError, ValueError, RecursionError) as error:  # what JSON cannot hold
        raise RecipeError(f"the recipe holds what JSON cannot: {error}") from None


def located(value: Any, folder: Path) -> Any:  # noqa: ANN401 - JSON
    """Make the paths of local models and texts absolute: what runs the job has a working folder of its own."""
    if isinstance(value, Mapping):
        found = {key: located(item, folder) for key, item in value.items()}
        if found.get("kind") == "local" and isinstance(found.get("path"), str):
            found["path"] = str((folder / found["path"]).absolute())
        return found
    return [located(item, folder) for item in value] if isinstance(value, list | tuple) else value
