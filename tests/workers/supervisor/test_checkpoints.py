"""Checkpoints on their way to the store."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from app.storage.directory import DirectoryStore
from espalier.messages import Checkpoint
from workers.messages import StoredInStore
from workers.supervisor.checkpoints import CheckpointUploader


def _checkpoint(workspace: Path, name: str, stem: str) -> Checkpoint:
    path = workspace / f"{stem}.safetensors"
    path.write_bytes(stem.encode())
    sha256 = hashlib.sha256(stem.encode()).hexdigest()
    return Checkpoint(phase="retraining", name=name, path=path.name, sha256=sha256, bytes=len(stem))


def _store_all(uploader: CheckpointUploader) -> list[StoredInStore]:
    stored = []
    while not uploader.idle:
        stored += uploader.stored()
        time.sleep(0.01)
    return stored


def test_a_replaced_training_state_leaves_the_workspace_once_the_newer_one_is_stored(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    uploader = CheckpointUploader(DirectoryStore(tmp_path / "store"), "job/", workspace)
    for name, stem in (("state", "state-1"), ("state", "state-2"), ("trained", "trained"), ("state", "state-3")):
        uploader.add(_checkpoint(workspace, name, stem))
    stored = _store_all(uploader)
    uploader.close()
    assert [item.name for item in stored] == ["state", "state", "trained", "state"]
    assert {path.name for path in workspace.iterdir()} == {"state-3.safetensors", "trained.safetensors"}
