"""What a sweep of two sparsities costs, as a share of one job: the rest is shared."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.workers.runs import Bench
from workers.processes.process import Commands


@pytest.mark.numbers
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("propagation", "length", "scored", "max_ratio"),
    [
        ("sequential", 256, 200, 1.8),  # the baseline is shared
        ("dense", 512, 16, 1.3),  # and so are the statistics, which are most of a job that scores little
    ],
)
def test_two_sparsities_cost_less_than_two_jobs(
    propagation: str, length: int, scored: int, max_ratio: float, sqlite_url: str, tmp_path: Path
) -> None:
    bench = Bench(sqlite_url, tmp_path)
    settings = bench.settings.model_copy(update={"local_roots": str(DEMO_MODEL.parent), "lease_seconds": 60.0})
    bench.services = replace(bench.services, commands=Commands(), settings=settings)

    def seconds(sparsity: float, reuse: str) -> float:
        """What the phases of a job took, as far as it went through them itself."""
        spec: dict[str, Any] = {
            "calibration": {"samples": 128, "sequence_length": length},
            "propagation": propagation,
            "prune": {"method": "wanda", "sparsity": sparsity},
            "evaluate": {"perplexity": [{"sequence_length": length, "max_windows": scored}], "latency": False},
        }
        source = {"kind": "local", "path": str(DEMO_MODEL)}
        job = bench.work(bench.add(request={"source": source, "spec": spec, "reuse": reuse}))
        assert job.state == "succeeded", job.error
        assert job.report is not None
        assert job.reused_from is None
        return float(sum(phase["seconds"] for phase in job.report["phases"] if not phase["reused_from"]))

    both = seconds(0.5, "auto"), seconds(0.7, "auto")
    alone = seconds(0.5, "never")
    ratio = sum(both) / alone
    sys.stdout.write(f"two sparsities, {propagation} propagation: {ratio:.2f} x one job\n")
    assert ratio <= max_ratio
