"""Amendments of generated JSON Schema for validators and client generators."""

from __future__ import annotations

import json
from typing import Any


def tell_object_defaults(value: Any, *, names: bool = False) -> None:  # noqa: ANN401 - JSON
    """Move defaults that are objects into descriptions: generators of clients drop schemas that have them.

    `names`: the keys of this object are names of fields or schemas, and none of them is a keyword.
    """
    if isinstance(value, list):
        for item in value:
            tell_object_defaults(item)
    elif isinstance(value, dict):
        default = None if names else value.get("default")
        if isinstance(default, dict) or (isinstance(default, list) and any(isinstance(item, dict) for item in default)):
            text = f"Default: `{json.dumps(value.pop('default'))}`."
            value["description"] = f"{value['description']} {text}" if "description" in value else text
        for key, item in value.items():
            if names or key not in {"example", "examples"}:
                tell_object_defaults(item, names=not names and key in {"properties", "schemas"})


def require_tags(document: dict[str, Any]) -> dict[str, Any]:
    """Mark in a schema, or a document that holds some, the tag of every member of a tagged union as required.

    Pydantic leaves it out where the tag has a default, and a body without it is refused.
    """
    for tag, reference in _members(document):
        schema = document
        for step in reference.removeprefix("#/").split("/"):
            schema = schema[step]
        required = schema.setdefault("required", [])
        if tag not in required:
            required.insert(0, tag)
    return document


def _members(value: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - JSON
    if isinstance(value, list):
        return [member for item in value for member in _members(item)]
    if not isinstance(value, dict):
        return []
    union = value.get("discriminator")
    own: list[tuple[str, str]] = []
    if isinstance(union, dict) and isinstance(union.get("mapping"), dict):
        # A model may have fields of these names itself.
        references = [reference for reference in union["mapping"].values() if isinstance(reference, str)]
        own = [(str(union["propertyName"]), reference) for reference in references if "propertyName" in union]
    return own + [member for item in value.values() for member in _members(item)]
