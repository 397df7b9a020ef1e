"""Measure a table of jobs through POST /v1/jobs and keep it: rows that are there already are not measured again.

A table is a list of cells; a cell is one job. The service is one that the harness starts for itself, and its state
lies in a folder that goes away. After every job the JSON file and the markdown beside it are written anew, from what
the file holds at that moment: two processes may fill different cells of one table.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from espalier.recipe.base import fingerprint
from tests.fixtures.service.deployment import Deployment

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
JOB_SECONDS = 7200.0
SINCE, RETRAINS_SINCE = "2", "3"
"""The engines since which rows come out as they do: version 3 searches a retraining's learning rate in another way, and
version 4 leaves other text out where windows are shorter than 32 tokens, which no row's are."""

Row = dict[str, Any]
Numbers = dict[str, Any]
"""What a table takes from a finished job, besides what every row has."""


@dataclass(frozen=True)
class Cell:
    """One job of a table."""

    key: str
    """Unique in the table."""
    model: str
    """A folder of the reference models."""
    spec: dict[str, Any]
    labels: dict[str, Any]
    """What names the row in the table: method, sparsity, seed."""


@dataclass(frozen=True)
class Finished:
    """What the API tells of a job that has succeeded."""

    job: dict[str, Any]
    report: dict[str, Any]
    layers: list[dict[str, Any]]

    @property
    def dense(self) -> float:
        """Perplexity of the dense model."""
        return _only(self.report["dense"]["perplexity"])

    @property
    def compressed(self) -> float:
        """Perplexity of the artifact."""
        return _only(self.report["compressed"]["perplexity"])

    def phase(self, name: str) -> dict[str, Any]:
        """The figures of one phase."""
        return next(phase for phase in self.report["phases"] if phase["name"] == name)

    def pruned(self) -> float:
        """Perplexity behind the phase `pruning`."""
        return _only(self.phase("pruning")["perplexity"])

    def mean_error(self, which: str = "error_after") -> float:
        """The mean over pruned matrices of a relative output error."""
        return sum(float(row[which]) for row in self.layers) / len(self.layers)


def reference_dir() -> Path:
    """The folder of the reference models and texts."""
    given = os.environ.get("ESPALIER_REFERENCE_DIR")
    return Path(given).resolve() if given else (ROOT.parent / "shared/reference").resolve()


def reference_spec(reference: Path, *, seed: int = 0, windows: int = 200, **fields: Any) -> dict[str, Any]:
    """A spec in the reference protocol: 128 x 256 calibration tokens, perplexity on docs.valid, windows of 256."""
    calibration = {"kind": "local", "path": str(reference / "calibration.txt")}
    held_out = {"kind": "local", "path": str(reference / "docs.valid.txt")}
    perplexity = {"name": "docs", "dataset": held_out, "sequence_length": 256, "max_windows": windows}
    return {
        "calibration": {"dataset": calibration, "samples": 128, "sequence_length": 256, "seed": seed},
        "evaluate": {"perplexity": [perplexity]},
        **fields,
    }


def measure(
    name: str,
    cells: Sequence[Cell],
    read: Callable[[Finished], Numbers],
    render: Callable[[list[Row]], str],
    *,
    only: str = "",
    threads: int = 1,
    reuse: str = "never",
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Measure what is missing of the table `name`, write results/NAME.json and .md, and return all rows in order.

    `only`: a regular expression over keys; other cells are left as they are.
    """
    path = RESULTS / f"{name}.json"
    with _locked(path) as handle:
        rows = _rows(handle)
    reference = reference_dir()
    wanted = [cell for cell in cells if re.search(only, cell.key)]
    order = {cell.key: position for position, cell in enumerate(cells)}
    missing = [cell for cell in wanted if not _holds(rows.get(cell.key, {}), work_of(cell, reference))]
    with _service(reference, threads) as deployment:
        for number, cell in enumerate(missing, start=1):
            say(f"{number}/{len(missing)} {cell.key}")
            row = _row(deployment, reference, cell, read, reuse=reuse)
            rows = _keep(path, row, order, render)
    return [rows[cell.key] for cell in wanted]


def work_of(cell: Cell, reference: Path) -> str:
    """What a row was measured from: its spec without the place of the texts, and the engine."""
    text = json.dumps(cell.spec, sort_keys=True).replace(str(reference), "")
    return fingerprint([cell.model, text, RETRAINS_SINCE if "retrain" in cell.spec else SINCE])[:16]


def _row(
    deployment: Deployment, reference: Path, cell: Cell, read: Callable[[Finished], Numbers], *, reuse: str
) -> Row:
    job = deployment.submit(reference / cell.model, cell.spec, reuse=reuse)
    document = deployment.finish(job, timeout=JOB_SECONDS)
    row = {"key": cell.key, "model": cell.model, **cell.labels, "work": work_of(cell, reference)}
    row |= {"state": document["state"], "measured_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")}
    if document["state"] != "succeeded":
        return {**row, "error": {name: document["error"][name] for name in ("class", "message")}}
    report = deployment.get(f"/v1/jobs/{job}/report")
    finished = Finished(document, report, deployment.get(f"/v1/jobs/{job}/layers?limit=200")["items"])
    return {**row, **read(finished), "environment": report["environment"]}


@contextmanager
def _service(reference: Path, threads: int) -> Iterator[Deployment]:
    with tempfile.TemporaryDirectory() as folder:
        environment = {"ESPALIER_LOCAL_ROOTS": str(reference), "ESPALIER_THREADS": str(threads)}
        deployment = Deployment(Path(folder) / "home", environment)
        deployment.start()
        try:
            yield deployment
        finally:
            deployment.stop()
            deployment.http.close()


def _holds(row: Row, work: str) -> bool:
    return (row.get("work"), row.get("state")) == (work, "succeeded")


@contextmanager
def _locked(path: Path) -> Iterator[TextIO]:
    """Open the table's file, which may be new, for one process at a time."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle


def _rows(handle: TextIO) -> dict[str, Row]:
    handle.seek(0)
    text = handle.read()
    return {row["key"]: row for row in json.loads(text)["rows"]} if text else {}


def _keep(path: Path, row: Row, order: dict[str, int], render: Callable[[list[Row]], str]) -> dict[str, Row]:
    """Put the row into the file, in the order of the cells, and all into the markdown; return what is there."""
    with _locked(path) as handle:
        rows = _rows(handle) | {row["key"]: row}
        ordered = sorted(rows.values(), key=lambda row: order.get(row["key"], len(order)))
        handle.truncate(0)
        handle.write(json.dumps({"rows": ordered}, indent=1, sort_keys=True) + "\n")
        path.with_suffix(".md").write_text(render(ordered))
    return {row["key"]: row for row in ordered}


def _only(numbers: dict[str, float]) -> float:
    (value,) = numbers.values()
    return float(value)
