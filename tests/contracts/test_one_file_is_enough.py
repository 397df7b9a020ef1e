"""A method is one file: dropped beside the others it is validated, documented and at work, without another edit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
from typing import ClassVar, Literal
import espalier.methods.base as base
from espalier.methods.lazy_torch import torch
"""
NEWCOMERS = {
    "criteria": '''
class Newcomer(base.Criterion):
    """Scores a weight by a power of its absolute value."""

    summary: ClassVar[str] = "A power of the magnitude."
    paper: ClassVar[str] = "none"

    method: Literal["powered"] = "powered"
    power: float = 1.0

    def score(self, weight_OI, statistics, *, generator):
        return weight_OI.abs() ** self.power
''',
    "patterns": '''
class Newcomer(base.Pattern):
    """Keeps the last inputs of every row, whatever they score."""

    summary: ClassVar[str] = "The last inputs stay."
    paper: ClassVar[str] = "none"

    kind: Literal["tail"] = "tail"

    def label(self):
        return "tail"

    def line(self, shape):
        return shape[1]

    def keep(self, score_OI, *, sparsity):
        inputs = torch.arange(score_OI.shape[1])
        return (inputs >= round(sparsity * len(inputs))).expand(score_OI.shape).clone()
''',
    "budgets": '''
class Newcomer(base.Budget):
    """Takes twice as much from the first matrix as from the second, and so on by turns."""

    summary: ClassVar[str] = "By turns more and less."
    paper: ClassVar[str] = "none"

    kind: Literal["by_turns"] = "by_turns"

    def shares(self, sparsity, matrices):
        return {matrix.name: sparsity * (1.5 if "up" in matrix.name else 0.5) for matrix in matrices}
''',
    "mask_optimizers": '''
class Newcomer(base.MaskOptimizer):
    """Turns every row's mask around."""

    summary: ClassVar[str] = "Mirrors the mask."
    paper: ClassVar[str] = "none"

    kind: Literal["mirror"] = "mirror"

    def improve(self, weight_OI, mask_OI, score_OI, statistics, *, pattern, sparsity):
        return mask_OI.flip(1)
''',
    "solvers": '''
class Newcomer(base.Solver):
    """Makes every kept weight a tiny bit larger."""

    summary: ClassVar[str] = "Adds a constant."
    paper: ClassVar[str] = "none"

    kind: Literal["larger"] = "larger"
    by: float = 2.0**-9

    def solve(self, weight_OI, mask_OI, statistics, *, pattern, sparsity, generator):
        return base.Refit((weight_OI + self.by) * mask_OI, mask_OI)
''',
}
PRUNE = {
    "method": "powered",
    "power": 2.0,
    "sparsity": 0.5,
    "pattern": {"kind": "tail"},
    "budget": {"kind": "by_turns"},
    "optimizer": {"kind": "mirror"},
    "update": {"kind": "larger"},
    "targets": {"include": ["up_proj", "gate_proj"]},
}

USE = """
import importlib, json, sys
from pathlib import Path

import pytest
root, prune = Path(sys.argv[1]), json.loads(sys.argv[2])
for package in ("criteria", "patterns", "budgets", "mask_optimizers", "solvers"):
    importlib.import_module(f"espalier.methods.{package}").__path__.append(str(root / package))
from app.main import create_app
shown = json.dumps(create_app().openapi())
for name in ("powered", "tail", "by_turns", "mirror", "larger"):
    assert f'"{name}"' in shown, name
assert "torch" not in sys.modules
from tests.fixtures.library.jobs import local_job, write_texts
from tests.fixtures.library.tiny_models import write_tiny_model
model, texts = write_tiny_model(root / "model"), write_texts(root)
job = local_job(root / "job", model, texts, prune=prune)
report = job.attempt().report
assert report["sparsity"]["achieved"] == 0.5
shares = {row.name.rpartition(".")[2]: (row.sparsity_achieved, row.pattern) for row in job.layers}
assert shares == {"up_proj": (0.75, "tail"), "gate_proj": (0.25, "tail")}, shares
assert len(job.layers) == 4
from safetensors.torch import load_file
name = "model.layers.0.mlp.up_proj.weight"
new, old = load_file(job.artifact / "model.safetensors")[name], load_file(model / "model.safetensors")[name]
assert not bool(new[:, 8:].any())
moved = (new - old)[:, :8].float()
assert bool((moved.abs() <= 2**-5).all())
"""


@pytest.mark.deep
@pytest.mark.slow
def test_dropped_files_are_in_openapi_and_at_work(tmp_path: Path) -> None:
    for package, source in NEWCOMERS.items():
        (tmp_path / package).mkdir()
        (tmp_path / package / f"newcomer_{package}.py").write_text(HEAD + source)
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path), json.dumps(PRUNE)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
