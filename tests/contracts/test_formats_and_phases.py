"""A format of artifacts is one file, and a phase of a job three: added to a copy, they are at work everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.suite.scratch_copy import scratch_copy

FORMAT = '''
"""Every dense file once more, compressed."""

import gzip
from typing import ClassVar, Literal

from espalier.formats.base import ArtifactFormat


class ZippedFormat(ArtifactFormat):
    """Archives in the place of dense files."""

    summary: ClassVar[str] = "an archive of each file"
    how_to_load: ClassVar[str] = "After gunzip it loads with stock transformers"
    keeps_dense: ClassVar[bool] = False
    drops_zeros: ClassVar[bool] = True

    format: Literal["zipped"] = "zipped"

    def write(self, dense):
        """Compress every file."""
        archives = [path.with_name(path.name + ".gz") for path in dense]
        for path, archive in zip(dense, archives, strict=True):
            archive.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
            assert gzip.decompress(archive.read_bytes()) == path.read_bytes()
        return archives
'''
USE_FORMAT = """
from pathlib import Path
from app.main import create_app
assert '"zipped"' in str(create_app().openapi()).replace("'", '"')
assert "torch" not in sys.modules
from tests.fixtures.library.jobs import local_job, write_texts
from tests.fixtures.library.tiny_models import write_tiny_model
root = Path(sys.argv[1])
job = local_job(root / "job", write_tiny_model(root / "model"), write_texts(root), output={"format": "zipped"})
report = job.attempt().report
names = {path.name for path in job.artifact.iterdir()}
assert "model.safetensors.gz" in names and "model.safetensors" not in names, names
assert report["compressed"]["packed_bytes"] == (job.artifact / "model.safetensors.gz").stat().st_size
assert "After gunzip" in (job.artifact / "README.md").read_text()
"""


@pytest.mark.deep
def test_a_format_is_one_file(tmp_path: Path) -> None:
    copy = scratch_copy(tmp_path / "copy")
    copy.add({"espalier/formats/zipped.py": FORMAT})
    copy.run(USE_FORMAT, str(tmp_path))


PHASE = '''
"""The phase `rounding`: kept weights lose their last bits."""

import time

from espalier.session.resume import finish_block, restore_block
from espalier.session import Session


def run(session: Session) -> None:
    """Round every pruned matrix, block by block."""
    blocks = session.streamed.layout.blocks
    with session.reporter.phase("rounding", total=len(blocks), unit="block") as phase:
        for index, block in enumerate(blocks):
            if restore_block(session, phase, index) is None:
                began, tensors = time.monotonic(), {}
                for matrix in block.matrices:
                    tensors[matrix.tensor] = session.weights.get(matrix.tensor).mul(64).round().div(64)
                finish_block(session, phase, index, tensors, {}, seconds=time.monotonic() - began)
            phase.progress(index + 1)
'''
ROW = '    PhaseInfo("rounding", 4, field="round_weights", stage="rounded", module="espalier.export.rounding"),\n'
FIELD = "    round_weights: bool = False\n"
USE_PHASE = """
from pathlib import Path
from app.main import create_app
shown = str(create_app().openapi())
assert "'rounding'" in shown and "'round_weights'" in shown
assert "torch" not in sys.modules
from workers.supervisor.progress import overall
spec = {"round_weights": True}
ends = [overall(spec, phase, 1, 1) for phase in ("pruning", "rounding", "exporting", "evaluating")]
assert ends == sorted(set(ends)), ends
assert overall({}, "exporting", 1, 1) > 0
from tests.fixtures.library.jobs import local_job, write_texts
from tests.fixtures.library.tiny_models import write_tiny_model
root = Path(sys.argv[1])
job = local_job(root / "job", write_tiny_model(root / "model"), write_texts(root), round_weights=True)
report = job.attempt().report
assert [phase["name"] for phase in report["phases"]][-3:] == ["rounding", "exporting", "evaluating"]
from safetensors.torch import load_file
weight = load_file(job.artifact / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].float() * 64
assert bool((weight == weight.round()).all())
again = job.attempt()
assert {message.phase for message in job.messages if message.kind == "checkpoint"} == set()
"""


@pytest.mark.deep
def test_a_phase_is_three_files(tmp_path: Path) -> None:
    copy = scratch_copy(tmp_path / "copy")
    copy.add({"espalier/export/rounding.py": PHASE})
    names = {'    "exporting",\n': '    "rounding",\n    "exporting",\n'}
    rows = {'    PhaseInfo("exporting"': f'{ROW}    PhaseInfo("exporting"'}
    copy.change("espalier/recipe/phases.py", names | rows)
    last = "    output: Output = Output()\n"
    copy.change("espalier/recipe/spec.py", {last: last + FIELD})
    copy.run(USE_PHASE, str(tmp_path))
