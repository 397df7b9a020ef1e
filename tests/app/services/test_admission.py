"""What POST can know of paths, and of the memory of worker classes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from app.bodies.job import JobRequest
from app.errors import InvalidRequest
from app.services.admission.admit import admit
from app.settings import Settings
from tests.fixtures.library.tiny_models import write_tiny_model


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("loop", "bad-path"),  # a link to itself
        ("x" * 300, "bad-path"),  # longer than a file's name can be
        ("absent", "no-such-folder"),
        ("file", "no-such-folder"),
    ],
)
def test_a_path_at_which_no_model_can_lie_is_refused(name: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    body = {
        "source": {"kind": "local", "path": str(tmp_path / name)},
        "spec": {"prune": {"method": "magnitude", "sparsity": 0.5}},
    }
    with pytest.raises(InvalidRequest) as refusal:
        admit(JobRequest.model_validate_json(json.dumps(body)), Settings(local_roots=str(tmp_path)))
    assert [(item.pointer, item.code) for item in refusal.value.items] == [("/source/path", code)]
    assert ("this is a file" in refusal.value.items[0].detail) == (name == "file")


def test_what_no_worker_class_holds_is_refused_with_the_numbers(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    body = {
        "source": {"kind": "local", "path": str(model)},
        "spec": {"prune": {"method": "magnitude", "sparsity": 0.5}, "retrain": {"steps": 2}},
    }
    request = JobRequest.model_validate_json(json.dumps(body))
    with pytest.raises(InvalidRequest) as refusal:
        admit(request, Settings(local_roots=str(tmp_path), worker_classes="cpu=500e6"))
    (problem,) = refusal.value.items
    assert (problem.pointer, problem.code) == ("/spec/retrain", "no-worker-class")
    assert re.search(r"takes about \d+ bytes, and a job may take 500000000 in the largest", problem.detail)
    assert admit(request, Settings(local_roots=str(tmp_path), worker_classes="cpu=16e9")).worker_class == "cpu"
