"""A method is one file: dropped beside the others it is validated, documented and at work, without another edit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HEAD = """
from typing import ClassVar, Literal
import espalier.methods.base as base
import espalier.methods.structured as structured
from espalier.methods.lazy_torch import torch
from espalier.methods.statistic import InputStatistic
"""
NEWCOMERS = {
    "statistics": '''
class Loudest(InputStatistic):
    """The largest absolute value of every input."""

    name: ClassVar[str] = "loudest"

    def add(self, input_TI):
        zero_1I = torch.zeros_like(input_TI[:1] if len(input_TI) else input_TI.new_zeros(1, input_TI.shape[1]))
        loudest_I = torch.cat([zero_1I, input_TI.abs()]).amax(dim=0).double()
        self.total = loudest_I if self.total is None else torch.maximum(self.total, loudest_I)

    def value(self, *, routed):
        return self.total
''',
    "criteria": '''
from espalier.methods.statistics.newcomer_statistics import Loudest

class Newcomer(base.Criterion):
    """Scores a weight by a power of its absolute value times the largest input that it meets."""

    summary: ClassVar[str] = "A power of the magnitude, times the loudest input."
    paper: ClassVar[str] = "none"
    statistics: ClassVar = (Loudest,)

    method: Literal["powered"] = "powered"
    power: float = 1.0

    def score(self, problem):
        return problem.weight_OI.abs().double() ** self.power * problem.statistics[Loudest]
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

    def sparsities(self, sparsity, matrices):
        return {matrix.name: sparsity * (1.5 if "up" in matrix.name else 0.5) for matrix in matrices}
''',
    "mask_optimizers": '''
class Newcomer(base.MaskOptimizer):
    """Turns every row's mask around."""

    summary: ClassVar[str] = "Mirrors the mask."
    paper: ClassVar[str] = "none"

    kind: Literal["mirror"] = "mirror"

    def improve(self, problem):
        return problem.mask_OI.flip(1)
''',
    "solvers": '''
class Newcomer(base.Solver):
    """Makes every kept weight a tiny bit larger."""

    summary: ClassVar[str] = "Adds a constant."
    paper: ClassVar[str] = "none"

    kind: Literal["larger"] = "larger"
    by: float = 2.0**-9

    def solve(self, problem):
        return base.Refit((problem.weight_OI + self.by) * problem.mask_OI, problem.mask_OI)
''',
    "depth": '''
class Newcomer(structured.BlockCriterion):
    """Takes the blocks that are missed least one by one, without trying again."""

    summary: ClassVar[str] = "The blocks that are missed least go at once."
    paper: ClassVar[str] = "none"

    method: Literal["at_once"] = "at_once"
    spared: int = 0

    def choose(self, evidence, *, count):
        blocks = range(self.spared, evidence.num_blocks)
        every = range(evidence.num_blocks)
        losses = [(evidence.loss([other for other in every if other != index]), index) for index in blocks]
        return sorted(index for _, index in sorted(losses)[:count])
''',
    "width": '''
class Newcomer(structured.UnitScore):
    """Scores a unit by its number and its largest weight."""

    summary: ClassVar[str] = "Units with no large weight go."
    paper: ClassVar[str] = "none"

    method: Literal["largest"] = "largest"

    def score(self, evidence):
        return evidence.weight_OI.double().abs().amax(dim=0).view(-1, evidence.size).amax(dim=1)
''',
    "experts": '''
class Newcomer(structured.ExpertCriterion):
    """Scores an expert by all that it adds."""

    summary: ClassVar[str] = "Experts that add little go."
    paper: ClassVar[str] = "none"

    method: Literal["adding"] = "adding"

    def score(self, routing):
        return routing.weighed_E
