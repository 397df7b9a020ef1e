"""The tutorial of CONTRIBUTING.md, carried out as it is printed, in a copy of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.suite.pages import ROOT, block
from tests.fixtures.suite.scratch_copy import scratch_copy

PAGE, HEADING = "CONTRIBUTING.md", "Add a method"


@pytest.mark.deep
@pytest.mark.slow
def test_the_method_of_the_tutorial_is_one_file_and_prunes(tmp_path: Path) -> None:
    copy = scratch_copy(tmp_path)
    (path,) = re.findall(r"save it as `([\w/]+\.py)`", (ROOT / PAGE).read_text())
    copy.add({path: block(PAGE, HEADING, "python", "class PoweredWanda")})

    command = block(PAGE, HEADING, "bash").split()
    assert command[:3] == [".venv/bin/python", "-m", "pytest"]
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    contracts = subprocess.run(
        [sys.executable, *command[1:], "-q", "-n", "0", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert contracts.returncode == 0, contracts.stdout + contracts.stderr
    assert re.search(r"\d+ passed", contracts.stdout), contracts.stdout

    assert float(copy.run(block(PAGE, HEADING, "python", "espalier.compress"))) == pytest.approx(0.5, abs=0.005)
    assert "`powered_wanda`" in copy.run("from tests.docs.methods import page; print(page())")
