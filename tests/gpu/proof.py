"""All rows of the proof in the order of their value."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import transformers

from tests.gpu import basics, cells, models
from tests.gpu.cards import Card, Cuda, NoAcceleratorError
from tests.gpu.setting import Setting
from tests.gpu.table import Row, prove

__all__ = ["NoAcceleratorError", "rows", "run"]


def rows() -> list[Row]:
    """Return all rows: what is worth most comes first, what takes longest for what it is worth last."""
    return [
        *basics.rows(),
        *models.profiled_rows(),
        *models.block_rows(),
        *basics.late_rows(),
        *cells.rows(),
        *models.last_rows(),
    ]


def run(folder: Path, into: Path, *, standin: bool, only: str, deadline: float) -> bool:
    """Measure the rows that match `only`, and the card's facts; raises NoAcceleratorError where there is no card."""
    # The pretend device makes itself known to torch when it is imported.
    card: Card = import_module("tests.gpu.pretend").Standin() if standin else Cuda()
    setting = Setting(card, folder)
    transformers.utils.logging.disable_progress_bar()
    chosen = [row for row in rows() if row.name == "device" or re.search(only, row.name)]
    return prove(chosen, setting, into, deadline=deadline)
