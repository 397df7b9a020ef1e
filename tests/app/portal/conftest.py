"""The portal on a fresh database, seen as a browser sees it: cookies kept, forms posted with their token."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response

from app.main import create_app
from app.services.resources import Resources
from app.settings import Settings

REMOTE: dict[str, Any] = {
    "source": {"kind": "huggingface", "repo": "org/model"},
    "spec": {"prune": {"method": "magnitude", "sparsity": 0.5}},
}


class Browser:
    """A browser without JavaScript."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.csrf = ""

    def get(self, path: str, **headers: str) -> Response:
        """Open a page, and note the token of its forms."""
        answer = self.client.get(path, headers={"accept": "text/html", **headers})
        if found := re.search(r'name="csrf" value="([0-9a-f]{64})"', answer.text):
            self.csrf = found[1]
        return answer

    def post(self, path: str, fields: dict[str, Any] | None = None, **headers: str) -> Response:
        """Post a form of the page that was opened last."""
        return self.client.post(path, data={"csrf": self.csrf, **(fields or {})}, headers=headers)

    def submit(self, **fields: Any) -> str:
        """Queue a job by the API and return its id."""
        answer = self.client.post("/v1/jobs", json={**REMOTE, **fields})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])


@pytest.fixture
def settings(sqlite_url: str, tmp_path: Path) -> Settings:
    """An embedded installation."""
    return Settings(
        home=tmp_path / "home", database_url=sqlite_url, local_roots=str(tmp_path / "roots"),
        hf_endpoint="http://127.0.0.1:9",  # nobody answers: no test asks the real one
    )  # fmt: skip


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    """The application, not yet started."""
    return create_app(settings)


@pytest.fixture
def browser(app: FastAPI) -> Iterator[Browser]:
    """A browser at the running application."""
    with TestClient(app, follow_redirects=False, base_url="http://localhost") as client:
        yield Browser(client)


@pytest.fixture
def resources(app: FastAPI, browser: Browser) -> Resources:
    """What the running application works with."""
    found: Resources = app.state.resources
    return found
