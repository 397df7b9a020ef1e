"""Names in an MLflow registry, as a request may give them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MlflowName = Annotated[
    str, Field(min_length=1, max_length=256, pattern=r"""^[^/:'"`\x00-\x1f\x7f]+$""", description="Registered model.")
]
MlflowAlias = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\w-]+$", description="Without the @.")]
