"""What the documents print runs as it is printed: a newcomer's first shell, first script and first program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.service.deployment import Deployment
from tests.fixtures.suite.pages import README, ROOT, block

pytestmark = [pytest.mark.deep, pytest.mark.slow]
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like a checkout after `make setup`."""
    (tmp_path / "app").symlink_to(ROOT / "app")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def run(folder: Path, *command: str, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ESPALIER_")}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**inherited, "ESPALIER_THREADS": "2", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def address(deployment: Deployment) -> str:
    return str(deployment.http.base_url).rstrip("/")


def test_the_readmes_job_by_http(shared: Deployment, checkout: Path) -> None:
    script = block(README, "One job by HTTP", "bash").replace(ADDRESS, address(shared))
    shown = run(checkout, "bash", "-euo", "pipefail", "-c", script, ESPALIER_URL=address(shared))
    assert "the artifact, reloaded" in shown
    assert (checkout / "compressed/manifest.json").is_file()


def test_the_readmes_job_by_command_line(checkout: Path) -> None:
    (checkout / "job.yaml").write_text(block(README, "One job by command line", "yaml"))
    script = block(README, "One job by command line", "bash")
    shown = run(checkout, "bash", "-euo", "pipefail", "-c", script, ESPALIER_HOME=str(checkout / "home"))
    assert "gate         accepted" in shown
    assert json.loads((checkout / "small2of4/report.json").read_text())["sparsity"]["achieved"] == 0.5


def test_the_client_of_the_service(shared: Deployment, checkout: Path) -> None:
    script = block("docs/python.md", "A client of the service", "python").replace(ADDRESS, address(shared))
    assert run(checkout, sys.executable, "-c", script).splitlines()[-1] == "job.succeeded"
    assert (checkout / "compressed/manifest.json").is_file()
