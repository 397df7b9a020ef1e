"""Names at outside systems, as a spec may give them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

RepoId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?$", max_length=200)]
MlflowName = Annotated[
    str, Field(min_length=1, max_length=256, pattern=r"""^[^/:'"`\x00-\x1f\x7f]+$""", description="Registered model.")
]
MlflowAlias = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\w-]+$", description="Without the @.")]
S3Uri = Annotated[
    str,
    Field(
        max_length=900, pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[A-Za-z0-9_][\w.=+-]*(/[A-Za-z0-9_][\w.=+-]*)*/?$",
        description="s3://bucket/prefix",
    ),
]  # fmt: skip
