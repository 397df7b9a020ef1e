"""The strict base of every request model, and its canonical fingerprint."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict
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


def not_available(what: str) -> PydanticCustomError:
    """The refusal of a name that the contract knows and this version has not built."""
    return PydanticCustomError("not_available", "{what} is not available in this version", {"what": what})


def _refuse_anything(value: object) -> object:
    if value is not None:
        raise not_available("this field")
    return value


def _refuse_items(value: object) -> object:
    if value != []:
        raise not_available("this field")
    return value


Unbuilt = Annotated[None, BeforeValidator(_refuse_anything)]
"""A field of the contract that this version accepts only as null."""

UnbuiltList = Annotated[list[str], BeforeValidator(_refuse_items)]
"""A list of the contract that this version accepts only empty."""


def refusing(*names: str) -> BeforeValidator:
    """Refuse by name the values that the contract knows and this version has not built."""

    def check(value: object) -> object:
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                keys = set(item.values()) | set(item)
                hit = next((name for name in names if name in keys), None)
            else:
                hit = item if item in names else None
            if hit is not None:
                raise not_available(repr(hit))
        return value

    return BeforeValidator(check)
