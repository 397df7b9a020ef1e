"""`espalier run`: the same job without a service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from tests.fixtures.library.demo_model import DEMO_MODEL

ESPALIER = Path(sys.executable).with_name("espalier")


def run(folder: Path, *flags: str, **spec: Any) -> subprocess.CompletedProcess[str]:
    (folder / "model").symlink_to(DEMO_MODEL)  # a path that is relative is relative to the file
    body = {
        "source": {"kind": "local", "path": "model"},
        "spec": {
            "prune": {"method": "magnitude", "sparsity": 0.5},
            "evaluate": {"perplexity": [{"sequence_length": 128, "max_windows": 4}]},
            **spec,
        },
    }
    (folder / "job.json").write_text(json.dumps(body))
    environment = {**os.environ, "ESPALIER_HOME": str(folder / "home"), "ESPALIER_THREADS": "1"}
    command = [str(ESPALIER), "run", "job.json", "--output", "out", *flags]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_job_runs_without_a_service(tmp_path: Path) -> None:
    # A folder of the user's that is named like one of ours must not be imported.
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers/__init__.py").write_text("raise SystemExit('imported from the current folder')")
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the artifact, reloaded" in done.stdout
    assert "50.00%" in done.stdout
    with safe_open(tmp_path / "out/model.safetensors", "pt") as tensors:
        assert len(list(tensors.keys())) > 40
    assert (tmp_path / "out/manifest.json").is_file()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"retrain": {"trainable": ["biases"]}}, "no biases"),
        pytest.param({"prune": {"method": "magnitude", "sparsity": 2}}, "sparsity", marks=pytest.mark.deep),
        pytest.param({"unknown": 1}, "unknown", marks=pytest.mark.deep),
    ],
)
def test_a_refused_spec_leaves_nothing_behind(spec: dict[str, Any], words: str, tmp_path: Path) -> None:
    done = run(tmp_path, **spec)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.deep
def test_machines_get_json_lines_that_end_with_the_result_and_a_rejected_gate_is_no_success(tmp_path: Path) -> None:
    done = run(tmp_path, "--json", gate={"max_perplexity": 1.5})
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["kind"] == "phase_started"
    assert lines[-1]["kind"] == "done"
    assert done.returncode == 1
    assert "gate was rejected" in done.stderr