''',
}
WEIGHTS: dict[str, Any] = {
    "method": "powered",
    "power": 2.0,
    "sparsity": 0.5,
    "pattern": {"kind": "tail"},
    "budget": {"kind": "by_turns"},
    "optimizer": {"kind": "mirror"},
    "update": {"kind": "larger"},
    "targets": {"include": ["up_proj", "gate_proj"]},
}
PARTS: list[dict[str, Any]] = [
    {"method": "at_once", "spared": 1, "sparsity": 0.5},
    {"method": "largest", "sparsity": 0.5, "pattern": {"kind": "kv_groups"}},
    {"method": "adding", "sparsity": 0.5},
]
NAMES = ["powered", "tail", "by_turns", "mirror", "larger", "at_once", "largest", "adding"]

DROPPED = """
import importlib, json, sys
from pathlib import Path

import pytest
root, names, steps = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
for file in root.glob("*/newcomer_*.py"):
    importlib.import_module(f"espalier.methods.{file.parent.name}").__path__.append(str(file.parent))
"""
SHOWN = """
from app.api.endpoints.planning.methods import list_methods
from app.main import create_app
from app.portal.spec_form.build import tree
from app.portal.spec_form.values import filled
openapi = json.dumps(create_app().openapi())
catalogue = list_methods().model_dump_json()
form = repr(tree(filled({"spec": {"prune": steps}}, {}), {}))
for name in names:
    assert f'"{name}"' in openapi, name
    assert f'"name":"{name}"' in catalogue, name
    assert f"'{name}'" in form, name
assert "torch" not in sys.modules
"""
RUN = """
from safetensors.torch import load_file
from tests.fixtures.library.jobs import local_job, write_texts
from tests.fixtures.library.tiny_models import write_tiny_model
def run(family, **settings):
    model, texts = write_tiny_model(root / "model", family), write_texts(root)
    job = local_job(root / "job", model, texts, prune=steps, **settings)
    return model, job, job.attempt().report
"""
PRUNES_WEIGHTS = """
model, job, report = run("llama", propagation="dense")
assert report["sparsity"]["achieved"] == 0.5
shares = {row.name.rpartition(".")[2]: (row.sparsity_achieved, row.pattern) for row in job.layers}
assert shares == {"up_proj": (0.75, "tail"), "gate_proj": (0.25, "tail")}, shares
assert len(job.layers) == 4
name = "model.layers.0.mlp.up_proj.weight"
new, old = load_file(job.artifact / "model.safetensors")[name], load_file(model / "model.safetensors")[name]
assert not bool(new[:, 8:].any())
moved = (new - old)[:, :8].float()
assert bool((moved.abs() <= 2**-5).all())
stored = {name.rpartition("-")[0] for _, name in job.stored if "inputs" in name}
assert stored == {"gram-loudest-inputs"}, stored
"""
REMOVES_PARTS = """
model, job, report = run("mixtral")
removed = {row["method"]: row for row in report["protocol"]["structure"]}
assert removed["at_once"]["removed_blocks"] == [1], removed
assert (removed["largest"]["kept"], removed["largest"]["of"]) == (1, 2), removed
assert (removed["adding"]["kept"], removed["adding"]["of"]) == (2, 4), removed
"""
CONTRACTS = """
files = [f"tests/contracts/test_every_{axis}.py" for axis in ("criterion", "method", "structured_method")]
chosen = " or ".join(f"{name}]" for name in names)
sys.exit(pytest.main([*files, "-q", "-k", chosen, "-p", "no:cacheprovider"]))
"""


def _with_newcomers(folder: Path, script: str, names: list[str], steps: list[dict[str, Any]]) -> str:
    """Run a script in a process of its own, where the newcomers lie beside the others."""
    for package, source in NEWCOMERS.items():
        (folder / package).mkdir()
        (folder / package / f"newcomer_{package}.py").write_text(HEAD + source)
    done = subprocess.run(
        [sys.executable, "-c", DROPPED + script, str(folder), json.dumps(names), json.dumps(steps)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.deep
@pytest.mark.slow
def test_dropped_files_are_in_openapi_the_catalogue_and_the_form_and_at_work(tmp_path: Path) -> None:
    _with_newcomers(tmp_path, SHOWN + RUN + PRUNES_WEIGHTS, NAMES, [WEIGHTS])


@pytest.mark.deep
@pytest.mark.slow
def test_dropped_methods_remove_blocks_heads_and_experts(tmp_path: Path) -> None:
    _with_newcomers(tmp_path, RUN + REMOVES_PARTS, NAMES, PARTS)


@pytest.mark.deep
@pytest.mark.slow
def test_the_contracts_take_dropped_files_up(tmp_path: Path) -> None:
    names = ["powered", "at_once", "largest", "adding"]
    shown = _with_newcomers(tmp_path, CONTRACTS, names, [])
    assert int(re.search(r"(\d+) passed", shown)[1]) >= 20, shown  # type: ignore[index]
