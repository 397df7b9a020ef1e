"""Read the body of a job from a YAML or JSON file."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 256 * 1024
"""What the service takes."""


class SpecFileError(ValueError):
    """The file does not hold the body of a job."""


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


def read_body(path: Path) -> dict[str, Any]:
    """Return the body of POST /v1/jobs that a file holds."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SpecFileError(f"{path} is larger than {MAX_BYTES // 1024} KiB")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecFileError(f"cannot read {path}: {error}") from None
    try:
        body = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader; JSON is YAML
        json.dumps(body, allow_nan=False)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise SpecFileError(f"{path} is neither YAML nor JSON: {error}") from None
    if not isinstance(body, dict) or not {"source", "spec"} <= body.keys():
        raise SpecFileError(f"{path} needs `source` (the model) and `spec` (what to do with it)")
    return body
