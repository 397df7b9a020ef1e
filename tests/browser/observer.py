"""What a browser says while it is used: nothing may complain, and nothing may be asked of anybody else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Playwright, Request


def chromium() -> str | None:
    """The browser of this machine: what ESPALIER_CHROMIUM names, else Debian's."""
    return os.environ.get("ESPALIER_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


def launched(playwright: Playwright, executable: str) -> Browser:
    """Start the browser; a container has no sandbox to give it, and little shared memory."""
    return playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-dev-shm-usage"])


@dataclass
class Observer:
    """One browser context, and everything that it complained of."""

    context: BrowserContext
    origin: str
    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    """Requests that left the origin."""
    dialogs: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ()
    """Parts of complaints that a test brings about on purpose."""
    answers: bool = True
    """What questions before a deletion are answered."""

    def __post_init__(self) -> None:
        self.context.on("request", self._request)
        self.context.on("console", self._console)
        self.context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        self.context.on("dialog", self._dialog)

    def page(self, path: str) -> Page:
        """Open a page in a new tab."""
        page = self.context.new_page()
        page.goto(self.origin + path)
        return page

    def _request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.origin}/", "data:", "blob:")):
            self.elsewhere.append(request.url)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not any(part in message.text for part in self.expected):
            self.complaints.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def _dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        if self.answers:
            dialog.accept()
        else:
            dialog.dismiss()

    def quiet(self) -> None:
        """Nothing complained, and nothing was asked of another origin."""
        assert not self.complaints, self.complaints
        assert not self.elsewhere, self.elsewhere


@contextmanager
def observing(browser: Browser, origin: str, **options: Any) -> Iterator[Observer]:
    """Open a context, and check at the end of the block that all was quiet."""
    context = browser.new_context(**options)
    context.set_default_timeout(20_000)
    observer = Observer(context, origin)
    try:
        yield observer
        observer.quiet()
    finally:
        context.close()


Observing = Callable[..., AbstractContextManager[Observer]]
"""Opens a context at an origin."""
