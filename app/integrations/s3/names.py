"""Addresses in S3 buckets, as a request may give them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

S3Uri = Annotated[
    str,
    Field(
        max_length=900,
        pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[A-Za-z0-9_][\w.=+-]*(/[A-Za-z0-9_][\w.=+-]*)*/?$",
        description="s3://bucket/prefix",
    ),
]
