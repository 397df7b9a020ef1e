"""Database first, store second: what was finished can be read from the copy, and what ran goes on."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.app.api.conftest import submit
from tests.fixtures import rows


def test_a_copy_of_database_and_store_is_a_whole_installation(sqlite_url: str, tmp_path: Path) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    app = create_app(Settings(home=home, database_url=sqlite_url))
    with TestClient(app) as client:
        resources = app.state.resources
        done, running = submit(client), submit(client)
        rows.start(resources.database, done)
        rows.publish(resources.database, resources.store, done, {"model.safetensors": b"weights"})
        rows.start(resources.database, running)
        copy.mkdir()
        source = sqlite_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(copy / "espalier.db")) as new:
            old.backup(new)  # while the service runs
        shutil.copytree(home / "store", copy / "store")
        told = client.get(f"/v1/jobs/{done}/report").json()
    shutil.rmtree(home)
    with TestClient(create_app(Settings(home=copy))) as client:
        assert client.get("/readyz").status_code == 200
        assert client.get(f"/v1/jobs/{done}/report").json() == told
        artifact = client.get(f"/v1/jobs/{done}/artifacts").json()["items"][0]
        assert client.get(artifact["urls"]["download"]).content == b"weights"
        assert client.get(f"/v1/jobs/{running}").json()["state"] == "running"  # until its lease lapses
