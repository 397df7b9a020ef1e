"""The interface changes only on purpose: ESPALIER_UPDATE_GOLDEN=1 writes the new one."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi.openapi.models import OpenAPI

from app.main import create_app
from app.settings import Settings
from espalier.recipe.steps.prune import PATTERNS, STEPS

GOLDEN = Path(__file__).with_name("openapi.json")
METHODS = {model.__name__ for model in (*STEPS.values(), *PATTERNS.values())}


@lru_cache
def _document() -> dict[str, Any]:
    return create_app(Settings()).openapi()


def _without_methods(value: Any) -> Any:
    """Leave method schemas out: a new criterion is one file and nothing else."""
    if isinstance(value, list):
        return [_without_methods(item) for item in value if not _names_method(item)]
    if isinstance(value, dict):
        return {
            key: _without_methods(item)
            for key, item in value.items()
            if key not in METHODS and not _names_method(item) and key != "mapping"
        }
    return value


def _names_method(value: Any) -> bool:
    reference = value.get("$ref", "") if isinstance(value, dict) else value if isinstance(value, str) else ""
    return bool(re.fullmatch(r"#/components/schemas/(\w+)", reference)) and reference.rsplit("/", 1)[1] in METHODS


def test_the_interface_is_the_one_that_was_agreed() -> None:
    document = json.dumps(_without_methods(_document()), indent=1, sort_keys=True) + "\n"
    if os.environ.get("ESPALIER_UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(document)
    assert document == GOLDEN.read_text()


def test_the_document_is_openapi_3_1() -> None:
    document = _document()
    assert document["openapi"].startswith("3.1")
    OpenAPI.model_validate(document)


def test_every_operation_that_takes_an_idempotency_key_documents_the_replay() -> None:
    operations = [operation for path in _document()["paths"].values() for operation in path.values()]
    taking = [each for each in operations if "Idempotency-Key" in {item["name"] for item in each.get("parameters", [])}]
    assert len(taking) == 11
    assert [each["operationId"] for each in taking if "200" not in each["responses"]] == []


def test_every_reference_leads_somewhere_and_every_operation_documents_problems() -> None:
    document = _document()
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references - set(schemas) == set()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert all({"4XX", "5XX"} <= set(operation["responses"]) for operation in operations)
    assert len({operation["operationId"] for operation in operations}) == len(operations)


def _unbounded(schema: dict[str, Any], place: str, seen: set[str]) -> Iterator[str]:
    """Where a schema takes numbers, texts or lists of any size."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        if name not in seen:
            seen.add(name)
            yield from _unbounded(_document()["components"]["schemas"][name], name, seen)
        return
    for part in ("anyOf", "oneOf", "allOf"):
        for member in schema.get(part, []):
            yield from _unbounded(member, place, seen)
    if "enum" in schema or "const" in schema:
        return
    kind = schema.get("type")
    ends = {
        "integer": ({"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}),
        "number": ({"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}),
        "string": ({"maxLength", "pattern", "format"},),
        "array": ({"maxItems"},),
    }
    if any(not end & schema.keys() for end in ends.get(str(kind), ())):
        yield f"{place}: {kind}"
    if kind == "object" and not schema.get("properties") and "maxProperties" not in schema:
        yield f"{place}: object"
    for name, member in schema.get("properties", {}).items():
        yield from _unbounded(member, f"{place}.{name}", seen)
    for part in ("items", "additionalProperties", "propertyNames"):
        if isinstance(schema.get(part), dict):
            yield from _unbounded(
                {"type": "string", **schema[part]} if part == "propertyNames" else schema[part], f"{place}.{part}", seen
            )


def test_nothing_that_is_sent_is_without_bounds() -> None:
    """Ids in paths apart: those end with the request line, and one of any length is not found."""
    unbounded: list[str] = []
    seen: set[str] = set()
    for path, verbs in _document()["paths"].items():
        for verb, operation in verbs.items():
            for item in operation.get("parameters", []):
                if item["in"] != "path" or item["schema"].get("type") != "string":
                    unbounded += _unbounded(item["schema"], f"{verb} {path} {item['name']}", seen)
            for content in operation.get("requestBody", {}).get("content", {}).values():
                unbounded += _unbounded(content["schema"], f"{verb} {path}", seen)
    unbounded.remove("post /v1/hooks/{source_id}: object")  # a registry's own
    assert unbounded == []
