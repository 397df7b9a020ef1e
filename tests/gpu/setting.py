"""What the rows of the proof share: the card, a folder that goes away, texts, and models that are written once."""

from __future__ import annotations

import gc
import random
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from espalier.model import numerics
from tests.gpu.cards import Card
from tests.gpu.shapes import Shape, write_model


@dataclass
class Setting:
    """Where rows are measured."""

    card: Card
    folder: Path
    """For models and jobs; whoever made it takes it away."""
    facts: dict[str, str] = field(default_factory=dict)
    """Of the card, once the first row is measured."""
    speeds: dict[str, float] = field(default_factory=dict)
    """Of the card, measured: operations and bytes a second."""

    @cached_property
    def texts(self) -> Path:
        """A folder with a text for calibration and one for scores: words of random letters, always the same."""
        draws, folder = random.Random(0), self.folder / "texts"
        folder.mkdir()
        for name, size in (("train.txt", 20_000 if self.card.pretend else 700_000), ("valid.txt", 20_000)):
            letters = draws.choices("etaoin shrdlu cmfwyp ", k=size)
            (folder / name).write_text("".join(letters))
        return folder

    def model(self, shape: Shape) -> Path:
        """Write a random model of a shape, or return the one that is there."""
        folder = self.folder / shape.name.replace(" ", "-")
        return folder if folder.exists() else write_model(folder, shape, self.card.device)

    def workspace(self) -> Path:
        """Make an empty folder for one job; the one of the job before it goes."""
        folder = self.folder / "job"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def clear(self) -> None:
        """Give back what a row has left on the card and on the disk."""
        shutil.rmtree(self.folder / "job", ignore_errors=True)
        gc.collect()
        numerics.release_device_memory(self.card.device)
