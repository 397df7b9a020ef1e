"""The decoders of stock transformers: a generated table, and the families that it makes without a declaration."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Final

from espalier.families.shared.stock_decoder import StockDecoder, StockRow, stock_family

TABLE: Final = Path(__file__).with_name("stock_decoders.json")
"""Written by `make families-table`."""


@cache
def rows() -> dict[str, StockRow]:
    """Return what the table says, by model type."""
    return {name: StockRow.model_validate(row) for name, row in json.loads(TABLE.read_text())["decoders"].items()}


@cache
def undeclared(model_type: str) -> type[StockDecoder] | None:
    """Return the family of a decoder that the table admits; None for all others."""
    row = rows().get(model_type)
    return None if row is None or row.refused is not None else stock_family(model_type, row)
