"""Data sets for calibration, retraining and evaluation, and how calibration samples them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field

from espalier.recipe.base import Spec
from espalier.recipe.refusals.unbuilt import is_list, is_text, refusing_if, refusing_tags

LocalPath = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
UploadId = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^upl_[0-9A-Z]+$", description="`upl_` and a ULID.")
]
DATA_SET = "*.txt, *.jsonl, *.ndjson, *.json (all with .gz, too) or *.parquet"


KNOWN: Final[dict[str, tuple[str, str]]] = {
    "wikitext2": ("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "c4": ("allenai/c4", "en"),
}
"""Short names of the literature -> repository and configuration."""


class BuiltinDataset(Spec):
    """Text that ships with Python itself, so that everything works offline."""

    kind: Literal["builtin"] = "builtin"
    name: Literal["python-docs"] = "python-docs"
    split: Literal["train", "validation"] = "train"


class HuggingFaceDataset(Spec):
    """A data set of the Hugging Face Hub: a known name (wikitext2, c4) or repository, configuration, split, column."""

    kind: Literal["huggingface"] = "huggingface"
    name: str = Field(min_length=1, max_length=200, pattern=r"^[\w./-]+$", description="wikitext2, c4 or owner/name.")
    config: str | None = Field(
        None, max_length=200, pattern=r"^[\w.-]+(/[\w.-]+)*$", description="Configuration (sub-folder)."
    )
    split: str | None = Field(None, max_length=200, pattern=r"^[\w.-]+$", description="Split; default by use.")
    column: str = Field("text", min_length=1, max_length=200, description="Column that holds the text.")
    revision: str = Field("main", min_length=1, max_length=200, pattern=r"^[\w./-]+$")


class LocalDataset(Spec):
    """A file of text below one of the roots in ESPALIER_LOCAL_ROOTS."""

    kind: Literal["local"] = "local"
    path: LocalPath = Field(description=f"Absolute path; readable are {DATA_SET}.")
    column: str = Field("text", min_length=1, max_length=200, description="Field or column that holds the text.")


class UploadDataset(Spec):
    """A complete upload of a text, made with /v1/uploads."""

    kind: Literal["upload"] = "upload"
    upload_id: UploadId
    column: str = Field("text", min_length=1, max_length=200, description="Field or column that holds the text.")


def _repo_is_a_name(value: object) -> object:
    if isinstance(value, dict) and value.get("kind") == "huggingface" and "repo" in value and "name" not in value:
        value = {**value, "name": value["repo"]}
        del value["repo"]
    return value


Dataset = Annotated[
    BuiltinDataset | HuggingFaceDataset | LocalDataset | UploadDataset,
    Field(discriminator="kind"),
    BeforeValidator(_repo_is_a_name),
    refusing_tags("kind", "self_generated"),
    refusing_if(is_list, "a list of data sets with weights"),
    refusing_if(is_text, "a data set by its name alone", instead='{"kind": "huggingface", "name": "wikitext2"}'),
]


def dataset_name(dataset: BuiltinDataset | HuggingFaceDataset | LocalDataset | UploadDataset) -> str:
    """Return the default name of a measurement on this text."""
    if isinstance(dataset, UploadDataset):
        return dataset.upload_id
    if isinstance(dataset, LocalDataset):
        return dataset.path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return dataset.name.rsplit("/", 1)[-1]


Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Calibration(Spec):
    """The text that statistics and reconstruction see: `samples` windows of `sequence_length` tokens."""

    dataset: Dataset = BuiltinDataset()
    samples: int = Field(128, ge=1, le=65_536, description="Number of windows.")
    sequence_length: int | None = Field(None, ge=8, le=131_072, description="Tokens; default min(2048, model maximum).")
    seed: Seed = 0
    selection: Literal["random", "sequential", "loss_gap"] = Field(
        "random",
        description="random crops of the token stream, or its first windows. loss_gap: pruning reads random crops; "
        "reconstruction and retraining read the windows whose loss pruning raised most.",
    )
    candidates: int = Field(
        4, ge=2, le=64, description="Of loss_gap: how many times as many windows are looked at as are kept."
    )
