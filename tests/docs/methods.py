"""The page of all methods, from the catalogue that the API serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from app.api.endpoints.planning.methods import CatalogueView, MethodView, list_methods
from espalier.recipe.presets import SHIPPED
from tests.docs.tables import table

HEAD: Final = """\
# Methods

Everything that a spec can name in this version, made from the catalogue (`GET /v1/methods`) by `python -m tests.docs`.
Bounds of nested fields are in `GET /v1/spec-schema`. *Calibration* says what a method reads of the inputs of a matrix:
nothing, their norms, or their Gram matrix.
"""
AXES: Final = (
    ("criteria", "Criteria", "`prune.method`: which weights go."),
    ("structured", "Depth, width and experts", "`prune.method` where whole blocks, neurons, heads or experts go."),
    ("patterns", "Patterns", "`prune.pattern.kind`: the shape of the mask."),
    ("budgets", "Budgets", "`prune.budget.kind`: how the sparsity is spread over matrices."),
    ("mask_optimizers", "Mask optimizers", "`prune.optimizer.kind`: better masks, weights unchanged."),
    ("updates", "Solvers", "`prune.update.kind`: the kept weights of a matrix refitted."),
    ("recovery", "Recovery", "`reconstruct`, and `retrain.method`: how the loss is won back."),
)


def page() -> str:
    """Return docs/methods.md."""
    catalogue = list_methods()
    parts = [HEAD, *(_axis(catalogue, *axis) for axis in AXES), _conflicts(catalogue), _presets()]
    return "\n".join(parts)


def _axis(catalogue: CatalogueView, field: str, title: str, about: str) -> str:
    methods: list[MethodView] = getattr(catalogue, field)
    rows = ((f"`{item.name}`", item.summary, item.cost, item.needs, item.paper) for item in methods)
    listed = table(("name", "what it does", "cost", "calibration", "paper"), rows)
    return f"## {title}\n\n{about}\n\n{listed}{''.join(_details(item) for item in methods)}"


def _details(method: MethodView) -> str:
    lines = [*(f"- {text}" for text in method.constraints), *_parameters(method.parameters)]
    return f"\n`{method.name}`:\n\n" + "\n".join(lines) + "\n" if lines else ""


def _parameters(schema: dict[str, Any]) -> Iterator[str]:
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in required else f"default {_literal(field.get('default'))}"
        about = field.get("description", "").strip().split("\n")[0]
        yield f"- `{name}` ({', '.join(filter(None, (_type(field), default)))}){f': {about}' if about else ''}"


def _literal(value: object) -> str:
    return f"`{json.dumps(value)}`".replace('"', "")


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"])
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(filter(None, (_type(choice) for choice in field["anyOf"]))))
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    bounds = (
        f"{sign} {field[key]:g}"
        for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
        if key in field
    )
    return " ".join((str(field.get("const", field.get("type", "object"))), *bounds))


def _conflicts(catalogue: CatalogueView) -> str:
    rows = (
        (", ".join(f"{field} `{name}`" for field, name in item.choices.items()), item.reason)
        for item in catalogue.conflicts
    )
    listed = table(("choices", "why, and the way out"), rows)
    return f"## What is refused together\n\nParameters at their defaults.\n\n{listed}"


def _presets() -> str:
    rows = ((f"`{preset.pinned}`", preset.description) for preset in SHIPPED)
    listed = table(("name@version", "what it asks for"), rows)
    return f"## Presets\n\n`spec.preset`; explicit fields win over it.\n\n{listed}"
