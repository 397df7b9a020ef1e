"""Conversion of the form to the body of a job, and back; empty fields are left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from app.bodies.merge_patch import merge_patch, patch_between
from app.bodies.strict_json import parse
from app.errors import MalformedRequest
from app.portal.forms import Form
from app.portal.spec_form.build import tree
from app.portal.spec_form.nodes import OFF, ON, Field, FieldGroup, Node

_NOTHING: Final = object()
EXTRA: Final = "extra"
"""Field of what the form has no fields for: a JSON merge patch."""
PRESET: Final = "/spec/preset"


class BadExtra(ValueError):
    """The text of the extra field is no JSON object."""


def document(form: Form, preset: dict[str, Any]) -> dict[str, Any]:
    """Return the body that a form stands for; raises BadExtra."""
    value = _read(tree(form, preset), form)
    body: dict[str, Any] = value if isinstance(value, dict) else {}
    body.setdefault("spec", {})
    if form.get(PRESET):
        body["spec"] = {"preset": form.get(PRESET), **body["spec"]}
    merged: dict[str, Any] = merge_patch(body, _extra(form))
    return merged


def _extra(form: Form) -> dict[str, Any]:
    text = form.get(EXTRA).strip()
    try:
        patch = parse(text.encode()) if text else {}
    except MalformedRequest as error:
        raise BadExtra(f"Invalid JSON: {error.detail}") from None
    if not isinstance(patch, dict):
        raise BadExtra("Write an object: {...}.")
    return patch


def _read(node: Node, form: Form) -> Any:  # noqa: ANN401 - JSON
    if isinstance(node, Field):
        return _value(node, form)
    inside = {child.pointer.rsplit("/", 1)[-1]: _read(child, form) for child in node.children}
    members = {name: value for name, value in inside.items() if value is not _NOTHING}
    if node.choice is None:
        return members or _NOTHING
    chosen = form.get(node.choice.pointer)
    if chosen == OFF:
        return None
    if node.choice.pointer == node.pointer:  # on or off
        return members if members or chosen == ON else _NOTHING
    if not chosen and node.choice.required and node.choice.options[0].value != OFF and node.children:
        chosen = node.choice.options[0].value  # what the page shows as chosen
    if chosen:
        return {node.choice.pointer.rsplit("/", 1)[-1]: chosen, **members}
    return members or _NOTHING


def _value(field: Field, form: Form) -> Any:  # noqa: ANN401 - JSON, one line a kind
    if field.kind == "several":
        return form.all(field.pointer) or _NOTHING
    text = form.get(field.pointer).strip()
    if not text:
        return _NOTHING
    if field.kind == "flag":
        return text == "yes"
    if field.kind == "lines":
        return [line.strip() for line in text.splitlines() if line.strip()]
    if field.kind == "map":
        pairs = (line.partition("=") for line in text.splitlines() if line.strip())
        return {key.strip(): value.strip() for key, _, value in pairs}
    return _parsed(text) if field.kind in {"number", "data"} else text


def _parsed(text: str) -> Any:  # noqa: ANN401 - JSON
    """Parse JSON; other text stays text, for the validator to refuse."""
    try:
        return parse(text.encode())
    except MalformedRequest:
        return text


def filled(body: dict[str, Any], preset: dict[str, Any]) -> Form:
    """Return the form of a body; members without a field go into the patch beside it."""
    spec = dict(body.get("spec") or {})
    steps = spec.get("prune")
    if isinstance(steps, list) and len(steps) == 1:
        spec["prune"] = steps[0]
    name = spec.pop("preset", None)
    wanted = {**body, "spec": spec}
    choices = Form(list(_choices("", wanted)))
    pairs = [*_pairs(tree(choices, preset), wanted), *([(PRESET, str(name))] if name else [])]
    built = document(Form(pairs), preset)
    built["spec"].pop("preset", None)
    patch = patch_between(built, wanted)
    return Form([*pairs, (EXTRA, json.dumps(patch, indent=2))]) if patch else Form(pairs)


def _choices(pointer: str, value: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - JSON
    if not isinstance(value, dict):
        return
    for name, child in value.items():
        if name in {"kind", "method"} and isinstance(child, str):
            yield f"{pointer}/{name}", child
        yield from _choices(f"{pointer}/{name}", child)


def _pairs(node: Node, value: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - JSON
    if isinstance(node, Field):
        if value is not None:
            yield from _written(node, value)
        return
    if node.choice is not None and value is None:
        yield node.choice.pointer, OFF
    if not isinstance(value, dict):
        return
    if node.choice is not None:
        on_off = node.choice.pointer == node.pointer
        yield node.choice.pointer, ON if on_off else str(value.get(node.choice.pointer.rsplit("/", 1)[-1], ""))
    for child in node.children:
        name = child.pointer.rsplit("/", 1)[-1]
        if name in value:
            yield from _pairs(child, value[name])


def _written(field: Field, value: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - JSON
    if field.kind == "several" and isinstance(value, list):
        yield from ((field.pointer, str(item)) for item in value)
    elif field.kind == "lines" and isinstance(value, list):
        yield field.pointer, "\n".join(str(item) for item in value)
    elif field.kind == "map" and isinstance(value, dict):
        yield field.pointer, "\n".join(f"{key}={item}" for key, item in value.items())
    elif isinstance(value, bool):
        yield field.pointer, "yes" if value else "no"
    else:
        yield field.pointer, value if isinstance(value, str) else json.dumps(value)


def is_filled(node: Node, form: Form) -> bool:
    """Tell whether any field of a part of the form is filled."""
    pointers = node.pointers() if isinstance(node, FieldGroup) else [node.pointer]
    return any(text.strip() for pointer in pointers for text in form.all(pointer))
