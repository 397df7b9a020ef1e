"""Where a model comes from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from espalier.recipe.base import Spec

RepoId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?$", max_length=200)]
Path = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
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

UploadId = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^upl_[0-9A-Z]+$", description="`upl_` and a ULID.")
]


class HuggingFaceSource(Spec):
    """A repository of the Hugging Face Hub at a branch, tag or commit."""

    kind: Literal["huggingface"] = "huggingface"
    repo: RepoId = Field(description="owner/name")
    revision: str = Field("main", min_length=1, max_length=200, pattern=r"^[\w./-]+$", description="Branch or commit.")


class LocalSource(Spec):
    """A directory below one of the roots in ESPALIER_LOCAL_ROOTS."""

    kind: Literal["local"] = "local"
    path: Path = Field(description="Absolute path of a Hugging Face model directory.")


class UploadSource(Spec):
    """A complete upload of a model, made with /v1/uploads."""

    kind: Literal["upload"] = "upload"
    upload_id: UploadId


class MlflowSource(Spec):
    """A version of a model registered at ESPALIER_MLFLOW_TRACKING_URI; read with the project's login, if it has one."""

    kind: Literal["mlflow"] = "mlflow"
    name: MlflowName
    version: str | None = Field(None, pattern=r"^[1-9][0-9]{0,17}$", description="A version's number, or null.")
    alias: MlflowAlias | None = None

    @model_validator(mode="after")
    def _one_of_the_two(self) -> MlflowSource:
        if (self.version is None) == (self.alias is None):
            raise PydanticCustomError("version_or_alias", "give either `version` or `alias`", {"at": "version"})
        return self


class S3Source(Spec):
    """A model below a prefix of a bucket; takes the project's S3 keys. The server is that of `s3` publications."""

    kind: Literal["s3"] = "s3"
    uri: S3Uri


AnySource = HuggingFaceSource | LocalSource | UploadSource | MlflowSource | S3Source
Source = Annotated[AnySource, Field(discriminator="kind")]
REMOTE = (HuggingFaceSource, MlflowSource, S3Source)
"""Sources that only the fetcher can look into."""


def model_name(source: AnySource) -> str:
    """The name that lists and filters show for a source."""
    match source:
        case UploadSource():
            return source.upload_id
        case HuggingFaceSource():
            return source.repo
        case MlflowSource():
            return source.name
    path = source.uri if isinstance(source, S3Source) else source.path
    return path.rstrip("/").rsplit("/", 1)[-1]
