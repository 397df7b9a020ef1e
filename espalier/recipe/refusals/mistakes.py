"""Describe pydantic's validation errors in the words of the request, with a suggestion for misspelt names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel

_PERCENT: Final = 100
_NAMES: Final = {"extra_forbidden", "literal_error", "union_tag_invalid", "union_tag_not_found"}
"""Kinds of errors whose text, or what is to be added to it, is about a name."""
_QUOTED: Final = re.compile(r"'([^']*)'")
"""A name in the text in which pydantic lists what it expected."""


def describe(detail: Mapping[str, Any], model: type[BaseModel] | None = None) -> str:
    """Describe a validation error; pydantic's own texts speak of its models and of Python, and repeat the input.

    With `model`, the class that was validated, a misspelt field gets a suggestion.
    """
    kind, text, given, context = str(detail["type"]), str(detail["msg"]), detail.get("input"), detail.get("ctx", {})
    if kind in _NAMES:
        return _of_a_name(kind, detail, model)
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        return "Input should be an object"
    if kind in {"float_type", "int_type"} and isinstance(given, str):
        advice = ": 50 % is written 0.5" if given.rstrip().endswith("%") else ""
        return f"{text}, and this is a text{advice}"
    if context.get("lt", context.get("le")) == 1 and isinstance(given, int | float) and 1 < given <= _PERCENT:
        return f"{text}: {given:g} % is written {given / _PERCENT:g}"
    return text


def _of_a_name(kind: str, detail: Mapping[str, Any], model: type[BaseModel] | None) -> str:
    """Describe an unknown name: of a field, or of a choice that a field takes."""
    if kind == "union_tag_not_found":
        return "Required"
    if kind == "extra_forbidden":
        *place, name = detail["loc"]
        return f"There is no such field here{suggestion(name, _fields(model, place) if model else ())}"
    if kind == "union_tag_invalid":
        expected = str(detail["ctx"]["expected_tags"])
        return f"Expected one of {expected}{suggestion(detail['ctx']['tag'], _QUOTED.findall(expected))}"
    return str(detail["msg"]) + suggestion(detail.get("input"), _QUOTED.findall(str(detail["ctx"]["expected"])))


def suggestion(given: object, names: Iterable[str]) -> str:
    """Suggest the known name closest to an unknown one; an empty text where none is close."""
    known = list(names)
    near = difflib.get_close_matches(given, known, 1, 0.7) if isinstance(given, str) and given not in known else []
    return f"; did you mean `{near[0]}`?" if near else ""


def _fields(model: type[BaseModel], place: Sequence[str | int]) -> set[str]:
    """Return the fields that an object may have at a place as pydantic tells it: fields, indices, tags of unions."""
    here = [model]
    for step in place:
        fields = [each.model_fields[step] for each in here if isinstance(step, str) and step in each.model_fields]
        if fields:
            here = [each for field in fields for each in _models(field.annotation)]
        else:
            here = [each for each in here if step in _tags(each)] or here
    return {name for each in here for name in each.model_fields}


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield every model that a value of a type may be, or hold as an item."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _tags(model: type[BaseModel]) -> set[object]:
    return {model.model_fields[tag].default for tag in ("kind", "method") if tag in model.model_fields}
