"""Levels, named by the contract and not built: the error of every matrix at each of a grid of sparsities."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path

from app.errors import NotAvailable

router = APIRouter(prefix="/v1/levels", tags=["levels"])
LevelsId = Annotated[str, Path(description="`lvl_` and a ULID.")]
_REFUSED: Final = "Levels are not available in this version."
_ANSWER: Final[dict[str, Any]] = {"status_code": NotAvailable.status, "response_description": _REFUSED}
"""In the OpenAPI document, in the place of a success."""


@router.post("", **_ANSWER)
def create_levels() -> None:
    """Measure the error of every matrix at each of a grid of sparsities; not available in this version."""
    raise NotAvailable(_REFUSED)


@router.get("/{levels_id}", **_ANSWER)
def get_levels(levels_id: LevelsId) -> None:  # noqa: ARG001 - for the OpenAPI document
    """Show the state of levels; not available in this version."""
    raise NotAvailable(_REFUSED)


@router.post("/{levels_id}/solve", **_ANSWER)
def solve_levels(levels_id: LevelsId) -> None:  # noqa: ARG001 - for the OpenAPI document
    """Choose the level of every matrix for a target, and return the spec; not available in this version."""
    raise NotAvailable(_REFUSED)
