"""What pydantic's JSON Schema leaves out: the tag of a union's member is required, for all that it has a default."""

from __future__ import annotations

from typing import Any


def require_tags(document: dict[str, Any]) -> dict[str, Any]:
    """Mark in a schema, or a document that holds some, the tag of every member of a tagged union as required."""
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
        return [found for item in value for found in _members(item)]
    if not isinstance(value, dict):
        return []
    union = value.get("discriminator")
    own: list[tuple[str, str]] = []
    if isinstance(union, dict) and isinstance(union.get("mapping"), dict):
        # A model may have fields of these names itself.
        references = [reference for reference in union["mapping"].values() if isinstance(reference, str)]
        own = [(str(union["propertyName"]), reference) for reference in references if "propertyName" in union]
    return own + [found for item in value.values() for found in _members(item)]
