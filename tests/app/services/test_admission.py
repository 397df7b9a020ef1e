"""What POST can know of paths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.bodies.job import JobRequest
from app.errors import InvalidRequest
from app.services.admission.admit import admit
from app.settings import Settings


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
