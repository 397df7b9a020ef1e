"""Read the body of a job from a YAML or JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from espalier.recipe.reading import RecipeError, read_document


def read_body(path: Path) -> dict[str, Any]:
    """Return the body of POST /v1/jobs that a file holds; raises RecipeError."""
    body = read_document(path)
    if not {"source", "spec"} <= body.keys():
        raise RecipeError(f"{path} needs `source` (the model) and `spec` (what to do with it)")
    return body
