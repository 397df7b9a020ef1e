"""The API on a fresh database of each kind, with a model that it may read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.db.session import Database
from app.main import create_app
from app.services.resources import Resources
from app.settings import Settings

DEMO_MODEL = Path(__file__).parents[3] / "app/cli/demo_model"
REMOTE: dict[str, Any] = {
    "source": {"kind": "huggingface", "repo": "org/model"},
    "spec": {"prune": {"method": "magnitude", "sparsity": 0.5}},
}


def copy_demo_model(folder: Path) -> Path:
    """Copy the demo's model, its tokenizer without the indentation that makes it too long to be read in the API itself:
    a test that is not about it need not wait for a process of its own."""
    shutil.copytree(DEMO_MODEL, folder)
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()), separators=(",", ":")))
    return folder


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """An embedded installation whose roots hold one model."""
    roots, nobody = str(tmp_path / "roots"), "http://127.0.0.1:9"  # a Hub that refuses every connection
    return Settings(home=tmp_path / "home", database_url=database_url, local_roots=roots, hf_endpoint=nobody)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model below the roots."""
    return copy_demo_model(tmp_path / "roots/model")


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    """The application, not yet started."""
    return create_app(settings)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client of the running application."""
    with TestClient(app, follow_redirects=False) as client:
        yield client


@pytest.fixture
def resources(app: FastAPI, client: TestClient) -> Resources:
    """What the running application works with."""
    found: Resources = app.state.resources
    return found


@pytest.fixture
def rows(resources: Resources) -> Database:
    """The application's database."""
    return resources.database


def submit(client: TestClient, **fields: Any) -> str:
    """Queue a job over a remote model and return its id."""
    answer = client.post("/v1/jobs", json={**REMOTE, **fields})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])
