"""Base class of every request model: strict, frozen, with a canonical fingerprint."""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A frozen, strict model: unknown fields are refused, `false` is no number, NaN is no value."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def canonical(value: object) -> str:
    """Render JSON data in one canonical form: sorted keys, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(value: object) -> str:
    """Return the sha256 of the canonical form of JSON data."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
