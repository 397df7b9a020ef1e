"""The strict base of every request model, and its canonical fingerprint."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError


class Spec(BaseModel):
    """A frozen, strict model: unknown fields are refused, `false` is no number, NaN is no value."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def canonical(value: object) -> str:
    """Render JSON data in one canonical form: sorted keys, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(value: object) -> str:
    """Return the sha256 of the canonical form of JSON data."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def not_available(what: str, *, at: str = "") -> PydanticCustomError:
    """The refusal of a name that the contract knows and this version has not built.

    `at` leads from the value that is refused to the part of it that is at fault, steps joined by "/".
    """
    return PydanticCustomError("not_available", "{what} is not available in this version", {"what": what, "at": at})


def _refuse_anything(value: object, info: ValidationInfo) -> object:
    if value is not None:
        raise not_available(f"`{info.field_name}`")
    return value


def _refuse_items(value: object, info: ValidationInfo) -> object:
    if isinstance(value, list) and value:
        raise not_available(f"`{info.field_name}`")
    return value


Unbuilt = Annotated[None, BeforeValidator(_refuse_anything)]
"""A field of the contract that this version accepts only as null."""

UnbuiltList = Annotated[list[str], Field(max_length=0), BeforeValidator(_refuse_items)]
"""A list of the contract that this version accepts only empty."""


def refusing(*names: str | bool) -> BeforeValidator:
    """Refuse by name the values that the contract knows and this version has not built: in a list, or as a member."""

    def refused(item: object) -> str | bool | None:
        # Types count: 1 equals True, and is another mistake.
        hits = (n for n in names if (type(item) is type(n) and item == n) or (isinstance(item, dict) and n in item))
        return next(hits, None)

    def check(value: object, info: ValidationInfo) -> object:
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            if (hit := refused(item)) is not None:
                raise not_available(f"`{info.field_name}` {hit!r}", at=str(index) if isinstance(value, list) else "")
        return value

    return BeforeValidator(check)


def refusing_tags(tag: str, *names: str) -> BeforeValidator:
    """Refuse by name the members of a tagged union that the contract knows and this version has not built."""

    def check(value: object) -> object:
        named = value.get(tag) if isinstance(value, dict) else None
        if isinstance(named, str) and named in names:
            raise not_available(f"`{tag}` {named!r}", at=tag)
        return value

    return BeforeValidator(check)
