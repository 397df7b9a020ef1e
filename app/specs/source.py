"""Where a model comes from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from app.specs.base import Spec, refusing_tags

RepoId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?$", max_length=200)]
Path = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]


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


Source = Annotated[
    HuggingFaceSource | LocalSource | UploadSource, Field(discriminator="kind"), refusing_tags("kind", "s3", "mlflow")
]


def model_name(source: HuggingFaceSource | LocalSource | UploadSource) -> str:
    """The name that lists and filters show for a source."""
    if isinstance(source, UploadSource):
        return source.upload_id
    return source.repo if isinstance(source, HuggingFaceSource) else source.path.rstrip("/").rsplit("/", 1)[-1]
