"""Where results go: a repository of the Hugging Face Hub, or a prefix of an S3 bucket."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from app.specs.base import Spec, refusing_tags
from app.specs.source import RepoId


class HubTarget(Spec):
    """A model repository of the Hugging Face Hub; it is made when it is not there. Takes the project's Hub token."""

    kind: Literal["huggingface"] = "huggingface"
    repo: RepoId = Field(description="owner/name")
    revision: str = Field("main", min_length=1, max_length=200, pattern=r"^[\w./-]+$", description="Branch.")
    private: bool = Field(True, description="Of a repository that is made.")


class S3Target(Spec):
    """A prefix of a bucket; takes the project's S3 keys. The server is AWS, or ESPALIER_PUBLISH_S3_ENDPOINT_URL."""

    kind: Literal["s3"] = "s3"
    uri: str = Field(
        max_length=900, pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[A-Za-z0-9_][\w.=+-]*(/[A-Za-z0-9_][\w.=+-]*)*/?$",
        description="s3://bucket/prefix",
    )  # fmt: skip


Target = Annotated[HubTarget | S3Target, Field(discriminator="kind"), refusing_tags("kind", "mlflow")]
