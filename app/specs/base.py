"""The strict base of every request model, and its canonical fingerprint."""

from __future__ import annotations

import hashlib
import json

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


def not_available(what: str, *, at: str = "") -> PydanticCustomError:
    """The refusal of a name that the contract knows and this version has not built.

    `at` leads from the value that is refused to the part of it that is at fault, steps joined by "/".
    """
    return PydanticCustomError("not_available", "{what} is not available in this version", {"what": what, "at": at})


def refusing_tags(tag: str, *names: str) -> BeforeValidator:
    """Refuse by name the members of a tagged union that the contract knows and this version has not built."""

    def check(value: object) -> object:
        named = value.get(tag) if isinstance(value, dict) else None
        if isinstance(named, str) and named in names:
            raise not_available(f"`{tag}` {named!r}", at=tag)
        return value

    return BeforeValidator(check)
