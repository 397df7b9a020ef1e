"""What a sweep of two sparsities costs, as a share of one job: the rest is shared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.runs import Bench
from tests.flows.conftest import DEMO_MODEL
from workers.runs.process import Commands

MOST = 1.8
"""With sequential propagation, where only the baseline is shared."""


@pytest.mark.numbers
def test_two_sparsities_cost_less_than_two_jobs(sqlite_url: str, tmp_path: Path) -> None:
    bench = Bench(sqlite_url, tmp_path)
    settings = bench.settings.model_copy(update={"local_roots": str(DEMO_MODEL.parent), "lease_seconds": 60.0})
    bench.services = replace(bench.services, commands=Commands(), settings=settings)

    def seconds(sparsity: float, wish: str) -> float:
        spec: dict[str, Any] = {
            "calibration": {"samples": 128, "sequence_length": 256},
            "prune": {"method": "wanda", "sparsity": sparsity},
            "evaluate": {"perplexity": [{"sequence_length": 256, "max_windows": 200}]},
        }  # fmt: skip
        source = {"kind": "local", "path": str(DEMO_MODEL)}
        job = bench.work(bench.add(request={"source": source, "spec": spec, "reuse": wish}))
        assert job.state == "succeeded", job.error
        return job.running_seconds

    alone = seconds(0.5, "never")
    ratio = (seconds(0.5, "auto") + seconds(0.7, "auto")) / alone
    assert ratio <= MOST
