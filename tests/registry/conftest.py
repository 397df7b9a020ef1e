"""A real MLflow server for a whole module, and installations that know it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.servers.processes import free_port
from tests.fixtures.service.launch import Launch, launching
from tests.registry.server import RealMlflow


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealMlflow]:
    """A running server."""
    server = RealMlflow(tmp_path_factory.mktemp("mlflow"), free_port())
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """Start installations that live as long as the module."""
    with launching(tmp_path_factory.mktemp("espalier")) as start:
        yield start
