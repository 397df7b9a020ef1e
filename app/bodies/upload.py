"""Request bodies of uploads."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from espalier.model_files import belongs_to_model, small_bytes
from espalier.recipe.base import Spec
from espalier.recipe.steps.dataset import DATA_SET

MAX_FILE_BYTES = 5 * 2**40
MAX_UPLOAD_BYTES = 16 * 2**40
"""Of all files together: parts are counted, and stay below what an object store takes in one piece."""
_TEXT = re.compile(r"[A-Za-z0-9_-][\w.-]{0,150}\.((txt|jsonl|ndjson|json)(\.gz)?|parquet)", re.ASCII | re.IGNORECASE)

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 in lower-case hex.")]


def _plain(name: str) -> str:
    if not belongs_to_model(name) and not _TEXT.fullmatch(name):
        raise PydanticCustomError(
            "bad_file_name",
            f"a model has config.json, tokenizer files and *.safetensors; a data set is {DATA_SET}",
        )
    return name


FileName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain)]


class UploadFile(Spec):
    """One file to come."""

    name: FileName
    bytes: int = Field(ge=1, le=MAX_FILE_BYTES)
    sha256: Sha256


class UploadRequest(Spec):
    """A model (a Hugging Face directory) or a data set (one file of text) to come."""

    kind: Literal["model", "dataset"]
    name: str = Field("", max_length=200, description="For people.")
    files: list[UploadFile] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _files_make_what_they_say(self) -> UploadRequest:
        names = [file.name for file in self.files]
        if len(set(names)) < len(names):
            raise PydanticCustomError("duplicate_file", "two files have one name", {"at": "files"})
        if sum(file.bytes for file in self.files) > MAX_UPLOAD_BYTES:
            raise PydanticCustomError(
                "upload_too_large", "an upload has {tib} TiB at most", {"tib": MAX_UPLOAD_BYTES >> 40, "at": "files"}
            )
        texts = [name for name in names if _TEXT.fullmatch(name) and not belongs_to_model(name)]
        if self.kind == "dataset" and (len(names) != 1 or names != texts):
            raise PydanticCustomError(
                "not_a_dataset",
                f"a data set is one file: {DATA_SET}",
                {"at": "files"},
            )
        if self.kind == "model" and ("config.json" not in names or texts):
            raise PydanticCustomError(
                "not_a_model", "a model has config.json, tokenizer files and *.safetensors", {"at": "files"}
            )
        return self

    @model_validator(mode="after")
    def _small_files_are_small(self) -> UploadRequest:
        for index, file in enumerate(self.files if self.kind == "model" else ()):
            max_bytes = small_bytes(file.name)
            if max_bytes is not None and file.bytes > max_bytes:
                raise PydanticCustomError(
                    "file_too_large",
                    "a file of this name has at most {mib} MiB",
                    {"at": f"files/{index}/bytes", "mib": max_bytes >> 20},
                )
        return self


class PartRequest(Spec):
    """One part of a file to be sent."""

    file: FileName
    number: int = Field(ge=1, le=10_000, description="1 for the first; every part but the last has `part_bytes`.")
    sha256: Sha256
