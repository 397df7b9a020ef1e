"""What a service offers and no job asks for: a new method or field without a job is an error, not an oversight."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from espalier.families import FAMILIES, accepted
from espalier.recipe.refusals.unbuilt import MARK

EXEMPT: Final = {
    r"/dataset/(config|revision|upload_id|kind=(huggingface|upload))$": "text from elsewhere",
    r"/(calibration|retrain)/dataset/split=validation$|/perplexity/dataset/split=train$": "is the other one's text",
    r"/output/publish(/.*)?$": "takes a registry",
    r"/evaluate/tasks$": "takes lm-eval and its data",
    r"/latency=True$|/seconds_per_token$": "times, which no two runs share",
}
"""Regular expressions over paths in a spec -> why no job names what they match."""


def uncovered(catalogue: Mapping[str, Any], schema: Mapping[str, Any], jobs: Mapping[str, Any]) -> list[str]:
    """Return what a service offers and no job names: `/prune/method=wanda`, `/prune/update/rho`, `methods: wanda`."""
    named = {place for body in jobs.values() for place in _named(body["spec"], "")}
    spec = schema["properties"]["spec"]
    missing = {place for place in _offered(spec, schema["$defs"], "", ()) if not _exempt(place)} - named
    words = {word for place in named for word in re.split("[/=]", place)}
    words |= {Path(body["source"]["path"]).name for body in jobs.values()}
    listed = {
        f"methods: {item.get('name') or item.get('model_type')}"
        for items in catalogue.values()
        if isinstance(items, list)
        for item in items
        if item.get("name") or item.get("model_type")
    }
    words |= accepted().keys() - FAMILIES.keys()  # of the table: each has jobs of its own in the contracts
    return sorted(missing | {item for item in listed if item.removeprefix("methods: ") not in words})


def _exempt(place: str) -> bool:
    return any(re.search(pattern, place) for pattern in EXEMPT)


def _named(value: Any, place: str) -> Iterator[str]:
    """Every field of a document, and every word in it; lists leave no trace in a path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{place}/{key}"
            yield from _named(item, f"{place}/{key}")
    elif isinstance(value, list):
        for item in value:
            yield from _named(item, place)
    else:
        yield f"{place}={value}"


def _offered(node: Mapping[str, Any], defs: Mapping[str, Any], place: str, above: tuple[str, ...]) -> Iterator[str]:
    """The same of what a JSON Schema allows: its properties, and the words of `enum`, `const` and booleans."""
    name = node.get("$ref", "").rpartition("/")[2]
    if name and name not in above:
        yield from _offered(defs[name], defs, place, (*above, name))
    for branch in (*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())):
        yield from _offered(branch, defs, place, above)
    words = [*node.get("enum", ()), *([node["const"]] if "const" in node else ())]
    yield from (f"{place}={word}" for word in (words or [True, False] if node.get("type") == "boolean" else words))
    for key, item in node.get("properties", {}).items():
        if MARK in item:
            continue
        yield f"{place}/{key}"
        yield from _offered(item, defs, f"{place}/{key}", above)
    if "items" in node:
        yield from _offered(node["items"], defs, place, above)
