"""What axe, the accessibility checker, says of a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page


def findings_of(page: Page, **options: Any) -> list[str]:
    """What axe calls serious or critical."""
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415 - needs the extra

    violations = Axe().run(page, options={"resultTypes": ["violations"], **options}).response["violations"]
    return [
        f"{item['id']}: {node['html'][:160]} ({node['failureSummary'][:200]})"
        for item in violations
        if item["impact"] in {"serious", "critical"}
        for node in item["nodes"]
    ]
