"""A criterion is one file: dropped beside the others it is validated, documented and at work, without another edit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NEWCOMER = '''
from typing import ClassVar, Literal
from workers.methods.base import Criterion

class Newcomer(Criterion):
    """Scores a weight by a power of its absolute value."""

    summary: ClassVar[str] = "A power of the magnitude."
    paper: ClassVar[str] = "none"

    method: Literal["newcomer"] = "newcomer"
    power: float = 1.0

    def score(self, weight_OI, statistics, *, generator):
        return weight_OI.abs() ** self.power
'''

USE = """
import json, sys
import workers.methods.criteria as package
package.__path__.append(sys.argv[1])
from app.main import create_app
assert "newcomer" in json.dumps(create_app().openapi())
assert "torch" not in sys.modules
from app.specs.job import CompressionSpec
(step,) = CompressionSpec.model_validate({"prune": {"method": "newcomer", "power": 2.0, "sparsity": 0.5}}).prune
import torch
from workers.methods.base import InputStatistics
score = step.score(torch.tensor([[3.0, -1.0]]), InputStatistics(tokens=0), generator=torch.Generator())
assert score.tolist() == [[9.0, 1.0]]
assert step.pattern.keep(score, sparsity=step.share).tolist() == [[True, False]]
"""


def test_a_dropped_file_is_in_openapi_and_at_work(tmp_path: Path) -> None:
    (tmp_path / "newcomer.py").write_text(NEWCOMER)
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
