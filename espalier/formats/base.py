"""Base class of artifact formats. The phase `exporting` always writes dense safetensors, which are then measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class ArtifactFormat(BaseModel, ABC):
    """One way to keep a result. A subclass sets `format: Literal["name"] = "name"`, and these words about itself."""

    model_config = ConfigDict(frozen=True)

    summary: ClassVar[str]
    """The content of the artifact, for the schema."""
    how_to_load: ClassVar[str]
    """For the model card: the words before the snippet that loads the model with stock transformers."""
    keeps_dense: ClassVar[bool]
    """Whether the dense files stay once they have been measured."""
    drops_zeros: ClassVar[bool]
    """Whether its files are smaller the more weights are pruned."""

    @abstractmethod
    def write(self, dense: Mapping[Path, str]) -> list[Path]:
        """Write what stands beside or in the place of dense files, prove that it gives them back; return its paths.

        `dense`: the files, each with the sha256 that it was written with.
        """
