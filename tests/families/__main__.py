"""Stock decoders: `python -m tests.families list` shows the table, `write [TYPE ...]` makes it and a document anew."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any, Final

import transformers

from espalier.families import FAMILIES
from espalier.families.stock_decoders import TABLE
from tests.families.fields import decoders
from tests.families.trial import row_with_verdict

DOCUMENT: Final = Path(__file__).parents[2] / "docs/families.md"
BEGIN: Final = "<!-- written by `make families-table` -->\n"


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The table, one line for each type."""
    lines = ",\n".join(f'"{name}": {json.dumps(row, sort_keys=True)}' for name, row in sorted(rows.items()))
    return f'{{"transformers": "{transformers.__version__}", "decoders": {{\n{lines}\n}}}}\n'


def document(rows: dict[str, dict[str, Any]]) -> str:
    """What a user reads of the table."""
    works = [name for name, row in rows.items() if "refused" not in row]
    blocks = [name for name in works if not rows[name]["halves"]]
    refused: dict[str, list[str]] = {}
    for name, row in rows.items():
        if "refused" in row and name not in FAMILIES:
            refused.setdefault(row["refused"], []).append(f"`{name}`")
    lines = [BEGIN, f"{len(works)} more, without a declaration: {', '.join(f'`{name}`' for name in works)}."]
    if blocks:
        lines.append(f"\nNo windows of a `submodule`: {', '.join(f'`{name}`' for name in blocks)}.")
    lines += ["\n| refused | why |", "|---|---|"]
    lines += [f"| {', '.join(names)} | {why} |" for why, names in sorted(refused.items(), key=lambda each: each[1])]
    return "\n".join(lines) + "\n"


def main(command: str, *asked: str) -> None:
    """Print the table, or try types and write it."""
    rows = json.loads(TABLE.read_text())["decoders"] if asked or command == "list" else {}
    for name in asked or decoders():
        if command == "write":
            rows[name] = row_with_verdict(name)
    if command == "write":
        TABLE.write_text(table(rows))
        DOCUMENT.write_text(DOCUMENT.read_text().partition(BEGIN)[0] + document(rows))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    main(*sys.argv[1:])
