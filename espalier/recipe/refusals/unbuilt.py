"""Fields of the contract that this version has not built: their default is accepted, anything else refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError

MARK: Final = "x-not-available"
"""Marks such a field in JSON Schema, for forms that show what can be asked for."""


def not_available(what: str, *, instead: str = "", at: str = "") -> PydanticCustomError:
    """Make the refusal of a name that the contract knows and this version has not built.

    `at` leads from the value that is refused to the part of it that is at fault, steps joined by "/".
    """
    way_out = f": write {instead}" if instead else ""
    text = "{what} is not available in this version{way_out}"
    return PydanticCustomError("not_available", text, {"what": what, "way_out": way_out, "at": at})


def later(description: str, *, default: object = None) -> Any:  # noqa: ANN401 - as pydantic's Field
    """Declare such a field. At its default it stays out of dumps, and so out of hashes, rows and manifests."""
    return Field(
        default,
        description=f"{description} Not available in this version, which takes {json.dumps(default)} alone.",
        exclude_if=lambda value: value == default,
        json_schema_extra={MARK: True},
    )


def _only(default: object) -> BeforeValidator:
    def check(value: object, info: ValidationInfo) -> object:
        if value != default or type(value) is not type(default):  # 0 equals False, and is another mistake
            raise not_available(f"`{info.field_name}`")
        return value

    return BeforeValidator(check)


Unbuilt = Annotated[None, _only(None)]
"""A field that this version takes only as null."""
UnbuiltFlag = Annotated[Literal[False], _only(False)]
"""A field that this version takes only as false."""
UnbuiltList = Annotated[list[None], Field(max_length=0), _only([])]
"""A field that this version takes only as an empty list."""


def refusing(*names: str) -> BeforeValidator:
    """Refuse words of a field that are not built."""

    def check(value: object, info: ValidationInfo) -> object:
        if isinstance(value, str) and value in names:
            raise not_available(f"`{info.field_name}` {value!r}")
        return value

    return BeforeValidator(check)


def refusing_tags(tag: str, *names: str, instead: str = "") -> BeforeValidator:
    """Refuse members of a tagged union that are not built."""

    def check(value: object) -> object:
        named = value.get(tag) if isinstance(value, dict) else None
        if isinstance(named, str) and named in names:
            raise not_available(f"`{tag}` {named!r}", instead=instead, at=tag)
        return value

    return BeforeValidator(check)


def refusing_if(fits: Callable[[object], bool], what: str, *, instead: str = "") -> BeforeValidator:
    """Refuse another form of a value: a shorthand, or a list of what there is one of."""

    def check(value: object) -> object:
        if fits(value):
            raise not_available(what, instead=instead)
        return value

    return BeforeValidator(check)


def is_text(value: object) -> bool:
    """Tell whether a text stands for an object."""
    return isinstance(value, str)


def is_list(value: object) -> bool:
    """Tell whether a list stands for one value."""
    return isinstance(value, list)


def is_true(value: object) -> bool:
    """Tell whether `true` stands for an object."""
    return value is True


def is_percent(value: object) -> bool:
    """Tell whether a fraction is written in percent."""
    return isinstance(value, str) and value.rstrip().endswith("%")
