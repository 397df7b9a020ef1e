"""The portal on a fresh database, seen as a browser sees it: cookies kept, forms posted with their token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.main import create_app
from app.services.resources import Resources
from app.settings import Settings
from tests.app.portal.browser import Browser


@pytest.fixture
def settings(sqlite_url: str, tmp_path: Path) -> Settings:
    """An embedded installation."""
    return Settings(
        home=tmp_path / "home",
        database_url=sqlite_url,
        local_roots=str(tmp_path / "roots"),
        hf_endpoint="http://127.0.0.1:9",  # nobody answers: no test asks the real one
    )


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
    of_app: Resources = app.state.resources
    return of_app
