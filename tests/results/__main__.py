"""`python -m tests.results NAME`: measure a table and write results/NAME.json and results/NAME.md."""

from __future__ import annotations

import argparse
import importlib

from tests.results.harness import measure

TABLES = ("methods", "recovery", "structure")


def main() -> None:
    """Measure what is missing; `--only` picks cells by a regular expression over their keys."""
    parser = argparse.ArgumentParser(prog="python -m tests.results")
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--only", default="", help="Regular expression over keys: model / setting / method / seed.")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    table = importlib.import_module(f"tests.results.{arguments.table}")
    measure(
        arguments.table,
        table.cells(seeds=arguments.seeds),
        table.read,
        table.render,
        only=arguments.only,
        threads=arguments.threads,
        reuse=getattr(table, "REUSE", "never"),
    )


if __name__ == "__main__":
    main()
