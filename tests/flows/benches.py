"""A bench that is worked by hand, with the real children."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.fixtures.library.jobs import write_texts
from tests.fixtures.library.tiny_models import write_tiny_model
from tests.fixtures.workers.runs import Bench
from workers.processes.process import Commands


def computing_bench(url: str, folder: Path) -> Bench:
    """A bench in a folder with a tiny model and texts."""
    bench = Bench(url, folder)
    write_tiny_model(folder / "model")
    write_texts(folder)
    settings = bench.settings.model_copy(update={"local_roots": str(folder), "lease_seconds": 30.0})
    bench.services = replace(bench.services, commands=Commands(), settings=settings)
    return bench
