"""A stored spec is read in one place, once per process; every other parse is of what somebody sends."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import Final

from tests.house.graph import ROOT

MODELS: Final = {"CompressionSpec", "JobRequest"}
READERS: Final = {"model_validate", "model_validate_json", "model_validate_strings", "parse_obj", "parse_raw"}
STORED: Final = "app/bodies/stored.py"
SENT: Final = {
    "app/api/endpoints/jobs/actions.py": "a clone: the old body with what the caller changes",
    "app/portal/pages/jobs/new_job.py": "a form",
    "app/services/hooks/decision.py": "a rule's template, filled from an event",
    "app/services/hooks/rules.py": "a template, as it is written",
    "app/services/plans/lookup.py": "a constant",
    "app/services/presets.py": "a preset, as it is written",
    "app/services/sweeps/sweeps.py": "the points of a grid, as it is sent",
    "workers/local_run.py": "the request of a run, from standard input",
}
"""Each parses once what is news; a list that may only become shorter."""


def test_stored_specs_are_read_in_one_place() -> None:
    files = [path for folder in ("app", "workers") for path in (ROOT / folder).rglob("*.py")]
    parses = Counter({str(path.relative_to(ROOT)): _parses(path) for path in files})
    assert +parses == {STORED: 2, **dict.fromkeys(SENT, 1)}


def test_a_parse_elsewhere_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.py"
    path.write_text("spec = CompressionSpec.model_validate_json(text)\nwish = bodies.JobRequest.model_validate(job)\n")
    assert _parses(path) == 2


def _parses(path: Path) -> int:
    nodes = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    called = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr in READERS]
    return sum(ast.unparse(node.value).rpartition(".")[2] in MODELS for node in called)
