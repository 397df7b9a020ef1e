"""Running installations for the flow tests: the embedded set of services and the production set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.library.reference import reference_folder
from tests.fixtures.service.deployment import Deployment
from tests.fixtures.service.launch import launch, launching

__all__ = ["launch"]


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One installation for all tests of this folder that need nothing special of it."""
    roots = [DEMO_MODEL, tmp_path_factory.getbasetemp(), reference_folder()]
    with launching(tmp_path_factory.mktemp("shared")) as start:
        yield start(ESPALIER_LOCAL_ROOTS=":".join(str(root) for root in roots if root))
