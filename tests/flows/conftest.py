"""Running installations for the flow tests: the embedded set of services and the production set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fixtures.library.reference import reference_folder
from tests.fixtures.service.deployment import Deployment

DEMO_MODEL = Path(__file__).parents[2] / "app/cli/demo_model"

Launch = Callable[..., Deployment]


@contextmanager
def launching(folder: Path) -> Iterator[Launch]:
    """Start installations in their own folders below `folder`; all are ended at the end."""
    running: list[Deployment] = []

    def start(name: str = "home", **environment: str) -> Deployment:
        defaults = {"ESPALIER_LOCAL_ROOTS": f"{DEMO_MODEL}:{folder}", "ESPALIER_LEASE_SECONDS": "6"}
        deployment = Deployment(folder / name, defaults | environment)
        running.append(deployment)
        deployment.start()
        return deployment

    try:
        yield start
    finally:
        for deployment in running:
            deployment.stop()
            deployment.http.close()


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One installation for all tests of this folder that need nothing special of it."""
    roots = [DEMO_MODEL, tmp_path_factory.getbasetemp(), reference_folder()]
    with launching(tmp_path_factory.mktemp("shared")) as start:
        yield start(ESPALIER_LOCAL_ROOTS=":".join(str(root) for root in roots if root))


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start installations that live as long as the test."""
    with launching(tmp_path) as start:
        yield start
