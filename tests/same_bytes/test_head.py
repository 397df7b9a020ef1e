"""The tool against itself: the last commit and the working tree, on real services."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.same_bytes.__main__ import main
from tests.same_bytes.trees import ROOT


@pytest.mark.deep
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git repository, so no older commit")
def test_the_last_commit_gives_the_bytes_of_the_working_tree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--only", "^(family-llama|magnitude|soup-order)$", "--resume", "0.5", "--work", str(tmp_path)]
    status = main(["HEAD", *asked])
    output = capsys.readouterr().out
    assert status == 0, output
    assert output.splitlines()[-1] == "3 jobs, 18 files: 0 differ; 2 resumed: 0 differ"
