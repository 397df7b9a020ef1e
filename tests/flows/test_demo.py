"""The first thing that a newcomer types."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.cli.report import facts
from tests.fixtures.suite.pages import README, block
from tests.fixtures.suite.patience import outlive

ESPALIER = Path(sys.executable).with_name("espalier")


@pytest.mark.slow
def test_the_demo_ends_with_numbers_and_a_folder_that_stock_transformers_loads(tmp_path: Path) -> None:
    done = subprocess.run([ESPALIER, "demo", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *events, result = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["type"] == "job.succeeded"

    report = result["report"]
    phases = {phase["name"]: phase for phase in report["phases"]}
    dense = report["dense"]["perplexity"]["python-docs"]
    pruned, reconstructed, retrained = (
        phases[name]["perplexity"]["python-docs"] for name in ("pruning", "reconstructing", "retraining")
    )
    assert dense < reconstructed < pruned
    assert retrained < reconstructed
    assert report["compressed"]["perplexity"]["python-docs"] == pytest.approx(retrained, rel=1e-3)
    assert report["sparsity"]["achieved"] == pytest.approx(0.6, abs=0.005)
    assert all(phase["seconds"] >= 0 for phase in report["phases"])
    assert len(result["generated"]) > len("The import statement")
    assert (tmp_path / "demo-output/manifest.json").is_file()
    _nothing_is_left(tmp_path)
    _is_what_the_readme_prints(report, [dense, pruned, reconstructed, retrained, retrained])


def _is_what_the_readme_prints(report: dict[str, Any], scores: list[float]) -> None:
    printed = block(README, "See it work", "", "the artifact, reloaded")
    rows = re.findall(r"^│ [a-z, ]+│ (\d+\.\d+) ", printed, re.MULTILINE)
    # Other machines sum in another order.
    assert [float(row) for row in rows] == pytest.approx(scores, rel=0.01)
    same = [line for line in facts(report) if line.split()[0] in {"sparsity", "bytes", "trained"}]
    assert len(same) == 3
    assert [line for line in same if line not in printed] == []


def _nothing_is_left(folder: Path) -> None:
    assert [process.cmdline() for process in psutil.process_iter() if _belongs(process, folder)] == []


def test_an_interrupted_demo_takes_its_service_along(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [ESPALIER, "demo", "--json"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["type"] == "job.created"
    process.kill()  # not even a chance to clean up
    process.wait()
    process.stdout.close()
    gone = [child for child in psutil.process_iter() if _belongs(child, tmp_path)]
    outlive(gone)
    _nothing_is_left(tmp_path)


def _belongs(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.environ().get("ESPALIER_HOME", "").startswith(str(folder))
    except psutil.Error:
        return False
