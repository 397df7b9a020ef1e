"""JSON Pointers into the request body as it was sent, for errors that a validator or a check located."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from espalier.errors import Problem

_AT_TAG = {"union_tag_invalid", "union_tag_not_found"}
"""Kinds of pydantic errors that point at a union where the mistake is its tag."""
_MISSING = {"missing", "missing_sparsity", "union_tag_not_found"}
"""Kinds of errors whose pointer leads to what is not there."""


def problems_of(error: ValidationError, document: object) -> list[Problem]:
    """Return one problem per finding, with a pointer into the document; no value of it is repeated."""
    return [
        Problem(
            of_error(item, item["loc"], document),
            str(item["type"]).replace("_", "-"),
            f"{item['msg']}: {item['loc'][-1]}" if item["type"] == "missing" else item["msg"],
        )
        for item in error.errors(include_input=False, include_url=False)
    ]


def of_error(detail: Mapping[str, Any], parts: Sequence[str | int], body: object) -> str:
    """Return the pointer of an error of pydantic, of which `parts` is the place."""
    steps, kind = list(parts), str(detail["type"])
    if kind in _AT_TAG:
        steps.append(str(detail["ctx"]["discriminator"]).strip("'"))
    if at := detail.get("ctx", {}).get("at"):  # a rule over several fields says which of them is at fault
        steps.extend(at.split("/"))
    return join(_existing(body, steps, keep_last=kind in _MISSING))


def into(body: object, pointer: str) -> str:
    """Drop from a pointer what the body as sent does not have: `prune` may be one object or a list of them."""
    if not pointer or body is None:
        return pointer
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    return join(_existing(body, parts, keep_last=False)) or pointer


def _existing(body: object, parts: Sequence[str | int], *, keep_last: bool) -> list[str | int]:
    """Follow a location into a document and drop the steps that are not in it: union tags, inserted indices."""
    existing: list[str | int] = []
    for index, part in enumerate(parts):
        if isinstance(body, dict) and part in body:
            body = body[part]
            existing.append(part)
        elif isinstance(body, list) and re.fullmatch(r"\d{1,6}", str(part)) and int(part) < len(body):
            body = body[int(part)]
            existing.append(part)
        elif keep_last and index == len(parts) - 1:
            existing.append(part)
    return existing


def join(parts: Sequence[str | int]) -> str:
    """Return the pointer that leads through these steps."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)
