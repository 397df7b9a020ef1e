"""The tree of the form: from the schema of a job's body, opened where the form as it stands has chosen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from app.bodies.job import JobRequest
from app.portal.forms import Form
from app.portal.spec_form.nodes import OFF, ON, Field, FieldGroup, Kind, Node, Option
from app.portal.spec_form.option_texts import explained
from espalier.recipe.base import canonical
from espalier.recipe.refusals.unbuilt import MARK

_KINDS: dict[str, Kind] = {"integer": "number", "number": "number", "string": "text", "boolean": "flag"}
HIDDEN = ("plan_id", "preset")
"""Fields with no place of their own: a plan is shown beside the form, and presets are cards."""


@dataclass(frozen=True)
class _At:
    """A location in the body: its pointer, its name and its default."""

    pointer: str
    default: Any
    required: bool = False

    @property
    def name(self) -> str:
        return self.pointer.rsplit("/", 1)[-1]

    @property
    def label(self) -> str:
        return self.name.replace("_", " ").capitalize()


@lru_cache(1)
def _schema() -> dict[str, Any]:
    return JobRequest.model_json_schema()


def tree(form: Form, preset: dict[str, Any]) -> FieldGroup:
    """Return the form of a job as it stands; what the preset says takes the place of the defaults."""
    root = _node(_schema(), _At("", {"spec": preset}, required=True), form)
    assert isinstance(root, FieldGroup)
    return root


def _node(schema: dict[str, Any], at: _At, form: Form) -> Node:
    schema, nullable = _resolved(schema)
    if "discriminator" in schema:
        return _union(schema, at, form, nullable=nullable)
    if "properties" in schema:
        if at.required or not nullable:
            return FieldGroup(at.pointer, at.label, _description(schema), children=_children(schema, at, form))
        return _optional(schema, at, form)
    return _field(schema, at)


def _resolved(schema: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Follow references and pick the variant that has a form; tell whether null is another."""
    nullable = False
    while "$ref" in schema or "anyOf" in schema:
        beside = {key: value for key, value in schema.items() if key not in {"$ref", "anyOf"}}
        if "$ref" in schema:
            schema = {**_schema()["$defs"][schema["$ref"].rsplit("/", 1)[-1]], **beside}
            continue
        variants = [variant for variant in schema["anyOf"] if variant.get("type") != "null"]
        nullable = nullable or len(variants) < len(schema["anyOf"])
        union = next((variant for variant in variants if "discriminator" in variant), None)
        if union is None and len(variants) > 1:
            return {**beside, "variants": variants}, nullable
        schema = {**(union or variants[0]), **beside}
    return schema, nullable


def _children(schema: dict[str, Any], at: _At, form: Form, *, without: str = "") -> tuple[Node, ...]:
    defaults = at.default if isinstance(at.default, dict) else {}
    required = schema.get("required", [])
    return tuple(
        _node(child, _At(f"{at.pointer}/{name}", defaults.get(name, child.get("default")), name in required), form)
        for name, child in schema["properties"].items()
        if name != without and name not in HIDDEN and MARK not in child
    )


def _optional(schema: dict[str, Any], at: _At, form: Form) -> FieldGroup:
    default = ON if at.default is not None else OFF
    options = (Option(OFF), Option(ON))
    choice = Field(at.pointer, at.label, "choice", default=default, options=options)
    hint = _description(schema)
    return FieldGroup(at.pointer, at.label, hint, choice, _children(schema, at, form))


def _union(schema: dict[str, Any], at: _At, form: Form, *, nullable: bool) -> FieldGroup:
    tag = schema["discriminator"]["propertyName"]
    mapping = schema["discriminator"]["mapping"]
    defaults = at.default if isinstance(at.default, dict) else {}
    default = str(defaults.get(tag, OFF if nullable else ""))
    explanations = explained(tag if tag == "method" else at.name)
    options = [explanations.get(name, Option(name)) for name in mapping]
    if explanations and tag == "method":  # grouped by what they remove
        options.sort(key=lambda option: [group.group for group in explanations.values()].index(option.group))
    if nullable:
        options.insert(0, Option(OFF))
    pointer = f"{at.pointer}/{tag}"
    choice = Field(
        pointer,
        at.label if tag == "kind" else tag.capitalize(),
        "choice",
        default=default,
        options=tuple(options),
        required=at.required and not default,
    )
    chosen = form.get(pointer) or (default if default in mapping and at.required else "")
    if choice.required and not chosen and tag == "kind":
        chosen = options[0].value
    branch = mapping.get(chosen)
    children: tuple[Node, ...] = ()
    if branch:
        inside, _ = _resolved({"$ref": branch})
        same = not defaults or defaults.get(tag) == chosen
        kept = at.default if same or tag == "method" else {}
        children = _children(inside, _At(at.pointer, kept), form, without=tag)
    return FieldGroup(at.pointer, at.label, _description(schema), choice, children, explanations.get(chosen or default))


def _field(schema: dict[str, Any], at: _At) -> Field:
    description = schema.get("description") or " Or: ".join(filter(None, map(_of_variant, schema.get("variants", []))))
    hint = " ".join(part for part in (description, _bounds(schema)) if part)
    kind, words = _kind(schema)
    return Field(at.pointer, at.label, kind, hint, _text(at.default), tuple(map(Option, words)), at.required)


def _of_variant(variant: dict[str, Any]) -> str:
    return _description(_resolved(variant)[0]) if "$ref" in variant else ""


def _kind(schema: dict[str, Any]) -> tuple[Kind, list[str]]:
    variants = schema.get("variants") or schema.get("oneOf")
    if variants:
        return ("number" if all(variant.get("type") in _KINDS for variant in variants) else "data"), []
    if "enum" in schema or "const" in schema:
        return "choice", [str(word) for word in schema.get("enum", [schema.get("const")])]
    if schema.get("type") == "array":
        items, _ = _resolved(schema.get("items", {}))
        if "enum" in items:
            return "several", [str(word) for word in items["enum"]]
        return ("lines" if items.get("type") == "string" else "data"), []
    if schema.get("type") == "object":
        return "map", []
    return _KINDS.get(schema.get("type", ""), "data"), []


def _bounds(schema: dict[str, Any]) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    parts = [
        f"{sign} {value:g}"
        for sign, value in (("at least", low), ("above", above), ("at most", high), ("below", below))
        if value is not None and abs(value) < 1e6
    ]
    return f"({', '.join(parts)})" if parts else ""


def _description(schema: dict[str, Any]) -> str:
    return str(schema.get("description", "")).split("\n\n", 1)[0].replace("\n", " ")


def _text(value: Any) -> str:  # noqa: ANN401 - JSON
    if value is None or value in ([], {}):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return value if isinstance(value, str) else canonical(value) if isinstance(value, dict | list) else f"{value:g}"
