"""A browser, an installation with a team's worth of jobs in it, and one that works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.fixture_data import FixtureData, with_fixture_data
from tests.browser.site import Site, serving
from tests.fixtures.library.demo_model import DEMO_MODEL
from tests.fixtures.servers.processes import free_port
from tests.fixtures.service.deployment import Deployment

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.browser.observer import Observer, Observing

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before the tiers are told apart
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is of the tier `browser`."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("browser")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser; where it is missing the tier is skipped, and says so."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install '.[browser]'")
    from tests.browser import observer  # noqa: PLC0415 - needs the extra

    executable = observer.chromium()
    if executable is None:
        pytest.skip("no chromium: apt-get install chromium, or set ESPALIER_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = observer.launched(playwright, executable)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FixtureData]:
    """An installation in which every page has something to show; nothing in it works."""
    with serving(tmp_path_factory.mktemp("scene") / "home") as site:
        yield with_fixture_data(site)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An empty installation in which nothing works."""
    with serving(tmp_path / "home") as site:
        yield site


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """A whole installation with a worker; started again, it listens at the same port."""
    running = Deployment(
        tmp_path / "home",
        {
            "ESPALIER_LOCAL_ROOTS": str(DEMO_MODEL),
            "ESPALIER_LEASE_SECONDS": "4",
            "ESPALIER_THREADS": "1",
            "ESPALIER_PORT": str(free_port()),
        },
    )
    running.start()
    yield running
    running.stop()
    running.http.close()


@pytest.fixture
def observing(chromium: Browser) -> Observing:
    """Open a context at an origin: `with observing(url) as observer:`; a complaint of the browser fails the test."""
    from tests.browser import observer  # noqa: PLC0415 - needs the extra

    def opened(origin: str, **options: Any) -> AbstractContextManager[Observer]:
        return observer.observing(chromium, origin, **options)

    return opened
