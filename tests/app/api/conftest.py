"""The API on a fresh database of each kind, with a model that it may read."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.db.session import Database
from app.services.resources import Resources
from tests.fixtures.library.demo_model import copy_demo_model
from tests.fixtures.service.api import app, client, resources, settings

__all__ = ["app", "client", "resources", "settings"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model below the roots."""
    return copy_demo_model(tmp_path / "roots/model")


@pytest.fixture
def rows(resources: Resources) -> Database:
    """The application's database."""
    return resources.database
