"""Validation errors of a document inside a request, with pointers into that document."""

from __future__ import annotations

from pydantic import ValidationError

from espalier.errors import Problem
from espalier.recipe.refusals import pointers


def problems_of(error: ValidationError, document: object) -> list[Problem]:
    """Return one problem per finding; no value of the document is repeated."""
    return [
        Problem(
            pointers.of_error(item, item["loc"], document),
            str(item["type"]).replace("_", "-"),
            f"{item['msg']}: {item['loc'][-1]}" if item["type"] == "missing" else item["msg"],
        )
        for item in error.errors(include_input=False, include_url=False)
    ]
