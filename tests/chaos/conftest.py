"""Everything here belongs to `make chaos`; flows are launched as in the other flow tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.servers.hub import hub
from tests.fixtures.service.launch import launch

__all__ = ["hub", "launch"]

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this folder."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.chaos)
