"""`python -m tests.browser.screenshots [PAGE... | docs]`: every page, light and dark, wide and narrow, as pictures;
`docs` takes those of docs/portal.md instead."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.browser.fixture_data import FixtureData, with_fixture_data
from tests.browser.observer import chromium, launched, observing
from tests.browser.site import serving

FOLDER = Path(__file__).resolve().parents[2] / "screenshots"
WIDTHS = {"wide": 1280, "narrow": 390}


def shoot(browser: Browser, data: FixtureData, names: list[str]) -> int:
    """Take the pictures of some pages, or of all."""
    taken = 0
    FOLDER.mkdir(exist_ok=True)
    for scheme in ("light", "dark"):
        for word, width in WIDTHS.items():
            options = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}, "reduced_motion": "reduce"}
            with observing(browser, data.site.url, **options) as observer:
                observer.expected = ("404",)
                for name in names or data.pages:
                    page = observer.page(data.ready_for(name).removeprefix(observer.origin))
                    page.screenshot(path=FOLDER / f"{name}-{scheme}-{word}.png", full_page=True)
                    taken += 1
                    overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                    if overflow > 0:
                        print(f"{name} is {overflow} pixels wider than its {word} window")  # noqa: T201
                    page.close()
    return taken


def for_the_docs(browser: Browser, data: FixtureData) -> int:
    """Take the two small pictures that docs/portal.md shows."""
    pictures = {"jobs": "jobs", "front": "sweep"}
    with observing(
        browser, data.site.url, viewport={"width": 1240, "height": 660}, reduced_motion="reduce"
    ) as observer:
        for name, path in pictures.items():
            observer.page(data.pages[path]).screenshot(path=FOLDER.parent / f"docs/portal-{name}.png")
    return len(pictures)


def main(names: list[str]) -> None:
    """Furnish an installation, and photograph it."""
    executable = chromium()
    if executable is None:
        sys.exit("no chromium: apt-get install chromium, or set ESPALIER_CHROMIUM")
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "home") as site:
        data = with_fixture_data(site)
        with sync_playwright() as playwright:
            browser = launched(playwright, executable)
            taken = for_the_docs(browser, data) if names == ["docs"] else shoot(browser, data, names)
            print(f"{taken} pictures")  # noqa: T201
            browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
